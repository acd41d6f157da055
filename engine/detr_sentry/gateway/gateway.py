"""The gateway itself: the feeds of all cameras, the link to the controller, and what listeners are told."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from detr_sentry import __version__
from detr_sentry.ipc.bells import Bell
from detr_sentry.ipc.layout import Layout
from detr_sentry.models.coco import COCO_LABELS

from .beats import Beats
from .cameras import MEASURES, describe_camera, describe_state, public_event
from .counters import Counters
from .feed import CameraFeed
from .link import ControllerLink, LinkState
from .live import LiveHub
from .problems import ProblemError
from .writes import WriteWatch

if TYPE_CHECKING:
    from collections.abc import Mapping

    from detr_sentry.settings import Settings

log = logging.getLogger("detr_sentry.gateway")

# No wait is longer, so a lost bell costs a quarter of a second.
POLL_S = 0.25
BEATS_S = 1.0
# Measures move with every frame; listeners hear of them this often.
MEASURES_S = 5.0
# Two encoders keep two cores busy; more would only take time from the detector.
ENCODERS = 2
_SWEEP_S = 5.0


class Gateway:
    """Everything that the listeners' apps share. Belongs to the event loop that calls `start`."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.layout = Layout(settings.shm_root, settings.instance)
        self.counters = Counters()
        self.pool = ThreadPoolExecutor(ENCODERS, thread_name_prefix="encode")
        self.beats = Beats(self.layout, settings.cameras)
        self.feeds = {camera: self._make_feed(camera) for camera in settings.cameras}
        self.link = ControllerLink(self.layout.control_socket, self._on_push)
        self.live = LiveHub(self.state, self.counters)
        self.writes = WriteWatch(self.counters)
        self._bell: Bell | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._told: dict[str, dict[str, Any]] = {}
        self._told_info: dict[str, Any] = {}

    async def start(self) -> None:
        """Attach to rings, bell and controller. Raises QueueLimitError if the kernel has no queue left."""
        await asyncio.to_thread(self.layout.create)
        self._bell = Bell(self.layout.bell("gateway"))
        asyncio.get_running_loop().add_reader(self._bell.fileno(), self._on_bell)
        await self.beats.refresh()
        self.poll()
        self._tasks = [
            asyncio.create_task(coroutine) for coroutine in (self._look_after(), self._follow_beats(), self.link.run())
        ]

    async def close(self) -> None:
        """Let go of everything. A second call does nothing."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []
        if self._bell is not None:
            asyncio.get_running_loop().remove_reader(self._bell.fileno())
            self._bell.close()
            self._bell = None
        await self.link.close()
        for feed in self.feeds.values():
            await feed.close()
        self.pool.shutdown(wait=False, cancel_futures=True)

    def check(self) -> None:
        """Raises what ended one of the gateway's own tasks, which must never happen."""
        for task in self._tasks:
            if task.done() and not task.cancelled():
                task.result()

    def poll(self) -> None:
        """Read what is new of every camera."""
        for feed in self.feeds.values():
            feed.poll()

    @property
    def ready(self) -> bool:
        """Whether the rings of every camera are attached; a camera that is off has an empty ring, not none."""
        return all(feed.attached for feed in self.feeds.values())

    def feed(self, camera: str) -> CameraFeed:
        """The feed of a camera. Raises ProblemError 404."""
        try:
            return self.feeds[camera]
        except KeyError:
            raise ProblemError(404, "unknown_camera", "there is no such camera") from None

    def open_feed(self, camera: str) -> CameraFeed:
        """The feed of a camera that is not off. Raises ProblemError 404, 409."""
        feed = self.feed(camera)
        if feed.off:
            raise ProblemError(409, "camera_off", "the camera is off by its mode: set another mode to see it")
        return feed

    def camera(self, camera: str) -> dict[str, Any]:
        """The camera object of the API. Raises ProblemError 404."""
        feed = self.feed(camera)
        return describe_camera(
            self.settings.cameras[camera], feed, self.beats, self.link.cameras.get(camera), time.monotonic_ns()
        )

    def cameras(self) -> list[dict[str, Any]]:
        """All camera objects, in the order of the settings."""
        return [self.camera(camera) for camera in self.feeds]

    def info(self) -> dict[str, Any]:
        """What runs: the engine's identity, and what the inference service says that it really uses."""
        inference = self.beats.status("inference")
        return {
            "instance_id": self.settings.instance,
            "name": self.settings.name,
            "version": __version__,
            "api_version": 1,
            "provider": inference.get("provider"),
            "backend": inference.get("backend"),
            "model": inference.get("model"),
            "model_hash": inference.get("model_hash"),
            "embedded": inference.get("embedded"),
            "inference": self.beats.phase("inference"),
            "controller": self.link.state is LinkState.UP,
            "history": self.beats.status("controller").get("history"),
            "cameras": len(self.feeds),
        }

    def state(self) -> dict[str, Any]:
        """The full state, as a live snapshot tells it."""
        return {"info": self.info(), "cameras": self.cameras(), "companion": self.link.companion}

    def _make_feed(self, camera: str) -> CameraFeed:
        def status() -> Mapping[str, Any]:
            return describe_state(camera, feed, self.beats, self.link.cameras.get(camera))

        feed = CameraFeed(
            camera,
            self.layout,
            labels=self._labels,
            status=status,
            clock_ns=time.monotonic_ns,
            pool=self.pool,
            counters=self.counters,
        )
        feed.on_change = self._tell_camera
        feed.on_detections = self._tell_detections
        return feed

    def _labels(self) -> Mapping[int, str]:
        """Names by class id: COCO's, unless the running model says otherwise."""
        said = self.beats.status("inference").get("labels")
        if not isinstance(said, dict):
            return COCO_LABELS
        return {int(number): str(name) for number, name in said.items() if str(number).isdecimal()}

    def _on_bell(self) -> None:
        assert self._bell is not None
        self._bell.drain()
        self.poll()

    def _on_push(self, kind: str, value: Mapping[str, Any]) -> None:
        match kind:
            case "state" if value["id"] in self.feeds:
                self._tell_camera(self.feeds[value["id"]])
            case "event":
                self.live.change(event=public_event(value))
            case "picture":
                self.live.change(picture=public_event(value))
            case "companion":
                self.live.change(companion=self.link.companion)
            case "link":
                self._tell_slow_changes(measures=False)

    def _tell_camera(self, feed: CameraFeed, *, measures: bool = False) -> None:
        """Tell listeners of this camera if anything but its measures changed, or if the measures' turn has come."""
        camera = self.camera(feed.camera)
        told = self._told.get(feed.camera, {})
        if any(told.get(key, ...) != value for key, value in camera.items() if measures or key not in MEASURES):
            self._told[feed.camera] = camera
            self.live.change(camera=camera)

    def _tell_detections(self, feed: CameraFeed) -> None:
        newest = feed.detections
        if newest is not None and self.live.wants_detections:
            self.live.detections(
                feed.camera,
                {
                    "frame_number": newest.frame_number,
                    "capture_epoch": newest.capture_epoch,
                    "timestamp_ns": newest.timestamp_ns,
                    "inferred": newest.inferred,
                    "detections": newest.found,
                },
            )

    def _tell_slow_changes(self, *, measures: bool) -> None:
        for feed in self.feeds.values():
            self._tell_camera(feed, measures=measures)
        info = self.info()
        if info != self._told_info:
            self._told_info = info
            self.live.change(info=info)

    async def _look_after(self) -> None:
        """Poll even if no bell rings, and let go of clients that take nothing."""
        loop = asyncio.get_running_loop()
        sweep_at = loop.time() + _SWEEP_S
        while True:
            await asyncio.sleep(POLL_S)
            self._refresh_bell(loop)
            self.poll()
            if loop.time() >= sweep_at:
                self.writes.sweep(loop.time())
                sweep_at = loop.time() + _SWEEP_S

    def _refresh_bell(self, loop: asyncio.AbstractEventLoop) -> None:
        assert self._bell is not None
        before = self._bell.fileno()
        if self._bell.refresh():
            with contextlib.suppress(OSError, ValueError):
                loop.remove_reader(before)
            loop.add_reader(self._bell.fileno(), self._on_bell)

    async def _follow_beats(self) -> None:
        """Read the heartbeats, and tell listeners what changed by them or by the passing of time."""
        loop = asyncio.get_running_loop()
        measures_at = 0.0
        while True:
            await asyncio.sleep(BEATS_S)
            await self.beats.refresh()
            measures = loop.time() >= measures_at
            if measures:
                measures_at = loop.time() + MEASURES_S
            self._tell_slow_changes(measures=measures)
