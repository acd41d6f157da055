"""The sentry's state machine: standby -> validating -> alarmed -> standby, off, and the flag blind. Pure.

Inputs are messages (`step`), the clock (`tick`) and the user's mode (`set_mode`); each answers with a `Step`. The
caller's clock (`now_ns`, monotonic, the same clock as `captured_ns`) decides only blindness; every other timer runs in
capture time, so a slow model or a late wake-up never shortens a hold.

* A message is used at most once: its identity is (capture_epoch, frame_number). Duplicates and late ones change
  nothing, not even blindness. Skipped numbers are counted. A new epoch clears the window and restarts the timers, but
  keeps the state.
* Only inferred frames feed validation and exit. A gated frame shows that camera and inference live; in standby, where
  the window holds no person, that is the same as an empty frame.
* Validation ends without an alarm on a frame that makes `window` distinct inferred frames in a row without a person, on
  `validating_timeout_s` of capture time without one, or, while persons come and go without ever being `hits` of
  `window`, on an empty frame `validating_timeout_s` after its start once the window was filled. A model slower than the
  time-out can therefore still confirm a person.
* Dwell is asked of a person who starts an alarm, not of one who keeps it: a lost track must not end an alarm.
* While blind, timers stop: on recovery the hold, the validation's time-out and the dwell start anew.
* Forced modes `standby` and `alarmed` change only `capture_fps`; the machine runs on, so `human_detected` still comes.
* `off` ends an alarm with `standby_resumed` (state `off`), so that every alarm has an end.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from detr_sentry.sentry.events import Best, Event, EventType, Mode, State, Status, Step, new_event_id
from detr_sentry.sentry.rules import Box, Rules, candidates, merit
from detr_sentry.sentry.tracks import Tracker

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

FULL_RATE = -1.0  # the camera's own full rate
_NS = 1_000_000_000
_REMEMBERED_EPOCHS = 8  # a late message can only come from a capture that was just replaced


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """One detections message. `captured_ns` is monotonic, `timestamp_ns` Unix; boxes are pixels of width x height."""

    capture_epoch: int
    frame_number: int
    captured_ns: int
    timestamp_ns: int
    inferred: bool
    width: int
    height: int
    boxes: Sequence[Box] = ()


@dataclass(slots=True)
class Counters:
    """What happened to the messages. `gaps` counts frame numbers that never came."""

    used: int = 0
    gaps: int = 0
    duplicates: int = 0
    late: int = 0
    epochs: int = 0


class Sentry:
    """The state machine of one camera. Not thread-safe; owned by one loop."""

    def __init__(
        self,
        rules: Rules,
        *,
        standby_fps: float,
        now_ns: int,
        wall_ns: int,
        mode: Mode = Mode.AUTO,
        new_id: Callable[[int], str] = new_event_id,
    ) -> None:
        self.counters = Counters()
        self._rules = rules
        self._standby_fps = standby_fps
        self._new_id = new_id
        self._mode = mode
        self._state = State.OFF if mode is Mode.OFF else State.STANDBY
        self._since_ns = wall_ns
        self._tracker = Tracker()
        self._window: deque[bool] = deque(maxlen=rules.window)
        self._epoch: int | None = None
        self._number = 0
        self._old_epochs: deque[int] = deque(maxlen=_REMEMBERED_EPOCHS)
        self._heard_ns = now_ns  # when the last message of either outcome came, on the caller's clock
        self._seen_any = False  # a message was used since the camera was switched on
        self._blind = False
        self._time_ns = 0  # capture time, never running backwards
        self._anchor_ns = 0  # capture time of the last person, or of a restart of the timers
        self._started_ns = 0  # capture time at which validation started or its timer restarted
        self._frames = 0  # distinct inferred frames of this validation
        self._misses = 0  # distinct inferred frames in a row without a person
        self._count = 0
        self._last_seen_ns: int | None = None
        self._episode: Event | None = None

    @property
    def status(self) -> Status:
        """What is true now."""
        knows = self._state is not State.OFF and not self._blind and self._seen_any
        alarmed = self._state is State.ALARMED
        return Status(
            state=self._state,
            mode=self._mode,
            blind=self._blind,
            capture_fps=self._capture_fps(),
            since_ns=self._since_ns,
            person=alarmed if knows else None,
            count=(self._count if alarmed else 0) if knows else None,
            event_id=self._episode.event_id if self._episode else "",
            last_seen_ns=self._last_seen_ns,
        )

    def _capture_fps(self) -> float:
        if self._mode is Mode.OFF:
            return 0.0
        if self._mode is Mode.STANDBY:
            return self._standby_fps
        if self._mode is Mode.ALARMED or self._state is not State.STANDBY:
            return FULL_RATE
        return self._standby_fps

    def set_mode(self, mode: Mode, *, now_ns: int, wall_ns: int) -> Step:
        """The user's choice. Off forgets what was seen; on from off starts in standby with a fresh blind timer."""
        before = self.status
        events: list[Event] = []
        was_off, self._mode = self._mode is Mode.OFF, mode
        if mode is Mode.OFF and not was_off:
            if self._state is State.ALARMED:
                events.append(self._end_alarm(State.OFF, wall_ns))
            self._enter(State.OFF, wall_ns)
            self._episode = None
            self._window.clear()
            self._tracker.clear()
            self._blind = self._seen_any = False
        elif was_off and mode is not Mode.OFF:
            self._enter(State.STANDBY, wall_ns)
            self._heard_ns = now_ns
        return self._answer(before, events)

    def resume(self, event_id: str, *, since_ns: int) -> None:
        """Take over an alarm that another sentry of this camera had raised at `since_ns` (Unix); not while off.

        Its hold starts anew with the first message, as after blindness.
        """
        if self._state is State.OFF:
            return
        self._enter(State.ALARMED, since_ns)
        self._episode = Event(
            event_id=event_id,
            type=EventType.HUMAN_DETECTED,
            state=State.ALARMED,
            previous_state=State.VALIDATING,
            timestamp_ns=since_ns,
            start_ns=since_ns,
        )

    def recall(self, *, last_seen_ns: int) -> None:
        """Remember when a person was last seen (Unix), where this sentry has seen nobody yet."""
        if self._last_seen_ns is None:
            self._last_seen_ns = last_seen_ns

    def tick(self, *, now_ns: int) -> Step:
        """Notice blindness. Call it at least every few hundred milliseconds."""
        before = self.status
        self._watch(now_ns)
        return self._answer(before, [])

    def step(self, message: Observation, *, now_ns: int) -> Step:
        """Use one message. `now_ns` is the monotonic time at which it was read."""
        before = self.status
        fresh_epoch = message.capture_epoch != self._epoch
        if not self._take_identity(message):
            return self._answer(before, [])
        if self._mode is Mode.OFF:
            return self._answer(before, [])

        self.counters.used += 1
        self._watch(now_ns)
        self._time_ns = max(self._time_ns, min(message.captured_ns, now_ns))
        self._heard_ns = now_ns
        recovered, self._blind = self._blind, False
        if fresh_epoch:
            self._window.clear()
            self._misses = self._frames = 0
        if fresh_epoch or recovered or not self._seen_any:
            self._anchor_ns = self._started_ns = self._time_ns
            self._tracker.clear()
        self._seen_any = True

        events: list[Event] = []
        candidate: Best | None = None
        if message.inferred:
            candidate = self._judge(message, events)
        elif self._state is State.VALIDATING and self._waited(self._anchor_ns):
            self._resume_standby(message.timestamp_ns, events)
        return self._answer(before, events, used=True, candidate=candidate)

    def _take_identity(self, message: Observation) -> bool:
        """Whether the message is new; remembers it."""
        if message.capture_epoch == self._epoch:
            if message.frame_number <= self._number:
                if message.frame_number == self._number:
                    self.counters.duplicates += 1
                else:
                    self.counters.late += 1
                return False
            self.counters.gaps += message.frame_number - self._number - 1
        elif message.capture_epoch in self._old_epochs:
            self.counters.late += 1
            return False
        else:
            if self._epoch is not None:
                self._old_epochs.append(self._epoch)
            self._epoch = message.capture_epoch
            self.counters.epochs += 1
        self._number = message.frame_number
        return True

    def _watch(self, now_ns: int) -> None:
        if self._mode is not Mode.OFF and now_ns - self._heard_ns >= self._rules.blind_after_s * _NS:
            self._blind = True

    def _waited(self, since_ns: int) -> bool:
        return self._time_ns - since_ns >= self._rules.validating_timeout_s * _NS

    def _judge(self, message: Observation, events: list[Event]) -> Best | None:
        """Feed one inferred frame. Returns the frame's best person where the camera is alarmed after it."""
        persons = candidates(message.boxes, self._rules, message.width, message.height)
        entering = self._entering(persons)
        passes = bool(persons) if self._state is State.ALARMED else entering
        self._window.append(passes)
        self._misses = 0 if passes else self._misses + 1
        if passes:
            self._anchor_ns = self._time_ns
            self._last_seen_ns = message.timestamp_ns

        if self._state is State.STANDBY and passes:
            self._start_validation(message.timestamp_ns, events)
        if self._state is State.VALIDATING:
            self._frames += 1
            if sum(self._window) >= self._rules.hits:
                self._raise_alarm(message.timestamp_ns, events)
            elif self._gave_up(passes=passes):
                self._resume_standby(message.timestamp_ns, events)
        elif self._state is State.ALARMED and self._gone():
            self._resume_standby(message.timestamp_ns, events)
        if self._state is not State.ALARMED:
            return None
        self._count = len(persons)
        return self._note_best(message, persons)

    def _entering(self, persons: list[Box]) -> bool:
        """Whether one of the persons may start an alarm: enter threshold, and dwell where it is asked."""
        if self._rules.dwell_s <= 0:
            return any(box.score >= self._rules.enter_threshold for box in persons)
        now_s = self._time_ns / _NS
        tracks = self._tracker.update(persons, now_s)
        return any(
            track is not None and now_s - track.first_s >= self._rules.dwell_s
            for box, track in zip(persons, tracks, strict=True)
            if box.score >= self._rules.enter_threshold
        )

    def _gave_up(self, *, passes: bool) -> bool:
        if passes:
            return False
        if self._misses >= self._rules.window or self._waited(self._anchor_ns):
            return True
        return self._frames >= self._rules.window and self._waited(self._started_ns)

    def _gone(self) -> bool:
        held = self._time_ns - self._anchor_ns >= self._rules.hold_s * _NS
        return self._misses >= self._rules.exit_frames and held

    def _start_validation(self, timestamp_ns: int, events: list[Event]) -> None:
        self._enter(State.VALIDATING, timestamp_ns)
        self._started_ns, self._frames = self._time_ns, 0
        self._episode = Event(
            event_id=self._new_id(timestamp_ns),
            type=EventType.VALIDATION_STARTED,
            state=State.VALIDATING,
            previous_state=State.STANDBY,
            timestamp_ns=timestamp_ns,
            start_ns=timestamp_ns,
        )
        events.append(self._episode)

    def _raise_alarm(self, timestamp_ns: int, events: list[Event]) -> None:
        assert self._episode is not None
        self._enter(State.ALARMED, timestamp_ns)
        self._episode = replace(
            self._episode,
            type=EventType.HUMAN_DETECTED,
            state=State.ALARMED,
            previous_state=State.VALIDATING,
            timestamp_ns=timestamp_ns,
            start_ns=timestamp_ns,
        )
        events.append(self._episode)

    def _end_alarm(self, state: State, timestamp_ns: int) -> Event:
        assert self._episode is not None
        return replace(
            self._episode,
            type=EventType.STANDBY_RESUMED,
            state=state,
            previous_state=State.ALARMED,
            timestamp_ns=timestamp_ns,
            end_ns=timestamp_ns,
        )

    def _resume_standby(self, timestamp_ns: int, events: list[Event]) -> None:
        if self._state is State.ALARMED:
            events.append(self._end_alarm(State.STANDBY, timestamp_ns))
        self._enter(State.STANDBY, timestamp_ns)
        self._episode = None
        self._window.clear()

    def _enter(self, state: State, timestamp_ns: int) -> None:
        self._state, self._since_ns, self._count, self._misses = state, timestamp_ns, 0, 0

    def _note_best(self, message: Observation, persons: list[Box]) -> Best | None:
        assert self._episode is not None
        if not persons:
            return None
        box = max(persons, key=lambda person: merit(person, message.width, message.height))
        candidate = Best(
            capture_epoch=message.capture_epoch,
            frame_number=message.frame_number,
            timestamp_ns=message.timestamp_ns,
            box=box,
            width=message.width,
            height=message.height,
            merit=merit(box, message.width, message.height),
        )
        best = self._episode.best
        self._episode = replace(
            self._episode,
            count=max(self._episode.count, len(persons)),
            best=candidate if best is None or candidate.merit > best.merit else best,
        )
        return candidate

    def _answer(
        self, before: Status, events: list[Event], *, used: bool = False, candidate: Best | None = None
    ) -> Step:
        status = self.status
        return Step(status=status, changed=status != before, used=used, events=tuple(events), candidate=candidate)
