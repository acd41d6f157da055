"""A controller's surroundings: real rings and bells in a short-lived instance, fed by hand."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import itertools
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simplejpeg
from blockbuster import BlockBuster, blockbuster_ctx

from detr_sentry.controller.service import Controller
from detr_sentry.ipc.bells import Bell
from detr_sentry.ipc.control import ControlClient
from detr_sentry.ipc.heartbeat import Heartbeat, Phase
from detr_sentry.ipc.layout import Layout
from detr_sentry.ipc.messages import (
    DETECTION_DTYPE,
    DetectionsWriter,
    FrameWriter,
    Outcome,
    PixelFormat,
    SentryView,
    State,
)
from detr_sentry.ipc.ring import RingReader
from detr_sentry.settings import CameraSettings, HistorySettings, SentrySettings, Settings

WIDTH, HEIGHT = 64, 48
PERSON = (10.0, 8.0, 30.0, 40.0, 0.9)
_instances = itertools.count()


@pytest.fixture(autouse=True)
def no_blocking() -> Iterator[BlockBuster]:
    """No blocking call in an event loop, but on files that are shared memory."""
    with blockbuster_ctx("detr_sentry") as guard:
        for function in guard.functions.values():
            function.can_block_in("ipc/_ring_reader.py", {"acquire", "_look"})
            function.can_block_in("ipc/_ring_writer.py", {"begin"})
            function.can_block_in("ipc/heartbeat.py", {"_write"})
        yield guard


@dataclass
class Place:
    """One instance: where its files are, and the camera `door` as capture and inference would feed it."""

    folder: Path
    settings: Settings
    layout: Layout
    epoch: int = 7
    number: int = 0
    frames: FrameWriter | None = None
    detections: DetectionsWriter | None = None
    controller: Controller | None = None

    def writers(self) -> None:
        """What capture and inference open."""
        self.frames = FrameWriter(
            self.layout.stream("door", "frames"), camera_id="door", capacity=WIDTH * HEIGHT * 3, slots=5
        )
        self.detections = DetectionsWriter(self.layout.stream("door", "detections"), camera_id="door", slots=5)
        self.bell = Bell(self.layout.bell("controller"))
        self.beat()

    def beat(self, link: str = "connected") -> None:
        """The heartbeats of capture and inference."""
        for service, camera, status in (("capture", "door", {"link": link}), ("inference", None, {})):
            path = self.layout.heartbeat(service, camera)
            Heartbeat(path, service, camera).beat(Phase.RUNNING, status)

    def frame(self, number: int, *, pixel_format: PixelFormat = PixelFormat.MJPEG, level: int = 128) -> bytes:
        """Publish one frame; returns its bytes."""
        assert self.frames is not None
        image = np.full((HEIGHT, WIDTH, 3), level, np.uint8)
        data = image.tobytes() if pixel_format is PixelFormat.RGB24 else bytes(simplejpeg.encode_jpeg(image))
        pixels = self.frames.begin()
        assert pixels is not None
        pixels[: len(data)] = data
        self.frames.publish(
            length=len(data),
            frame_number=number,
            capture_epoch=self.epoch,
            timestamp_ns=time.time_ns(),
            captured_monotonic_ns=time.monotonic_ns(),
            pts_ns=0,
            width=WIDTH,
            height=HEIGHT,
            channels=3,
            pixel_format=pixel_format,
        )
        return data

    def detect(
        self, *boxes: tuple[float, float, float, float, float], inferred: bool = True, age_s: float = 0.0, **frame: Any
    ) -> bytes:
        """Publish a frame and what was found in it, and ring."""
        assert self.detections is not None
        self.number += 1
        data = self.frame(self.number, **frame)
        rows = np.array([(*box, 1, 0, 0) for box in boxes], DETECTION_DTYPE)
        self.detections.publish(
            frame_number=self.number,
            capture_epoch=self.epoch,
            timestamp_ns=time.time_ns() - round(age_s * 1e9),
            captured_monotonic_ns=time.monotonic_ns() - round(age_s * 1e9),
            pts_ns=0,
            width=WIDTH,
            height=HEIGHT,
            detections=rows,
            outcome=Outcome.INFERRED if inferred else Outcome.GATED,
            model_hash=bytes(8),
            provider="test",
            inference_ns=1,
            decode_ns=1,
            trace=bytes(range(25)),
        )
        self.bell.ring()
        return data

    async def see(self, frames: int, *boxes: tuple[float, float, float, float, float], **frame: Any) -> None:
        """Frames one after another, each after the one before was read."""
        for _ in range(frames):
            self.detect(*boxes, **frame)
            await asyncio.sleep(0.03)
            await eventually(self.consumed)

    def consumed(self) -> bool:
        """Whether the controller has read the newest detections, if one runs in this process."""
        assert self.detections is not None
        ring = self.detections.ring
        return self.controller is None or self.controller._cameras["door"]._key == (ring.epoch, ring.sequence)

    def client(self) -> ControlClient:
        """A client of the controller."""
        return ControlClient(self.layout.control_socket)

    def close(self) -> None:
        """What capture and inference leave when they end."""
        if self.detections is not None and self.frames is not None:
            self.detections.close()
            self.frames.close()
            self.bell.close()
            self.detections = self.frames = None


class SentryReader:
    """Reads the sentry ring, as capture does."""

    def __init__(self, place: Place) -> None:
        self._reader = RingReader(place.layout.stream("door", "sentry"))

    def read(self) -> SentryView | None:
        lease = self._reader.acquire()
        if lease is None:
            return None
        with lease:
            return SentryView(lease)

    def close(self) -> None:
        self._reader.close()


@pytest.fixture
def place() -> Iterator[Place]:
    folder = Path(tempfile.mkdtemp(prefix="ds", dir="/dev/shm"))
    state = Path(tempfile.mkdtemp(prefix="ds-state"))
    instance = f"t{next(_instances)}_{time.monotonic_ns() % 10**9}"
    settings = Settings(
        instance=instance,
        shm_root=folder,
        state_dir=state,
        history=HistorySettings(max_events=20),
        cameras={
            "door": CameraSettings(
                id="door", source="demo:", name="Front door", sentry=SentrySettings(hold_s=0.3, blind_after_s=1.0)
            )
        },
    )
    layout = Layout(folder, instance)
    layout.create()
    place = Place(folder, settings, layout)
    place.writers()
    yield place
    place.close()
    for name in (
        layout.bell("controller"),
        layout.bell("inference"),
        layout.bell("gateway"),
        layout.bell("capture", "door"),
    ):
        Bell.unlink(name)
    shutil.rmtree(folder)
    shutil.rmtree(state)


@pytest.fixture
def sentry(place: Place) -> Iterator[SentryReader]:
    reader = SentryReader(place)
    yield reader
    reader.close()


class Runner:
    """Starts and stops controllers in this loop, as the process would: made and closed outside of it."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._running: list[tuple[Controller, asyncio.Event, asyncio.Task[None]]] = []

    async def start(self, **changes: Any) -> Controller:
        """A controller that answers."""
        options = {key: changes.pop(key) for key in ("clock", "make_outputs") if key in changes}
        settings = dataclasses.replace(self._place.settings, **changes)
        controller = await asyncio.to_thread(functools.partial(Controller, settings, **options))
        stop = asyncio.Event()
        task = asyncio.create_task(controller.run(stop))
        self._running.append((controller, stop, task))
        await eventually(lambda: controller._listening is not None or task.done())
        if task.done():
            await self.stop()
        self._place.controller = controller if "door" in settings.cameras else None
        return controller

    async def stop(self) -> None:
        """End them in order."""
        self._place.controller = None
        while self._running:
            controller, stop, task = self._running.pop()
            stop.set()
            try:
                await task
            finally:
                await asyncio.to_thread(controller.close)

    async def kill(self) -> None:
        """End them without a word, as SIGKILL would: nothing is flushed."""
        self._place.controller = None
        while self._running:
            controller, _, task = self._running.pop()
            controller.recorder._pending.clear()
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            await asyncio.to_thread(controller.close)


@pytest.fixture
async def runner(place: Place) -> AsyncIterator[Runner]:
    runner = Runner(place)
    yield runner
    await runner.stop()


async def eventually(condition: Callable[[], Any], *, within_s: float = 10.0) -> None:
    """Wait until it is true."""
    async with asyncio.timeout(within_s):
        while not condition():  # noqa: ASYNC110 - another process's or task's progress has no event to wait for
            await asyncio.sleep(0.01)


def state_of(sentry: SentryReader) -> State | None:
    view = sentry.read()
    return None if view is None else view.state


async def raise_alarm(place: Place, sentry: SentryReader) -> None:
    for _ in range(200):
        await place.see(1, PERSON)
        if state_of(sentry) is State.ALARMED:
            return
    raise AssertionError("no alarm")


async def end_alarm(place: Place, sentry: SentryReader) -> None:
    for _ in range(200):
        await place.see(1)
        if state_of(sentry) is State.STANDBY:
            return
    raise AssertionError("the alarm does not end")


async def stored(runner_place: Place, count: int) -> list[dict[str, Any]]:
    async with runner_place.client() as client:
        for _ in range(500):
            events: list[dict[str, Any]] = (await client.call("list_events"))["events"]
            if len(events) == count and all(event["end"] for event in events):
                return events
            await asyncio.sleep(0.02)
    raise AssertionError(events)
