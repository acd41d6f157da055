"""The loop of one camera: waits for the camera and for its bell at once, so that a new order takes effect immediately.

It never gives up on a camera; only settings that cannot work, shared memory that is not there and signals end it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import random
import select
import time
from typing import TYPE_CHECKING, Final

from detr_sentry.capture.link import Link
from detr_sentry.capture.orders import OFF, Orders
from detr_sentry.capture.pacing import LOCAL_RETRY, LOGIN_RETRY, NETWORK_RETRY, Backoff, Pacer, RetryPolicy
from detr_sentry.capture.picture import PictureWatch
from detr_sentry.capture.publisher import Publisher
from detr_sentry.capture.source import FULL_RATE, Source, SourceInfo
from detr_sentry.capture.sources import make_source
from detr_sentry.errors import (
    BadFrameError,
    SourceEndedError,
    SourceError,
    SourceFormatError,
    SourceStalledError,
    SourceUnauthorizedError,
)
from detr_sentry.ipc.bells import Bell
from detr_sentry.ipc.heartbeat import Heartbeat, Phase
from detr_sentry.ipc.layout import Layout
from detr_sentry.source_url import parse_source

if TYPE_CHECKING:
    from collections.abc import Sequence

    from detr_sentry.capture.source import RawFrame
    from detr_sentry.settings import Settings

WAIT_S: Final = 0.25
"""Longest wait: a lost bell, a new ring epoch and a hung camera are noticed within this time."""
STALL_S: Final = 5.0
"""A camera that sends nothing for so long is opened anew; network cameras hiccup for two or three seconds."""
BEAT_NS: Final = 200_000_000
MOST_WRONG_SIZES: Final = 5
"""Frames of another size in a row after which the camera is asked anew what it delivers."""
_FULL_MARGIN: Final = 1.1  # a camera this little above the wanted rate is not thinned: it would only stutter

log = logging.getLogger("detr_sentry.capture")


class Stop:
    """The request to end: a flag, and a descriptor that wakes the loop."""

    def __init__(self) -> None:
        self.asked = False
        self._read_fd, self._write_fd = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)

    def ask(self) -> None:
        """Ask to end; from any thread."""
        self.asked = True
        with contextlib.suppress(OSError):
            os.write(self._write_fd, b"!")

    def fileno(self) -> int:
        """Readable once asked."""
        return self._read_fd

    def close(self) -> None:
        """Release the descriptors; nobody may ask any more."""
        os.close(self._read_fd)
        os.close(self._write_fd)


class Capture:
    """One camera's loop. Raises SettingsError, IpcError and their kin when made."""

    def __init__(self, settings: Settings, camera_id: str, stop: Stop) -> None:
        self._stop = stop
        self._camera = camera = settings.camera(camera_id)
        self._spec = parse_source(camera.source)
        self._source: Source = make_source(camera)
        layout = Layout(settings.shm_root, settings.instance)
        layout.create()
        self._link = Link(camera.id, self._spec.redacted)
        with contextlib.ExitStack() as cleanup:
            # The ring's writer lock comes first: a second capture of this camera must not touch the heartbeat.
            self._publisher = Publisher(layout, camera.id, settings.telemetry)
            cleanup.callback(self._publisher.close)
            self._bell = Bell(layout.bell("capture", camera.id))
            cleanup.callback(self._bell.close)
            self._orders = Orders(
                layout.stream(camera.id, "sentry"),
                camera.id,
                standby_fps=camera.standby_fps,
                state_dir=settings.state_dir,
            )
            cleanup.callback(self._orders.close)
            self._heartbeat = Heartbeat(layout.heartbeat("capture", camera.id), "capture", camera.id)
            cleanup.callback(self._heartbeat.close)
            self._heartbeat.beat(Phase.STARTING, self._link.status(time.monotonic_ns()))
            self._cleanup = cleanup.pop_all()
        self._watch = PictureWatch()
        self._backoff = Backoff()
        self._pacer = Pacer(0.0, 0)
        self._rate = camera.standby_fps
        self._info: SourceInfo | None = None  # None: closed
        self._ended = False
        self._armed = False  # a fresh frame is being waited for
        self._alive_ns = 0  # when a good frame came last, or was first waited for
        self._opened_ns = 0
        self._retry_ns = 0
        self._beat_ns = 0
        self._wrong_sizes = 0

    def serve(self) -> None:
        """The loop, until asked to stop. Raises IpcError where shared memory fails for good."""
        while not self._stop.asked:
            self._obey()
            now_ns = time.monotonic_ns()
            try:
                if self._info is not None:
                    self._stream(now_ns)
                elif self._rate == OFF or self._ended:
                    self._wait(WAIT_S)
                elif now_ns >= self._retry_ns:
                    self._open()
                else:
                    self._wait((self._retry_ns - now_ns) / 1e9)
            except SourceError as error:
                self._lost(error)
            self._beat(Phase.RUNNING)

    def close(self) -> None:
        """Release the camera and everything else."""
        self._source.close()
        self._cleanup.close()

    def _obey(self) -> None:
        """Follow what the controller asks now."""
        rate = self._orders.rate()
        if rate == self._rate and (rate != OFF or self._info is None):
            return
        was_off, self._rate = self._rate == OFF, rate
        if rate == OFF:
            self._close_source()
            self._publisher.clear()
            self._link.off()
            self._beat_ns = 0
        elif was_off:
            self._ended, self._retry_ns = False, 0
            self._link.connecting()
        elif self._info is not None:
            self._set_rate(time.monotonic_ns())

    def _set_rate(self, now_ns: int) -> None:
        info = self._info
        assert info is not None
        self._source.set_rate(self._rate)
        self._pacer.set_rate(self._paced_rate(info), now_ns)
        if self._armed or self._pacer.rate:
            self._armed = False
            return
        self._arm(now_ns, fresh=True)

    def _paced_rate(self, info: SourceInfo) -> float:
        """The pacer's rate: 0.0 where a pushing source's own rate is right."""
        wanted = self._camera.fps if self._rate == FULL_RATE else self._rate
        if self._source.fileno() is None:
            return min(wanted, info.fps or wanted)
        return 0.0 if info.fps <= wanted * _FULL_MARGIN and (info.fps or self._rate == FULL_RATE) else wanted

    def _open(self) -> None:
        self._beat(Phase.CONNECTING, at_once=True)
        info = self._source.open(self._keep_waiting)
        self._opened_ns = time.monotonic_ns()
        self._adopt(info)
        self._watch = PictureWatch()
        self._source.set_rate(self._rate)
        self._pacer = Pacer(self._paced_rate(info), self._opened_ns)
        self._alive_ns = self._opened_ns
        self._armed = False

    def _adopt(self, info: SourceInfo) -> None:
        self._publisher.adopt(info)
        self._info = info
        self._wrong_sizes = 0
        self._link.geometry = {"width": info.width, "height": info.height, "pixel_format": info.pixel_format.name}

    def _keep_waiting(self) -> bool:
        """While a source connects: beat, and give up when asked to end or to switch off."""
        self._beat(Phase.CONNECTING)
        return not self._stop.asked and self._orders.rate() != OFF

    def _stream(self, now_ns: int) -> None:
        """One step of an open source: wait for the tick, then for a fresh frame, then take it."""
        descriptor = self._source.fileno()
        if not self._armed:
            if not self._pacer.due(now_ns):
                self._wait(self._pacer.wait_s(now_ns))
                return
            self._arm(now_ns, fresh=bool(self._pacer.rate))
        if descriptor is not None and not self._wait(WAIT_S, descriptor):
            self._check_stall()
            return
        try:
            frame = self._source.grab()
            if frame is None:
                time.sleep(0.001)  # a descriptor that is readable without a frame must not spin
                self._check_stall()
                return
            self._take(frame)
        except BadFrameError as error:
            self._bad(error)

    def _arm(self, now_ns: int, *, fresh: bool) -> None:
        if fresh:
            self._source.discard()
        self._armed = True
        self._alive_ns = now_ns

    def _take(self, frame: RawFrame) -> None:
        if frame.info is not None:
            self._adopt(frame.info)
            self._pacer.set_rate(self._paced_rate(frame.info), time.monotonic_ns())
        info = self._info
        assert info is not None
        data, timestamp_ns = self._publisher.publish(frame)
        now_ns = time.monotonic_ns()
        self._link.frame(timestamp_ns, frame.captured_monotonic_ns)
        self._watch.look(data, info.pixel_format, info.width, info.height, now_ns)
        self._link.picture_problem = self._watch.problem
        self._wrong_sizes = 0
        self._alive_ns = now_ns
        # A pulled frame that was late is no reason to skip the tick after it.
        self._next(now_ns if self._source.fileno() is not None else frame.captured_monotonic_ns)

    def _next(self, now_ns: int) -> None:
        self._pacer.take(now_ns)
        self._armed = not self._pacer.rate

    def _bad(self, error: BadFrameError) -> None:
        """Count a broken frame; raises SourceFormatError when the camera's size has really changed."""
        self._link.dropped(error.reason)
        log.debug("camera %s: frame dropped: %s", self._camera.id, error)
        if error.reason in {"no_slot", "no_memory", "too_big"}:  # the camera is well
            if error.reason != "no_slot":
                self._link.picture_problem = error.reason
            self._alive_ns = time.monotonic_ns()
            self._next(self._alive_ns)
            return
        self._wrong_sizes = self._wrong_sizes + 1 if error.reason == "wrong_size" else 0
        if self._wrong_sizes >= MOST_WRONG_SIZES:
            raise SourceFormatError(f"{self._spec.redacted} changed its picture: {error}")
        self._check_stall(f"; the last frame was dropped: {error}")

    def _check_stall(self, why: str = "") -> None:
        if time.monotonic_ns() - self._alive_ns > STALL_S * 1e9:
            raise SourceStalledError(f"{self._spec.redacted} sent no usable frame for {STALL_S:g} s{why}")

    def _lost(self, error: SourceError) -> None:
        now_ns = time.monotonic_ns()
        if self._info is not None:
            self._backoff.lost((now_ns - self._opened_ns) / 1e9)
        self._close_source()
        if self._stop.asked or self._orders.rate() == OFF:
            return
        self._ended = isinstance(error, SourceEndedError)
        self._link.lost(error)
        delay_s = self._backoff.next_s(self._policy(error), random.random())  # noqa: S311 - jitter is no secret
        self._retry_ns = now_ns + int(delay_s * 1e9)

    def _policy(self, error: SourceError) -> RetryPolicy:
        if self._spec.scheme not in {"rtsp", "rtsps", "http", "https"}:
            return LOCAL_RETRY
        return LOGIN_RETRY if isinstance(error, SourceUnauthorizedError) else NETWORK_RETRY

    def _close_source(self) -> None:
        self._info = None
        self._armed = False
        self._source.close()

    def _wait(self, timeout_s: float, descriptor: int | None = None) -> bool:
        """Wait at most WAIT_S for the camera, the bell or the end; True when the camera is ready."""
        watched: Sequence[int] = (self._bell.fileno(), self._stop.fileno())
        if descriptor is not None:
            watched = (*watched, descriptor)
        ready, _, _ = select.select(watched, (), (), min(timeout_s, WAIT_S))
        if not ready:
            self._bell.refresh()
        elif watched[0] in ready:
            self._bell.drain()
        return descriptor is not None and descriptor in ready

    def _beat(self, phase: Phase, *, at_once: bool = False) -> None:
        now_ns = time.monotonic_ns()
        if at_once or now_ns >= self._beat_ns:
            self._heartbeat.beat(phase, self._link.status(now_ns))
            self._beat_ns = now_ns + BEAT_NS
