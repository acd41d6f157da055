"""One camera as the inference service sees it: newest frame, sentry state, motion gate, counters, detections out."""

from __future__ import annotations

import logging
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np

from detr_sentry.errors import BackendError, BadFrameError, CorruptMessageError
from detr_sentry.inference.motion import MotionGate
from detr_sentry.inference.schedule import Key, SkipCounter, Urgency
from detr_sentry.ipc.messages import (
    DETECTION_DTYPE,
    DetectionsWriter,
    FrameView,
    Mode,
    Outcome,
    SentryView,
    State,
)
from detr_sentry.ipc.ring import RingReader
from detr_sentry.sentry.rules import PERSON_CLASS_ID, Box
from detr_sentry.sentry.tracks import Tracker

if TYPE_CHECKING:
    from collections.abc import Callable

    from detr_sentry.inference.model import Detector
    from detr_sentry.inference.preprocess import Preprocessor
    from detr_sentry.ipc.layout import Layout
    from detr_sentry.ipc.messages import Detections
    from detr_sentry.settings import CameraSettings

DETECTIONS_SLOTS = 5
"""Controller, gateway and a spare reader, plus the two that a ring needs."""
SMOOTHING = 0.1
"""Share of the newest value in the shown times."""

_NOTHING = np.zeros(0, DETECTION_DTYPE)
_log = logging.getLogger("detr_sentry.inference")


class Camera:
    """Takes frames of one camera and publishes one message for each frame taken. Belongs to the service's thread."""

    def __init__(self, settings: CameraSettings, layout: Layout, detector: Detector) -> None:
        self.id = settings.id
        self.state = State.STANDBY
        self.counts: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()
        self._detector = detector
        self._zones = settings.sentry.zones
        self._believed = settings.sentry.stay_threshold
        self._tracker = Tracker()
        self._capture_epoch = 0
        self._frames = RingReader(layout.stream(self.id, "frames"))
        self._sentry = RingReader(layout.stream(self.id, "sentry"))
        self._sentry_key: Key | None = None
        self._forced = False
        self._skips = SkipCounter()
        motion = settings.motion
        self._gate = (
            MotionGate(sensitivity=motion.sensitivity, keep_alive_s=motion.keep_alive_s) if motion.enabled else None
        )
        self._moved = False
        self._cleared = False
        self._inference_ms: float | None = None
        self._decode_ms: float | None = None
        self._writer = DetectionsWriter(layout.stream(self.id, "detections"), camera_id=self.id, slots=DETECTIONS_SLOTS)

    @property
    def status(self) -> dict[str, Any]:
        """What the heartbeat says about this camera."""
        return {
            "inferred": self.counts["inferred"],
            "gated": self.counts["gated"],
            "skipped": self._skips.skipped,
            "errors": sum(self.errors.values()),
            "errors_by_reason": dict(self.errors),
            "unread": self._writer.ring.dropped,
            "inference_ms": _rounded(self._inference_ms),
            "decode_ms": _rounded(self._decode_ms),
        }

    @property
    def quiet(self) -> bool:
        """Whether nobody is believed to be there and nothing moves."""
        return self.state in {State.STANDBY, State.OFF} and not self._moved

    def poll(self, now_s: float) -> tuple[Urgency | None, bool]:
        """Looks for a new state and a new frame; gates the frame in standby.

        Returns how urgently a frame waits for the model (None: none does), and whether a message was published.
        """
        self._follow_sentry()
        if self.state is State.OFF:
            self._clear()
            return None, False
        self._cleared = False
        key = self._frames.latest()
        if key is None or key == self._skips.taken:
            self._moved = self._moved and key is not None
            return None, False
        if self.state is State.VALIDATING:
            return Urgency.VALIDATING, False
        if self.state is State.ALARMED or self._forced:
            return Urgency.ALARMED, False
        if self._moved or self._gate is None:
            return Urgency.STANDBY, False
        published = self._take(lambda view, pixels: self._look_for_motion(view, pixels, now_s))
        return (Urgency.STANDBY if self._moved else None), published

    def infer(self) -> bool:
        """Runs the model on the newest frame; True if a message was published."""
        self._moved = False
        return self._take(self._infer)

    def close(self) -> None:
        """Lets go of the rings; readers keep the last message."""
        self._frames.close()
        self._sentry.close()
        self._writer.close()

    def _take(self, work: Callable[[FrameView, Preprocessor], Callable[[FrameView], bool] | None]) -> bool:
        """Leases the newest frame, lets `work` read it, releases it, and then does what `work` returned.

        A broken frame is counted by reason and counts as taken, so it is not tried again.
        """
        lease = self._frames.acquire(newer_than=self._skips.taken)
        if lease is None:
            return False
        key = lease.key
        view = then = None
        with lease:
            try:
                view = FrameView(lease)
                then = work(view, self._detector.preprocessor)
            except BadFrameError as error:
                self._count_error(error.reason, error)
            except CorruptMessageError as error:
                self._count_error("corrupt", error)
        if view is None or then is None:
            if not self._moved:
                self._skips.take(key)
            return False
        self._skips.take(key)
        return then(view)

    def _look_for_motion(
        self, view: FrameView, pixels: Preprocessor, now_s: float
    ) -> Callable[[FrameView], bool] | None:
        """Decides on a standby frame; one that moved stays untaken, for the model."""
        assert self._gate is not None
        begun_ns = time.perf_counter_ns()
        gray = pixels.gray(view.data, pixel_format=view.pixel_format, width=view.width, height=view.height)
        self._moved = self._gate.update(gray, now_s).passes
        if self._moved:
            return None
        decode_ns = time.perf_counter_ns() - begun_ns
        return lambda view: self._publish(view, _NOTHING, Outcome.GATED, decode_ns=decode_ns)

    def _infer(self, view: FrameView, pixels: Preprocessor) -> Callable[[FrameView], bool]:
        begun_ns = time.perf_counter_ns()
        pixels.load(view.data, pixel_format=view.pixel_format, width=view.width, height=view.height)
        decode_ns = time.perf_counter_ns() - begun_ns
        return lambda view: self._detect(view, decode_ns)

    def _detect(self, view: FrameView, decode_ns: int) -> bool:
        begun_ns = time.perf_counter_ns()
        try:
            found = self._detector.detect(width=view.width, height=view.height, zones=self._zones)
        except BackendError as error:
            self._count_error("backend", error)
            raise
        inference_ns = time.perf_counter_ns() - begun_ns
        self._follow(found, view)
        self._inference_ms = _smooth(self._inference_ms, inference_ns)
        self._decode_ms = _smooth(self._decode_ms, decode_ns)
        return self._publish(view, found, Outcome.INFERRED, decode_ns=decode_ns, inference_ns=inference_ns)

    def _follow(self, found: Detections, view: FrameView) -> None:
        """Gives the persons that keep an alarm their track ids; ids never repeat across captures of the camera."""
        if view.capture_epoch != self._capture_epoch:
            self._capture_epoch = view.capture_epoch
            self._tracker.clear()
        chosen = np.flatnonzero((found["class_id"] == PERSON_CLASS_ID) & (found["confidence"] >= self._believed))
        boxes = [Box(*row) for row in found[chosen][["x1", "y1", "x2", "y2", "confidence"]].tolist()]
        tracks = self._tracker.update(boxes, view.captured_monotonic_ns / 1e9)
        found["track_id"][chosen] = [track.track_id if track else 0 for track in tracks]

    def _publish(
        self, view: FrameView, found: Detections, outcome: Outcome, *, decode_ns: int, inference_ns: int = 0
    ) -> bool:
        self.counts[outcome.name.lower()] += 1
        sequence = self._writer.publish(
            frame_number=view.frame_number,
            capture_epoch=view.capture_epoch,
            timestamp_ns=view.timestamp_ns,
            captured_monotonic_ns=view.captured_monotonic_ns,
            pts_ns=view.pts_ns,
            width=view.width,
            height=view.height,
            detections=found,
            outcome=outcome,
            model_hash=self._detector.contract.hash8,
            provider=self._detector.backend.provider,
            inference_ns=inference_ns,
            decode_ns=decode_ns,
            trace=view.trace,
        )
        return sequence is not None

    def _follow_sentry(self) -> None:
        key = self._sentry.latest()
        if key is None or key == self._sentry_key:
            return
        lease = self._sentry.acquire()
        if lease is None:
            return
        with lease:
            self._sentry_key = lease.key
            try:
                sentry = SentryView(lease)
            except CorruptMessageError as error:
                self._count_error("corrupt_sentry", error)
                return
        self.state = sentry.state
        self._forced = sentry.mode is Mode.ALARMED

    def _clear(self) -> None:
        """Mode off: nothing of the picture stays, neither in shared memory nor in the gate."""
        if self._cleared:
            return
        self._writer.clear()
        self._moved = False
        self._tracker.clear()
        if self._gate is not None:
            self._gate.reset()
        self._cleared = True

    def _count_error(self, reason: str, error: Exception) -> None:
        self.errors[reason] += 1
        first = self.errors[reason] == 1
        _log.log(
            logging.WARNING if first else logging.DEBUG,
            "%s: %s%s",
            self.id,
            str(error),  # not the error: its traceback holds the frame, and a log handler may keep its arguments
            " (repeats are counted)" if first else "",
        )


def _smooth(shown_ms: float | None, newest_ns: int) -> float:
    newest_ms = newest_ns / 1e6
    return newest_ms if shown_ms is None else shown_ms + SMOOTHING * (newest_ms - shown_ms)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 2)
