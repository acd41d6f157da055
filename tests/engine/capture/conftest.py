"""Real parts for the capture's tests: a running capture, recorded files, a network camera that misbehaves."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import simplejpeg

from detr_sentry.capture.loop import Capture, Stop
from detr_sentry.ipc.bells import Bell
from detr_sentry.ipc.heartbeat import read_heartbeat
from detr_sentry.ipc.layout import Layout
from detr_sentry.ipc.messages import FrameView, Mode, SentryWriter, State
from detr_sentry.ipc.ring import RingReader
from detr_sentry.settings import Settings, build_settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


def picture(number: int, width: int = 160, height: int = 120, quality: int = 85) -> bytes:
    """A JPEG that differs from every other number's."""
    noise = np.random.default_rng(number).integers(0, 255, (height // 8, width // 8, 3), dtype=np.uint8)
    big = np.ascontiguousarray(noise.repeat(8, axis=0).repeat(8, axis=1))
    return bytes(simplejpeg.encode_jpeg(big, quality, "RGB", "420"))


def wait_until(condition: Callable[[], Any], timeout_s: float = 10.0) -> Any:
    deadline = time.monotonic() + timeout_s
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout_s} s")
        time.sleep(0.01)
    return value


@dataclass
class Seen:
    """A copy of one frame as a reader got it."""

    key: tuple[int, int]
    number: int
    epoch: int
    data: bytes
    size: tuple[int, int]
    timestamp_ns: int
    monotonic_ns: int
    pts_ns: int
    pixel_format: str
    trace: bytes | None
    read_ns: int = field(default_factory=time.monotonic_ns)


class Rig:
    """One camera's capture with everything around it: its rings, bells and heartbeat."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.layout = Layout(settings.shm_root, settings.instance)
        self.layout.create()
        self.bell = Bell(self.layout.bell("gateway"))
        self.reader = RingReader(self.layout.stream("door", "frames"))
        self._sentry: SentryWriter | None = None
        self._stop: Stop | None = None
        self._thread: threading.Thread | None = None
        self.failure: BaseException | None = None

    def start(self) -> None:
        stop = Stop()
        try:
            capture = Capture(self.settings, "door", stop)
        except BaseException:
            stop.close()
            raise
        self._stop = stop

        def serve() -> None:
            try:
                capture.serve()
            except BaseException as error:  # noqa: BLE001 - looked at by the test
                self.failure = error
            finally:
                capture.close()
                stop.close()

        self._thread = threading.Thread(target=serve)
        self._thread.start()

    def stop(self) -> None:
        if self._thread is not None and self._stop is not None:
            if self._thread.is_alive():
                self._stop.ask()
            self._thread.join(10)
            assert not self._thread.is_alive()
            self._thread = None

    def order(self, rate: float) -> None:
        """What the controller does."""
        if self._sentry is None:
            self._sentry = SentryWriter(self.layout.stream("door", "sentry"), camera_id="door", slots=6)
        self._sentry.publish(
            state=State.STANDBY, mode=Mode.AUTO, blind=False, capture_fps=rate,
            since_ns=0, count=0, event_id="", timestamp_ns=time.time_ns(),
        )  # fmt: skip
        bell = Bell(self.layout.bell("capture", "door"))
        bell.ring()
        bell.close()

    def controller_dies(self) -> None:
        if self._sentry is not None:
            self._sentry.close()
            self._sentry = None

    def newest(self, newer_than: tuple[int, int] | None = None) -> Seen | None:
        lease = self.reader.acquire(newer_than=newer_than)
        if lease is None:
            return None
        with lease:
            view = FrameView(lease)
            return Seen(
                key=lease.key,
                number=view.frame_number,
                epoch=view.capture_epoch,
                data=bytes(view.data),
                size=(view.width, view.height),
                timestamp_ns=view.timestamp_ns,
                monotonic_ns=view.captured_monotonic_ns,
                pts_ns=view.pts_ns,
                pixel_format=view.pixel_format.name,
                trace=view.trace,
            )

    def next(self, after: Seen | None = None, timeout_s: float = 10.0) -> Seen:
        """The first frame newer than `after` (or than now)."""
        key = after.key if after is not None else self.reader.latest()
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            seen = self.newest(key)
            if seen is not None:
                return seen
            self.bell.wait(0.1)
        raise AssertionError(f"no frame within {timeout_s} s; {self.status()}")

    def collect(self, seconds: float) -> list[Seen]:
        frames: list[Seen] = []
        deadline = time.monotonic() + seconds
        key = self.reader.latest()
        while (left := deadline - time.monotonic()) > 0:
            seen = self.newest(key)
            if seen is None:
                self.bell.wait(min(0.1, left))
            else:
                frames.append(seen)
                key = seen.key
        return frames

    def status(self) -> dict[str, Any]:
        beat = read_heartbeat(self.layout.heartbeat("capture", "door"))
        return {} if beat is None else beat.status

    def link(self, wanted: str, timeout_s: float = 10.0) -> dict[str, Any]:
        """Waits for a link state; returns the status then."""

        def there() -> dict[str, Any] | None:
            status = self.status()
            return status if status.get("link") == wanted else None

        status: dict[str, Any] = wait_until(there, timeout_s)
        return status

    def close(self) -> None:
        self.stop()
        self.controller_dies()
        self.reader.close()
        self.bell.close()
        for name in (
            self.layout.bell("inference"),
            self.layout.bell("gateway"),
            self.layout.bell("capture", "door"),
        ):
            Bell.unlink(name)


@pytest.fixture(name="picture")
def picture_fixture() -> Callable[..., bytes]:
    return picture


@pytest.fixture(name="wait_until")
def wait_until_fixture() -> Callable[..., Any]:
    return wait_until


@pytest.fixture
def settings_for(tmp_path: Path) -> Callable[..., Settings]:
    def make(source: str, *, telemetry: bool = False, **camera: Any) -> Settings:
        tree: dict[str, Any] = {
            "instance": f"t{uuid.uuid4().hex[:12]}",
            "shm_root": str(tmp_path / "shm"),
            "state_dir": str(tmp_path / "state"),
            "cameras": {"door": {"source": source, **camera}},
        }
        if telemetry:
            tree["telemetry"] = {"endpoint": "http://127.0.0.1:4318"}
        return build_settings(tree, origins={})

    return make


@pytest.fixture
def rig_for(settings_for: Callable[..., Settings]) -> Iterator[Callable[..., Rig]]:
    """Makes rigs; `start=False` leaves starting to the test."""
    with contextlib.ExitStack() as cleanup:

        def make(source: str, *, start: bool = True, **options: Any) -> Rig:
            rig = Rig(settings_for(source, **options))
            cleanup.callback(rig.close)
            if start:
                rig.start()
            return rig

        yield make


@pytest.fixture
def replay_file(tmp_path: Path) -> str:
    """Twenty small pictures at 20 fps."""
    path = tmp_path / "clip.mjpeg"
    path.write_bytes(b"".join(picture(number) for number in range(20)))
    return f"replay:{path}?fps=20"


class HttpCamera:
    """A network camera: multipart MJPEG on loopback. The test sets what it does to the next requests."""

    def __init__(self) -> None:
        self.fps = 25.0
        self.size = (160, 120)
        self.behaviour = "stream"  # stream, unauthorized, missing, silent, stall, cut, torn, text
        self.requests: list[str] = []
        self.port = 0
        self._loop = asyncio.new_event_loop()
        self._server: asyncio.Server | None = None
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.up()

    @property
    def url(self) -> str:
        return f"http://admin:s3cret-word@127.0.0.1:{self.port}/video"

    def up(self) -> None:
        asyncio.run_coroutine_threadsafe(self._up(), self._loop).result(5)

    def down(self) -> None:
        """As if unplugged: connections reset, port closed."""
        asyncio.run_coroutine_threadsafe(self._down(), self._loop).result(5)

    def close(self) -> None:
        self.down()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()

    async def _up(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _down(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.CancelledError):
            try:
                self.requests.append((await reader.readuntil(b"\r\n\r\n")).decode())
                await self._answer(writer)
            finally:
                writer.transport.abort()

    async def _answer(self, writer: asyncio.StreamWriter) -> None:
        if self.behaviour == "silent":
            await asyncio.sleep(60)
        statuses = {"unauthorized": "401 Unauthorized", "missing": "404 Not Found"}
        if status := statuses.get(self.behaviour):
            writer.write(f"HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n".encode())
            await writer.drain()
            return
        if self.behaviour == "text":
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 9000\r\n\r\n")
            writer.write(b"this is no camera\n" * 500)
            await writer.drain()
            await asyncio.sleep(5.0)
            return
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: multipart/x-mixed-replace; boundary=frame\r\n\r\n")
        number = 0
        while True:
            data = picture(number, *self.size)
            number += 1
            if self.behaviour == "torn" and number > 5:
                data = data[: len(data) // 2]
            head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(data)}\r\n\r\n"
            writer.write(head.encode() + data + b"\r\n")
            await writer.drain()
            if self.behaviour == "stall" and number > 10:
                await asyncio.sleep(60)
            if self.behaviour == "cut" and number > 10:
                return
            await asyncio.sleep(1 / self.fps)


@pytest.fixture
def http_camera() -> Iterator[HttpCamera]:
    camera = HttpCamera()
    yield camera
    camera.close()
