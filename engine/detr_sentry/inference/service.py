"""The inference service: one process that finds people in the newest frames of all cameras."""

from __future__ import annotations

import gc
import logging
import os
import signal
import threading
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import cv2

from detr_sentry.errors import BackendError, ModelError, SentryError
from detr_sentry.inference.camera import Camera
from detr_sentry.inference.model import Detector, open_detector, reopen_detector
from detr_sentry.inference.schedule import Schedule
from detr_sentry.inference.upgrade import Upgrade
from detr_sentry.ipc.bells import Bell
from detr_sentry.ipc.heartbeat import Heartbeat, Phase
from detr_sentry.ipc.layout import Layout
from detr_sentry.models.resolve import cache_dir

if TYPE_CHECKING:
    from collections.abc import Sequence

    from detr_sentry.settings import Settings

WAIT_S = 0.25
"""Longest wait for the bell: a lost ring, a new epoch or a new state is seen within this time."""
BEAT_S = 0.5
FLOOR_MARGIN = 0.15
"""Scores this far below the lowest stay threshold still go out, for the viewer and for tuning."""
LOWEST_FLOOR = 0.05
MOST_FAILURES = 5
"""Runs that fail one after the other before the service ends, so that the supervisor gives it a fresh runtime."""
EXIT_FAILED, EXIT_REFUSED = 1, 2
_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_log = logging.getLogger("detr_sentry.inference")


def run(settings: Settings) -> int:
    """Serves until SIGTERM or SIGINT. Returns 0, 1 where it failed while running, 2 where the model is refused."""
    stop = Stop()
    with ExitStack() as cleanup:
        cleanup.callback(stop.close)
        try:
            return _serve(settings, stop, cleanup)
        except BackendError as error:
            _log.error("%s", error)
            return EXIT_FAILED
        except ModelError as error:
            _log.error("the model cannot be used: %s", error)
            return EXIT_REFUSED
        except SentryError as error:
            _log.error("%s", error)
            return EXIT_FAILED


def check(settings: Settings) -> None:
    """Loads the model of `settings`, runs it once on gray and lets go of it. Raises ModelError's kinds."""
    detector, _ = open_detector(settings.model, settings.state_dir, floor=score_floor(settings))
    detector.backend.close()


class Stop:
    """Hears SIGTERM and SIGINT at once, even while the main thread is deep in the runtime.

    The interpreter's own handler writes to a pipe from whatever thread the kernel chose; a thread here reads it, sets
    `asked`, interrupts the detector's run and rings the service's bell. Belongs to the main thread, which makes it.
    """

    def __init__(self) -> None:
        self.asked = threading.Event()
        self._detector: Detector | None = None
        self._bell: str | None = None
        self._read_fd, self._write_fd = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        os.set_blocking(self._read_fd, True)
        self._wakeup_fd = signal.set_wakeup_fd(self._write_fd, warn_on_full_buffer=False)
        self._handlers = [(number, signal.signal(number, lambda *_: None)) for number in _SIGNALS]
        self._thread = threading.Thread(target=self._listen, name="signals", daemon=True)
        self._thread.start()

    def wakes(self, detector: Detector, bell: str) -> None:
        """Tells what to interrupt and which bell to ring."""
        self._detector, self._bell = detector, bell

    def close(self) -> None:
        """Ends the thread and restores the signals."""
        for number, handler in self._handlers:
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._wakeup_fd)
        os.close(self._write_fd)
        self._thread.join()
        os.close(self._read_fd)

    def _listen(self) -> None:
        while caught := os.read(self._read_fd, 1):
            if caught[0] not in _SIGNALS:
                continue
            self.asked.set()
            if self._detector is not None:
                self._detector.backend.interrupt()
            if self._bell is not None:
                bell = Bell(self._bell)
                bell.ring()
                bell.close()


def _serve(settings: Settings, stop: Stop, cleanup: ExitStack) -> int:
    cv2.setNumThreads(1)  # pictures are small by then; a pool would only spin beside the runtime's
    layout = Layout(settings.shm_root, settings.instance)
    layout.create()
    heartbeat = Heartbeat(layout.heartbeat("inference"), "inference")
    cleanup.callback(heartbeat.close)
    heartbeat.beat(Phase.STARTING)
    bell = Bell(layout.bell("inference"))
    cleanup.callback(bell.close)
    heartbeat.beat(Phase.COMPILING)
    begun_s = time.monotonic()
    detector, embedded = open_detector(settings.model, settings.state_dir, floor=score_floor(settings))
    stop.wakes(detector, bell.name)
    status = _Status(detector, embedded=embedded)
    _log.info(
        "%s%s on %s (%s, %d threads), ready after %.1f s",
        detector.contract.name,
        ", the embedded detector," if embedded else "",
        detector.backend.name,
        detector.backend.provider,
        detector.backend.threads,
        time.monotonic() - begun_s,
    )
    cameras = []
    for camera in settings.cameras.values():
        cameras.append(Camera(camera, layout, detector))
        cleanup.callback(cameras[-1].close)
    listeners = [Bell(layout.bell(name)) for name in ("controller", "gateway")]
    for listener in listeners:
        cleanup.callback(listener.close)
    gc.collect()
    gc.freeze()
    cache = cache_dir(settings.model, settings.state_dir)
    upgrade = Upgrade(
        change=lambda: reopen_detector(detector, settings.model, cache),
        auto=settings.model.backend == "auto" and detector.path is not None,
        model=detector.path or cache,
        sha256=detector.contract.sha256,
        threads=settings.model.threads,
        cache=cache,
    )
    cleanup.callback(upgrade.close)
    _Loop(cameras, bell, listeners, upgrade).run(stop, heartbeat, status)
    return 0


def score_floor(settings: Settings) -> float:
    """The lowest score that is published: below every camera's stay threshold, but no noise."""
    stay = min((camera.sentry.stay_threshold for camera in settings.cameras.values()), default=0.35)
    return max(stay - FLOOR_MARGIN, LOWEST_FLOOR)


class _Status:
    """What the heartbeat says."""

    def __init__(self, detector: Detector, *, embedded: bool) -> None:
        self._detector = detector
        self._fixed = {
            "model": detector.contract.name,
            "model_hash": detector.contract.sha256[:16],
            "embedded": embedded,
        }

    def of(self, cameras: Sequence[Camera], upgrade: Upgrade) -> dict[str, Any]:
        backend = self._detector.backend
        runs = {"provider": backend.provider, "backend": backend.name, "threads": backend.threads}
        status = {camera.id: camera.status for camera in cameras}
        return {**runs, **self._fixed, "backend_choice": str(upgrade.step), "cameras": status}


class _Loop:
    def __init__(self, cameras: Sequence[Camera], bell: Bell, listeners: Sequence[Bell], upgrade: Upgrade) -> None:
        self._upgrade = upgrade
        self._cameras = {camera.id: camera for camera in cameras}
        self._schedule = Schedule(tuple(self._cameras))
        self._bell = bell
        self._listeners = listeners
        self._failures = 0

    def run(self, stop: Stop, heartbeat: Heartbeat, status: _Status) -> None:
        beat_s = 0.0
        cameras = tuple(self._cameras.values())
        while not stop.asked.is_set():
            now_s = time.monotonic()
            if now_s >= beat_s:
                heartbeat.beat(Phase.RUNNING, status.of(cameras, self._upgrade))
                beat_s = now_s + BEAT_S
                if self._upgrade.poll(now_s, quiet=all(camera.quiet for camera in cameras)):
                    heartbeat.beat(Phase.COMPILING, status.of(cameras, self._upgrade))
                    self._upgrade.change()
                    beat_s = 0.0
                    continue
            self._poll(now_s)
            chosen = self._schedule.choose()
            if chosen is None:
                self._bell.wait(WAIT_S)
                continue
            try:
                self._tell(self._cameras[chosen].infer())
                self._failures = 0
            except BackendError:
                if stop.asked.is_set():
                    return
                self._failures += 1
                if self._failures >= MOST_FAILURES:
                    raise

    def _poll(self, now_s: float) -> None:
        for camera in self._cameras.values():
            urgency, published = camera.poll(now_s)
            if urgency is None:
                self._schedule.withdraw(camera.id)
            else:
                self._schedule.offer(camera.id, urgency)
            self._tell(published)

    def _tell(self, published: bool) -> None:  # noqa: FBT001 - the answer of the call before
        if published:
            for listener in self._listeners:
                listener.ring()
