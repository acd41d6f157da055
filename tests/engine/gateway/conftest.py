"""A synthetic engine around a real gateway: real rings, bells, heartbeats and control socket, written by the test."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import struct
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simplejpeg
from aiohttp import ClientSession, ClientWebSocketResponse, DummyCookieJar, WSMsgType, web
from blockbuster import BlockBuster, blockbuster_ctx

from detr_sentry.errors import ControlError
from detr_sentry.gateway.app import build_app, make_runner
from detr_sentry.gateway.auth import Authenticator
from detr_sentry.gateway.gateway import Gateway
from detr_sentry.gateway.policy import ListenerPolicy, api_policy
from detr_sentry.gateway.service import listen
from detr_sentry.ipc.bells import Bell
from detr_sentry.ipc.control import ControlServer
from detr_sentry.ipc.heartbeat import Heartbeat, Phase
from detr_sentry.ipc.layout import Layout
from detr_sentry.ipc.messages import (
    DETECTION_DTYPE,
    DetectionsWriter,
    FrameWriter,
    Mode,
    Outcome,
    PixelFormat,
    SentryWriter,
    State,
)
from detr_sentry.settings import CameraSettings, GatewaySettings, Settings

ENGINE_METHODS = {
    "open_writers",
    "close",
    "beat",
    "push_frame",
    "push_detections",
    "push_state",
    "switch_off",
    "close_boxes",
    "feeding",
}
TOKEN = "a-token-of-the-tests-0123456789"


@pytest.fixture(autouse=True)
def blockbuster() -> Iterator[BlockBuster]:
    """A blocking call inside the event loop fails the test; files below /dev/shm are memory and may be touched."""
    with blockbuster_ctx() as guard:
        for function in guard.functions.values():
            function.can_block_in("ipc/_ring_reader.py", {"latest", "acquire"})
            function.can_block_in("ipc/heartbeat.py", {"_write", "close", "__init__"})
            # The synthetic engine shares the test's loop; it may block, the gateway may not.
            function.can_block_in("gateway/conftest.py", ENGINE_METHODS)
        yield guard


def jpeg_of(width: int, height: int, shade: int = 90, *, noise: int = 0) -> bytes:
    """A JPEG of one shade; noise makes it as large as a camera's."""
    rgb = np.full((height, width, 3), shade, np.uint8)
    if noise:
        rgb += np.random.default_rng(shade).integers(0, noise, rgb.shape, np.uint8)
    return bytes(simplejpeg.encode_jpeg(rgb, quality=80))


@dataclass(kw_only=True)
class SyntheticEngine:
    """Plays capture, inference and controller for the gateway under test."""

    root: Path
    settings: Settings
    camera: str = "door"
    width: int = 320
    height: int = 240
    pixel_format: PixelFormat = PixelFormat.MJPEG
    controlled: bool = True
    frame_number: int = 0
    confidence: float = 0.875
    modes: list[tuple[str, float | None]] = field(default_factory=list)
    refuse: ControlError | None = None
    companion: dict[str, Any] | None = None
    events: list[dict[str, Any]] = field(default_factory=list)
    server: ControlServer | None = None

    @property
    def layout(self) -> Layout:
        return Layout(self.settings.shm_root, self.settings.instance)

    def open_writers(self) -> None:
        layout = self.layout
        layout.create()
        self.frames = FrameWriter(
            layout.stream(self.camera, "frames"), camera_id=self.camera, capacity=1 << 20, slots=5
        )
        self.boxes = DetectionsWriter(layout.stream(self.camera, "detections"), camera_id=self.camera, slots=5)
        self.sentry = SentryWriter(layout.stream(self.camera, "sentry"), camera_id=self.camera, slots=6)
        self.bell = Bell(layout.bell("gateway"))
        self.jpeg = jpeg_of(self.width, self.height)

    def beat(self, **inference: Any) -> None:
        """Heartbeats of all services, good for some seconds."""
        layout = self.layout
        said = {"provider": "CPUExecutionProvider", "backend": "onnxruntime", "model": "embedded", "embedded": True}
        Heartbeat(layout.heartbeat("inference"), "inference").beat(Phase.STARTING, {**said, **inference})
        Heartbeat(layout.heartbeat("controller"), "controller").beat(Phase.STARTING, {"history": "ok"})
        status = {"link": "connected", "problem": None, "drops": {"bad_jpeg": 2}, "fps": 30.0}
        Heartbeat(layout.heartbeat("capture", self.camera), "capture", self.camera).beat(Phase.STARTING, status)

    def push_frame(self, data: bytes | None = None, *, age_s: float = 0.0) -> int:
        """One frame; returns its number."""
        data = self.jpeg if data is None else data
        self.frame_number += 1
        room = self.frames.begin()
        assert room is not None
        room[: len(data)] = data
        self.frames.publish(
            length=len(data),
            frame_number=self.frame_number,
            capture_epoch=1,
            timestamp_ns=time.time_ns(),
            captured_monotonic_ns=time.monotonic_ns() - int(age_s * 1e9),
            pts_ns=0,
            width=self.width,
            height=self.height,
            channels=3,
            pixel_format=self.pixel_format,
            trace=None,
        )
        self.bell.ring()
        return self.frame_number

    def push_detections(
        self, *boxes: tuple[float, float, float, float], frame: int | None = None, age_s: float = 0.0
    ) -> None:
        rows = np.zeros(len(boxes), DETECTION_DTYPE)
        for row, box in zip(rows, boxes, strict=True):
            row["x1"], row["y1"], row["x2"], row["y2"] = box
            row["confidence"], row["class_id"], row["track_id"] = self.confidence, 1, 7
        self.boxes.publish(
            frame_number=self.frame_number if frame is None else frame,
            capture_epoch=1,
            timestamp_ns=time.time_ns(),
            captured_monotonic_ns=time.monotonic_ns() - int(age_s * 1e9),
            pts_ns=0,
            width=self.width,
            height=self.height,
            detections=rows,
            outcome=Outcome.INFERRED,
            model_hash=bytes(8),
            provider="CPUExecutionProvider",
            inference_ns=12_340_000,
            decode_ns=1_000_000,
        )
        self.bell.ring()

    def push_state(
        self,
        state: State = State.STANDBY,
        mode: Mode = Mode.AUTO,
        *,
        count: int = 0,
        event_id: str = "",
        blind: bool = False,
    ) -> None:
        self.sentry.publish(
            state=state,
            mode=mode,
            blind=blind,
            capture_fps=0.0 if state is State.OFF else 3.0,
            since_ns=1_700_000_000_000_000_000,
            count=count,
            event_id=event_id,
            timestamp_ns=time.time_ns(),
        )
        self.bell.ring()

    def close_boxes(self) -> None:
        """As when inference is not there: its ring is gone."""
        self.boxes.close(unlink=True)

    def switch_off(self) -> None:
        """As capture and controller do it: state first, then the ring is cleared."""
        self.push_state(State.OFF, Mode.OFF)
        self.frames.clear()
        self.boxes.clear()
        self.bell.ring()

    @contextlib.contextmanager
    def feeding(self, fps: float) -> Iterator[None]:
        """Frames at a rate, from a thread, while the block runs."""
        stop = threading.Event()

        def feed() -> None:
            due = time.monotonic()
            while not stop.is_set():
                self.push_frame()
                due += 1 / fps
                stop.wait(max(0.0, due - time.monotonic()))

        thread = threading.Thread(target=feed)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    async def serve_control(self) -> None:
        self.server = ControlServer(
            self.layout.control_socket,
            self._handle,
            greeting=lambda: [
                {"push": "state", "camera": self.said()},
                {"push": "companion", "companion": self.companion},
            ],
        )
        await self.server.start()

    def said(self) -> dict[str, Any]:
        mode = self.modes[-1][0] if self.modes else "auto"
        return {"id": self.camera, "mode": mode, "mode_until": None, "last_seen": None, "last_event_id": None}

    async def _handle(self, op: str, arguments: Mapping[str, Any]) -> Any:
        if self.refuse is not None:
            raise self.refuse
        match op:
            case "set_mode":
                self.modes.append((arguments["mode"], arguments["duration_s"]))
                mode = Mode[arguments["mode"].upper()]
                self.push_state(State.OFF if mode is Mode.OFF else State.STANDBY, mode)
                return self.said()
            case "list_events":
                known = [event for event in self.events if not arguments["before"] or event["id"] < arguments["before"]]
                return {"events": known[: arguments["limit"]]}
            case "get_companion":
                return self.companion
            case "set_companion":
                self.companion = {**arguments, "since": "2026-11-22T12:00:00.000Z"}
                assert self.server is not None
                self.server.push("companion", {"companion": self.companion})
                return self.companion
            case "clear_companion":
                self.companion = None
                return None
            case _:
                raise ControlError("unknown_op", op)

    async def close(self) -> None:
        if self.server is not None:
            await self.server.close()
        for writer in (self.frames, self.boxes, self.sentry):
            writer.close(unlink=True)
        self.bell.close()
        Bell.unlink(self.layout.bell("gateway"))


@dataclass(kw_only=True)
class Message:
    """One message of the stream, taken apart."""

    head: dict[str, Any]
    jpeg: bytes

    @classmethod
    def of(cls, data: bytes) -> Message:
        (length,) = struct.unpack_from("<I", data)
        return cls(head=json.loads(data[4 : 4 + length]), jpeg=data[4 + length :])


class Viewer:
    """A client of the stream that acknowledges when it is told to."""

    def __init__(self, ws: ClientWebSocketResponse) -> None:
        self.ws = ws

    async def receive(self, timeout_s: float = 5.0) -> Message:
        message = await self.ws.receive(timeout=timeout_s)
        assert message.type is WSMsgType.BINARY, message
        return Message.of(message.data)

    async def nothing_comes(self, for_s: float = 0.3) -> bool:
        try:
            await self.ws.receive(timeout=for_s)
        except TimeoutError:
            return True
        return False

    async def acknowledge(self, message: Message) -> None:
        await self.ws.send_json({"ack": message.head["frame_number"]})


@dataclass(kw_only=True)
class Running:
    """A gateway that serves, the engine around it and a client session at its address."""

    engine: SyntheticEngine
    gateway: Gateway
    url: str
    http: ClientSession
    apps: list[web.Application]

    async def until(self, condition: Callable[[], bool], timeout_s: float = 5.0) -> None:
        """Wait for something that must come true soon."""
        async with asyncio.timeout(timeout_s):
            while not condition():  # noqa: ASYNC110 - the condition is a plain value, nothing announces it
                await asyncio.sleep(0.005)

    async def seen(self, frame: int) -> None:
        """Wait until the gateway has noticed this frame."""
        feed = self.gateway.feeds["door"]
        await self.until(lambda: feed.frame is not None and feed.frame.frame_number >= frame)

    async def get(self, path: str, **options: Any) -> tuple[int, Any]:
        """Status and body, the latter decoded if it is JSON."""
        async with self.http.get(path, **options) as response:
            if response.content_type.endswith("json"):
                return response.status, await response.json(content_type=None)
            return response.status, await response.read()

    async def send(self, method: str, path: str, **options: Any) -> tuple[int, Any]:
        """As `get`, by any method."""
        async with self.http.request(method, path, **options) as response:
            if response.content_type.endswith("json"):
                return response.status, await response.json(content_type=None)
            return response.status, await response.read()

    @contextlib.asynccontextmanager
    async def viewer(self, query: str = "") -> AsyncIterator[Viewer]:
        """A viewer of the stream."""
        async with self.http.ws_connect(f"/api/v1/cameras/door/stream{query}") as ws:
            yield Viewer(ws)


@pytest.fixture
def make_jpeg() -> Callable[..., bytes]:
    """`jpeg_of`, for tests that need frames to tell apart."""
    return jpeg_of


@pytest.fixture
def shm_root() -> Iterator[Path]:
    """A root of its own in shared memory, short enough for a socket's path."""
    root = Path(tempfile.mkdtemp(prefix="dsgw", dir="/dev/shm"))
    yield root
    shutil.rmtree(root)


@pytest.fixture
def make_settings(shm_root: Path, tmp_path: Path) -> Callable[..., Settings]:
    def make(**gateway: Any) -> Settings:
        camera = CameraSettings(id="door", name="Front door", source="rtsp://user:secret@camera.local/stream")
        return Settings(
            instance="gwtest_" + shm_root.name[4:].lower(),
            state_dir=tmp_path / "state",
            shm_root=shm_root,
            gateway=GatewaySettings(port=0, **gateway),
            cameras={"door": camera},
        )

    return make


@pytest.fixture
async def start(make_settings: Callable[..., Settings], shm_root: Path) -> AsyncIterator[Callable[..., Any]]:
    """Starts a gateway with its synthetic engine; everything ends with the test."""
    async with contextlib.AsyncExitStack() as stack:

        async def starter(
            *, policy: ListenerPolicy | None = None, settings: Settings | None = None, **engine_options: Any
        ) -> Running:
            settings = settings or make_settings()
            engine = SyntheticEngine(root=shm_root, settings=settings, **engine_options)
            engine.open_writers()
            stack.push_async_callback(engine.close)
            if engine.controlled:
                await engine.serve_control()
            engine.beat()
            engine.push_state()
            gateway = Gateway(settings)
            stack.push_async_callback(gateway.close)
            await gateway.start()
            policy = policy or api_policy(settings.gateway)
            if policy.host == "0.0.0.0":
                policy = replace(policy, host="127.0.0.1")  # tests listen on loopback, whatever the policy is made for
            auth = Authenticator(TOKEN if policy.token_required else None, time.monotonic)
            app = await asyncio.to_thread(build_app, gateway, policy, auth)
            runner = make_runner(app)
            stack.push_async_callback(runner.cleanup)
            url = (await listen(runner, policy)).replace("localhost", "127.0.0.1")
            http = await stack.enter_async_context(ClientSession(url, cookie_jar=DummyCookieJar()))
            running = Running(engine=engine, gateway=gateway, url=url, http=http, apps=[app])
            if engine.controlled:
                await running.until(lambda: bool(gateway.link.cameras))
            return running

        yield starter


@pytest.fixture
async def running(start: Callable[..., Any]) -> Running:
    """A gateway on loopback, without a token, with everything up and one frame."""
    result: Running = await start()
    result.engine.push_frame()
    result.engine.push_detections((10, 20, 110, 220))
    await result.until(lambda: result.gateway.feeds["door"].detections is not None)
    return result
