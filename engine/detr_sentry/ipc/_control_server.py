"""The serving side of the control socket: see `ControlServer`."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import socket
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

from detr_sentry.errors import ControlError, IpcError, SentryError

from . import _control_format as fmt

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from pathlib import Path

    Handler = Callable[[str, Mapping[str, Any]], Awaitable[Any]]

_log = logging.getLogger("detr_sentry.control")


class ControlServer:
    """Serves `handler(op, arguments)` to every client; the handler raises ControlError to refuse.

    `greeting` gives the pushes that a new subscriber gets first: the present state.
    """

    def __init__(self, path: Path, handler: Handler, *, greeting: Callable[[], list[dict[str, Any]]] = list) -> None:
        self.refused = 0  # connections beyond fmt.MAX_CLIENTS
        self.dropped_pushes = 0
        self.dropped_clients = 0  # too slow
        self._path = path
        self._handler = handler
        self._greeting = greeting
        self._clients: set[_Client] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._identity: tuple[int, int] = (0, 0)

    async def start(self) -> None:
        """Listen. A socket file that a dead controller left is replaced. Raises IpcError."""
        listener = await asyncio.to_thread(self._bind)
        self._server = await asyncio.start_unix_server(self._accept, sock=listener, limit=fmt.MAX_LINE_BYTES)

    def _bind(self) -> socket.socket:
        fresh = self._path.with_name(f"{self._path.name}.{os.getpid()}")
        fmt.check_path(fresh)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            fresh.unlink(missing_ok=True)
            listener.bind(str(fresh))
            fresh.chmod(0o600)
            listener.listen(fmt.MAX_CLIENTS)
            status = fresh.stat()
            self._identity = (status.st_dev, status.st_ino)
            fresh.rename(self._path)
        except OSError as error:
            listener.close()
            raise IpcError(f"{self._path}: cannot listen: {error}") from error
        listener.setblocking(False)
        return listener

    def _unbind(self) -> None:
        with contextlib.suppress(OSError):
            status = self._path.stat()
            if (status.st_dev, status.st_ino) == self._identity:  # not that of a controller that took over
                self._path.unlink()

    def push(self, kind: str, message: Mapping[str, Any], *, key: str | None = None) -> None:
        """Send to every subscriber, never waiting. With `key`, only the newest of that key is kept for a slow one."""
        line = fmt.encode({"push": kind, **message})
        for client in self._clients:
            if client.subscribed:
                self.dropped_pushes += client.push(line, None if key is None else f"{kind}:{key}")

    async def close(self) -> None:
        """Stop listening and disconnect everybody."""
        if self._server is not None:
            self._server.close()
            for task in list(self._tasks):
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            await self._server.wait_closed()
            self._server = None
            await asyncio.to_thread(self._unbind)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        client = _Client(reader, writer)
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        if len(self._clients) >= fmt.MAX_CLIENTS:
            self.refused += 1
            client.refuse()
        else:
            self._clients.add(client)
        try:
            if client in self._clients:
                await self._serve(client)
        except asyncio.CancelledError:
            pass  # close() ends the connection; asyncio's stream server would log a cancelled handler as an error
        finally:
            self._clients.discard(client)
            self._tasks.discard(task)
            await client.end()

    async def _serve(self, client: _Client) -> None:
        sending = asyncio.create_task(client.send_forever())
        receiving = asyncio.create_task(self._receive(client))
        try:
            await asyncio.wait({sending, receiving}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (sending, receiving):
                task.cancel()
            results = await asyncio.gather(sending, receiving, return_exceptions=True)
            self.dropped_clients += isinstance(results[0], TimeoutError)

    async def _receive(self, client: _Client) -> None:
        while True:
            try:
                line = await client.reader.readuntil(b"\n")
            except asyncio.LimitOverrunError:
                await client.answer(_refusal(None, "too_long", f"a request has at most {fmt.MAX_LINE_BYTES} bytes"))
                return
            except (asyncio.IncompleteReadError, ConnectionError):
                return
            await client.answer(await self._handle(client, line))

    async def _handle(self, client: _Client, line: bytes) -> dict[str, Any]:
        number: int | None = None
        try:
            request = json.loads(line)
            if not isinstance(request, dict) or not isinstance(request.get("op"), str):
                return _refusal(None, "invalid", 'a request is {"id": number, "op": text, ...}')
            arguments = {key: value for key, value in request.items() if key not in {"id", "op"}}
            if isinstance(request.get("id"), int):
                number = request["id"]
            if request["op"] == "subscribe":
                self._subscribe(client)
                return {"id": number, "ok": True, "result": None}
            return {"id": number, "ok": True, "result": await self._handler(request["op"], arguments)}
        except ControlError as error:
            return _refusal(number, error.code, str(error))
        except (ValueError, RecursionError):
            return _refusal(number, "invalid", "a request is one line of JSON")
        except SentryError as error:
            return _refusal(number, "internal", str(error))
        except Exception:  # noqa: BLE001 - one bad request must not end the service; the log has the traceback
            _log.exception("a control request failed")
            return _refusal(number, "internal", "the controller failed on this request; see its log")

    def _subscribe(self, client: _Client) -> None:
        if not client.subscribed:
            client.subscribed = True
            for index, message in enumerate(self._greeting()):
                client.push(fmt.encode(message), f"greeting:{index}")


def _refusal(number: int | None, code: str, text: str) -> dict[str, Any]:
    return {"id": number, "ok": False, "code": code, "error": text}


class _Client:
    """One connection of the server: an answer at a time, and pushes that wait their turn."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.subscribed = False
        self._writer = writer
        self._writer.transport.set_write_buffer_limits(high=fmt.MAX_LINE_BYTES)
        self._pushes: OrderedDict[str, bytes] = OrderedDict()
        self._unkeyed = 0
        self._answer: tuple[bytes, asyncio.Event] | None = None
        self._wake = asyncio.Event()

    def push(self, line: bytes, key: str | None) -> int:
        """Queue a push; returns how many were given up for it."""
        dropped = 0
        if key is None:
            self._unkeyed += 1
            key = f"\0{self._unkeyed:020}"
            events = [name for name in self._pushes if name.startswith("\0")]
            if len(events) >= fmt.MAX_EVENTS:
                del self._pushes[events[0]]
                dropped = 1
        else:
            dropped = self._pushes.pop(key, None) is not None
        self._pushes[key] = line
        self._wake.set()
        return int(dropped)

    async def answer(self, message: Mapping[str, Any]) -> None:
        """Send an answer; returns when the connection has taken it."""
        sent = asyncio.Event()
        self._answer = (fmt.encode(message), sent)
        self._wake.set()
        await sent.wait()

    async def send_forever(self) -> None:
        """Write answers and pushes. Raises TimeoutError for a client that takes nothing, OSError when it is gone."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._answer is not None or self._pushes:
                sent: asyncio.Event | None = None
                if self._answer is not None:
                    (line, sent), self._answer = self._answer, None
                else:
                    _, line = self._pushes.popitem(last=False)
                self._writer.write(line)
                async with asyncio.timeout(fmt.SEND_TIMEOUT_S):
                    await self._writer.drain()
                if sent is not None:
                    sent.set()

    def refuse(self) -> None:
        """Tell a client that there are too many."""
        self._writer.write(
            fmt.encode(_refusal(None, "busy", f"the controller serves at most {fmt.MAX_CLIENTS} clients"))
        )

    async def end(self) -> None:
        """Close the connection without waiting for a slow client."""
        if self._writer.transport.get_write_buffer_size() > 0:
            with contextlib.suppress(TimeoutError, OSError):
                async with asyncio.timeout(0.2):
                    await self._writer.drain()
            self._writer.transport.abort()
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()
