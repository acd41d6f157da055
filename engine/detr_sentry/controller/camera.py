"""One camera of the controller: reads its detections, runs its sentry, publishes what it wants, takes its pictures."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

from detr_sentry.controller.records import Change, Record
from detr_sentry.controller.snapshot import take_picture
from detr_sentry.errors import CorruptMessageError, IpcError
from detr_sentry.ipc import messages
from detr_sentry.ipc.bells import Bell
from detr_sentry.ipc.messages import DetectionsView, Outcome, SentryView, SentryWriter
from detr_sentry.ipc.ring import RingReader
from detr_sentry.sentry.events import EventType, State
from detr_sentry.sentry.fsm import Observation, Sentry
from detr_sentry.sentry.rules import PERSON_CLASS_ID, Box

if TYPE_CHECKING:
    from collections.abc import Iterator

    from detr_sentry.controller.clock import Clock
    from detr_sentry.controller.snapshot import Picture
    from detr_sentry.ipc.layout import Layout
    from detr_sentry.sentry.events import Best, Mode, Step
    from detr_sentry.settings import CameraSettings

SENTRY_SLOTS = 6  # capture, inference, gateway and one to spare, and two
REPUBLISH_NS = 1_000_000_000  # so that readers can tell a controller that lives, and have a fresh time in the message
RESUME_WITHIN_NS = 10_000_000_000  # an alarm goes on over a restart of the controller that takes no longer
PICTURE_EVERY_NS = 1_000_000_000
NOTE_EVERY_NS = 10_000_000_000  # how exact the end of an alarm is that the controller did not live to see
_BETTER = 1.1  # a picture is replaced by one a tenth better: a person who comes near costs few writes

_log = logging.getLogger("detr_sentry.controller")


class Camera:
    """Owns a camera's rings, bells and sentry. Made before the event loop runs, used only in its thread.

    Raises WriterBusyError, ShmFullError, QueueLimitError.
    """

    def __init__(self, settings: CameraSettings, mode: Mode, layout: Layout, clock: Clock) -> None:
        self.id = settings.id
        self.name = settings.name
        self.corrupt = 0
        self.unpublished = 0
        self.last_event_id: str | None = None
        self._clock = clock
        self._rules = settings.sentry
        self._detections = RingReader(layout.stream(self.id, "detections"))
        self._frames = RingReader(layout.stream(self.id, "frames"))
        self._key: tuple[int, int] | None = None
        self.sentry = Sentry(
            settings.sentry,
            standby_fps=settings.standby_fps,
            now_ns=clock.monotonic_ns(),
            wall_ns=clock.wall_ns(),
            mode=mode,
        )
        self._record: Record | None = None
        self._resume(layout)
        self._writer = SentryWriter(layout.stream(self.id, "sentry"), camera_id=self.id, slots=SENTRY_SLOTS)
        self._rate_bells = [Bell(layout.bell("capture", self.id)), Bell(layout.bell("inference"))]
        self._gateway_bell = Bell(layout.bell("gateway"))
        self._told: tuple[State, Mode, float] | None = None
        self._published_ns = 0
        self._merit = 0.0
        self._pictured_ns = 0
        self._noted_ns = 0

    @property
    def resumed(self) -> str | None:
        """The id of an alarm that goes on over this restart."""
        status = self.sentry.status
        return status.event_id if status.state is State.ALARMED else None

    def _resume(self, layout: Layout) -> None:
        """Take over the alarm of a controller that ended a moment ago: nobody came and nobody went."""
        reader = RingReader(layout.stream(self.id, "sentry"))
        try:
            lease = reader.acquire()
            if lease is None:
                return
            with lease:
                last = SentryView(lease)
        except (CorruptMessageError, OSError):
            return
        finally:
            reader.close()
        age_ns = self._clock.wall_ns() - last.timestamp_ns
        if last.state is messages.State.ALARMED and last.event_id and abs(age_ns) < RESUME_WITHIN_NS:
            self.sentry.resume(last.event_id, since_ns=last.since_ns)
            self.last_event_id = self.resumed
            if self.resumed is not None:
                self._record = Record(
                    event_id=last.event_id, camera=self.id, start_ns=last.since_ns, seen_ns=last.timestamp_ns
                )

    def recall(self, record: Record) -> None:
        """Remember the last alarm of before this start, as far as there was none since."""
        self.last_event_id = self.last_event_id or record.event_id
        self.sentry.recall(last_seen_ns=record.seen_ns)

    def poll(self) -> tuple[Step, bytes | None] | None:
        """Use the newest detections message, if there is one that was not seen; with its trace context."""
        try:
            lease = self._detections.acquire(newer_than=self._key)
            if lease is None:
                return None
            first, self._key = self._key is None, lease.key
            with lease:
                view = DetectionsView(lease)
        except CorruptMessageError as error:
            self.corrupt += 1
            _log.log(
                logging.WARNING if self.corrupt == 1 else logging.DEBUG, "%s: a broken message: %s", self.id, error
            )
            return None
        now_ns = self._clock.monotonic_ns()
        if first and now_ns - view.captured_monotonic_ns > self._rules.blind_after_s * 1e9:
            return None  # left in the ring from before this controller started: it says nothing about now
        return self.sentry.step(self._observation(view), now_ns=now_ns), view.trace

    def _observation(self, view: DetectionsView) -> Observation:
        rows = view.detections
        rows = rows[(rows["class_id"] == PERSON_CLASS_ID) & (rows["confidence"] >= self._rules.stay_threshold)]
        return Observation(
            capture_epoch=view.capture_epoch,
            frame_number=view.frame_number,
            captured_ns=view.captured_monotonic_ns,
            timestamp_ns=view.timestamp_ns,
            inferred=view.outcome is Outcome.INFERRED,
            width=view.width,
            height=view.height,
            boxes=[Box(*row) for row in rows[["x1", "y1", "x2", "y2", "confidence", "class_id"]].tolist()],
        )

    def publish(self, trace: bytes | None = None, *, wake: bool = True) -> None:
        """Tell the other services, waking those whom the change concerns."""
        status = self.sentry.status
        told = (status.state, status.mode, status.capture_fps)
        now_ns = self._clock.monotonic_ns()
        try:
            self._writer.publish(
                state=messages.State[status.state.name],
                mode=messages.Mode[status.mode.name],
                blind=status.blind,
                capture_fps=status.capture_fps,
                since_ns=status.since_ns,
                count=status.count or 0,
                event_id=status.event_id,
                timestamp_ns=self._clock.wall_ns(),
                trace=trace,
            )
        except IpcError as error:  # more readers than slots; the next tick tries again
            self.unpublished += 1
            self._told, self._published_ns = None, 0
            _log.log(logging.WARNING if self.unpublished == 1 else logging.DEBUG, "%s: %s", self.id, error)
            return
        self._published_ns = now_ns
        if told != self._told:
            self._told = told
            for bell in self._rate_bells:
                bell.ring()
        if wake:
            self._gateway_bell.ring()

    def publish_if_due(self) -> None:
        """Publish again what has not been said for a second, without waking anybody."""
        if self._clock.monotonic_ns() - self._published_ns >= REPUBLISH_NS:
            self.publish(wake=False)

    def changes(self, step: Step) -> Iterator[Change]:
        """What the history should know of a step: the start, better pictures and the end of an alarm."""
        now_ns = self._clock.monotonic_ns()
        seen_ns = step.status.last_seen_ns or self._clock.wall_ns()
        for event in step.events:
            if event.type is EventType.HUMAN_DETECTED:
                self.last_event_id = event.event_id
                self._record = Record.of(self.id, event, seen_ns=seen_ns)
                self._merit, self._noted_ns = 0.0, 0
            elif event.type is EventType.STANDBY_RESUMED and self._record is not None:
                ended = Record.of(self.id, event, seen_ns=seen_ns)
                yield Change(record=ended.with_box_of(self._record))
                self._record = None
        if self._record is None:
            return
        count = max(self._record.count, step.status.count or 0)
        self._record = replace(self._record, seen_ns=seen_ns, count=count)
        picture = None if step.candidate is None else self._take(step.candidate, now_ns)
        if picture is not None or now_ns - self._noted_ns >= NOTE_EVERY_NS:
            self._noted_ns = now_ns
            yield Change(record=self._record, picture=picture)

    def _take(self, candidate: Best, now_ns: int) -> Picture | None:
        """A picture of the frame with the candidate, if it is worth it and the frame is still there."""
        assert self._record is not None
        better = candidate.merit > self._merit * _BETTER
        if not better or (self._merit and now_ns - self._pictured_ns < PICTURE_EVERY_NS):
            return None
        try:
            picture = take_picture(self._frames, candidate)
        except CorruptMessageError:
            picture = None
        if picture is not None:
            self._merit, self._pictured_ns = candidate.merit, now_ns
        if picture is not None or self._record.box is None:
            self._record = self._record.showing(candidate)
        return picture

    def close(self) -> None:
        """Let go of the rings; what was published last stays readable."""
        self._writer.close()
        self._detections.close()
        self._frames.close()
        for bell in (*self._rate_bells, self._gateway_bell):
            bell.close()
