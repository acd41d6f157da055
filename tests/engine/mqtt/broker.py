"""A real Mosquitto on loopback, somebody who listens to it, and a line to it that can be cut."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import socket
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import aiomqtt
import jsonschema

MOSQUITTO = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")
USER, PASSWORD = "engine", "a password with spaces: ä"
SCHEMA = json.loads((Path(__file__).resolve().parents[3] / "schemas" / "mqtt.schema.json").read_text())
JPEG = b"\xff\xd8"


def free_port() -> int:
    """A port of loopback that nobody uses."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Broker:
    """One Mosquitto with users `engine` and `watcher`. It drops root, so its folder belongs to its user."""

    def __init__(self, folder: Path, *lines: str, acl: str = "", tls: Path | None = None) -> None:
        assert MOSQUITTO is not None
        self.port = free_port()
        self.folder = folder
        folder.mkdir(exist_ok=True)
        passwords = folder / "passwords"
        passwords.touch()
        for user in (USER, "watcher"):
            subprocess.run(["mosquitto_passwd", "-b", str(passwords), user, PASSWORD], check=True, capture_output=True)
        config = [f"listener {self.port} 127.0.0.1", "allow_anonymous false", f"password_file {passwords}", *lines]
        if tls is not None:
            config += [f"{key}file {tls / name}" for key, name in (("cert", "server.pem"), ("key", "server.key"))]
        if acl:
            (folder / "acl").write_text(f"{acl}\nuser watcher\ntopic readwrite #\n")
            config.append(f"acl_file {folder / 'acl'}")
        (folder / "mosquitto.conf").write_text("\n".join(config) + "\n")
        if os.geteuid() == 0:
            for path in (folder, *folder.iterdir(), *(tls.iterdir() if tls else ()), *([tls] if tls else ())):
                shutil.chown(path, "mosquitto", "mosquitto")
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start, and wait until it answers."""
        assert MOSQUITTO is not None
        command = [MOSQUITTO, "-c", str(self.folder / "mosquitto.conf")]
        with (self.folder.parent / "mosquitto.log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        for _ in range(400):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return
            time.sleep(0.025)
        raise AssertionError((self.folder.parent / "mosquitto.log").read_text())

    def stop(self) -> None:
        """End it; what it retained is gone."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(10)
            self._process = None


@dataclass
class Heard:
    """One message."""

    topic: str
    payload: bytes
    retain: bool
    at_s: float


@dataclass
class Ear:
    """A client that hears everything and checks it against the schema."""

    port: int
    tls: Any = None
    messages: list[Heard] = field(default_factory=list)
    client: aiomqtt.Client | None = None
    _task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self.client = aiomqtt.Client(
            "127.0.0.1",
            self.port,
            username="watcher",
            password=PASSWORD,
            tls_context=self.tls,
            protocol=aiomqtt.ProtocolVersion.V5,
        )
        await self.client.__aenter__()
        await self.client.subscribe("#", qos=1)
        self._task = asyncio.create_task(self._listen())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._task is not None
        assert self.client is not None
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        with contextlib.suppress(aiomqtt.MqttError):
            await self.client.__aexit__(None, None, None)

    async def _listen(self) -> None:
        assert self.client is not None
        with contextlib.suppress(aiomqtt.MqttError):
            async for message in self.client.messages:
                heard = Heard(str(message.topic), bytes(message.payload), message.retain, time.monotonic())
                self.messages.append(heard)

    async def say(self, topic: str, payload: bytes | str, *, retain: bool = False) -> None:
        """Publish."""
        assert self.client is not None
        await self.client.publish(topic, payload, qos=1, retain=retain)

    def of(self, ending: str) -> list[bytes]:
        """The payloads of the topics that end so, in their order."""
        return [heard.payload for heard in self.messages if heard.topic.endswith(ending)]

    def last(self, ending: str) -> bytes | None:
        """The newest of them."""
        return next(iter(reversed(self.of(ending))), None)

    def json(self, ending: str) -> Any:
        """The newest of them as a document; None where it is not there or empty."""
        payload = self.last(ending)
        return json.loads(payload) if payload else None

    def check(self) -> set[str]:
        """Hold everything that the engine said against the schema; the names of the topics that were said."""
        return {check_payload(heard.topic, heard.payload) for heard in self.messages}


def check_payload(topic: str, payload: bytes) -> str:
    """Validate a payload by `schemas/mqtt.schema.json`; returns the name of its topic there."""
    levels = topic.split("/")
    for name, entry in SCHEMA["topics"].items():
        wanted = name.split("/")
        same = len(wanted) == len(levels) and all(
            each == level or "{" in each for each, level in zip(wanted, levels, strict=True)
        )
        if not same:
            continue
        if not payload and entry["retained"]:
            return str(name)
        if entry["encoding"] == "jpeg":
            assert payload.startswith(JPEG), topic
            return str(name)
        document = payload.decode() if entry["encoding"] == "text" else json.loads(payload)
        schema = {"$defs": SCHEMA["$defs"], **entry["payload"]}
        validator = jsonschema.Draft202012Validator(schema, format_checker=jsonschema.FormatChecker())
        validator.validate(document)
        return str(name)
    raise AssertionError(f"{topic} is not in the schema")


class Line:
    """A TCP line to the broker: can be cut, can be frozen (half open), can refuse."""

    def __init__(self, broker_port: int) -> None:
        self.port = 0
        self.accepted = 0
        self.frozen = False
        self.refusing = False
        self._broker_port = broker_port
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._pumps: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()
        for pump in list(self._pumps):
            pump.cancel()
        await asyncio.gather(*self._pumps, return_exceptions=True)
        await self._server.wait_closed()

    def cut(self) -> None:
        """End all connections now."""
        for writer in list(self._writers):
            writer.transport.abort()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        if self.refusing:
            writer.transport.abort()
            return
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self._broker_port)
        self._writers |= {writer, up_writer}
        for source, sink in ((reader, up_writer), (up_reader, writer)):
            pump = asyncio.create_task(self._pump(source, sink))
            self._pumps.add(pump)
            pump.add_done_callback(self._pumps.discard)

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        try:
            while data := await source.read(65536):
                while self.frozen:  # noqa: ASYNC110 - the test thaws it
                    await asyncio.sleep(0.05)
                sink.write(data)
                await sink.drain()
        except OSError:
            pass
        finally:
            self._writers.discard(sink)
            sink.transport.abort()
