"""Trial 35: the sentry against a slow, plain second statement of it.

The reference keeps the whole log of what was accepted and looks things up in it, where the real one keeps counters and
timers. It knows only times in nanoseconds and kinds of frames: "enter", "stay", "empty" and "gated".
"""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from detr_sentry.sentry.events import EventType, Mode, State, Step
from detr_sentry.sentry.fsm import Observation, Sentry
from detr_sentry.sentry.rules import Box
from detr_sentry.settings import SentrySettings

pytestmark = pytest.mark.timeout(120)  # hundreds of random stories

WALL_NS = 1_700_000_000_000_000_000
KINDS = {"enter": 0.9, "stay": 0.4, "empty": 0.1, "gated": None}
PRESETS = [
    SentrySettings(),
    SentrySettings(hits=3, window=3, exit_frames=40, hold_s=0.0),
    SentrySettings(hits=1, window=1, exit_frames=1, hold_s=0.0),
    SentrySettings(hits=2, window=4, exit_frames=2, hold_s=1.0, blind_after_s=1.0),
]


def nanoseconds(seconds: float) -> int:
    return round(seconds * 1_000_000_000)


@dataclass
class Reference:
    rules: SentrySettings
    now: int = 0
    mode: str = "auto"
    state: str = "standby"
    heard: int = 0
    blind: bool = False
    seen: bool = False
    epochs: list[int] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    window: list[bool] = field(default_factory=list)  # since the window was last cleared
    run: list[bool] = field(default_factory=list)  # since the state began, or the epoch
    clock: int = 0
    person_at: int = 0
    validating_at: int = 0
    alarms: int = 0
    ends: int = 0

    def set_mode(self, mode: str) -> None:
        if mode == "off" and self.mode != "off":
            self.ends += self.state == "alarmed"
            self.state, self.window, self.run, self.blind, self.seen = "off", [], [], False, False
        if mode != "off" and self.mode == "off":
            self.state, self.heard = "standby", self.now
        self.mode = mode

    def wait(self, seconds: float) -> None:
        self.now += nanoseconds(seconds)

    def look(self) -> None:
        if self.mode != "off" and self.now - self.heard >= nanoseconds(self.rules.blind_after_s):
            self.blind = True

    def message(self, epoch: int, number: int, captured: int, kind: str) -> None:
        first_of_epoch = epoch not in self.epochs
        if first_of_epoch:
            self.epochs.append(epoch)
            self.numbers = []
        elif epoch != self.epochs[-1] or number <= max(self.numbers):
            return
        self.numbers.append(number)
        if self.mode == "off":
            return
        self.look()
        restart = first_of_epoch or self.blind or not self.seen
        self.heard, self.blind, self.seen = self.now, False, True
        self.clock = max(self.clock, min(captured, self.now))
        if first_of_epoch:
            self.window, self.run = [], []
        if restart:
            self.person_at = self.validating_at = self.clock
        if kind != "gated":
            self.inferred(kind)
        elif self.state == "validating" and self.clock - self.person_at >= nanoseconds(self.rules.validating_timeout_s):
            self.go("standby")

    def inferred(self, kind: str) -> None:
        person = kind == "enter" or (kind == "stay" and self.state == "alarmed")
        self.window.append(person)
        if person:
            self.person_at = self.clock
        if self.state == "standby" and person:
            self.go("validating")
            self.validating_at = self.clock
        self.run.append(person)
        if self.state == "validating":
            self.validate(person=person)
        elif self.state == "alarmed":
            tail = self.run[-self.rules.exit_frames :]
            gone_for = self.clock - self.person_at
            if len(tail) == self.rules.exit_frames and not any(tail) and gone_for >= nanoseconds(self.rules.hold_s):
                self.ends += 1
                self.go("standby")

    def validate(self, *, person: bool) -> None:
        n, timeout = self.rules.window, nanoseconds(self.rules.validating_timeout_s)
        if self.window[-n:].count(True) >= self.rules.hits:
            self.alarms += 1
            self.go("alarmed")
            return
        empty_row = len(self.run) >= n and not any(self.run[-n:])
        nobody_for = self.clock - self.person_at
        undecided = len(self.run) >= n and self.clock - self.validating_at >= timeout
        if not person and (empty_row or nobody_for >= timeout or undecided):
            self.go("standby")

    def go(self, state: str) -> None:
        self.state, self.run = state, []
        if state == "standby":
            self.window = []

    @property
    def person(self) -> bool | None:
        if self.state == "off" or self.blind or not self.seen:
            return None
        return self.state == "alarmed"

    @property
    def capture_fps(self) -> float:
        if self.mode == "off":
            return 0.0
        if self.mode == "auto":
            return 3.0 if self.state == "standby" else -1.0
        return {"standby": 3.0, "alarmed": -1.0}[self.mode]


class SentryAgainstReference(RuleBasedStateMachine):
    """Any order of frames, duplicates, late frames, epochs, silences and modes."""

    @initialize(rules=st.sampled_from(PRESETS))
    def start(self, rules: SentrySettings) -> None:
        self.limits = rules
        self.reference = Reference(rules=rules)
        self.sentry = Sentry(rules, standby_fps=3.0, now_ns=0, wall_ns=WALL_NS)
        self.epoch, self.number = 1, 0
        self.sent: list[Observation] = []
        self.entering: list[bool] = []  # every distinct inferred frame since off or a new epoch
        self.alarms = self.ends = 0
        self.open: str | None = None

    def note(self, step: Step) -> None:
        for event in step.events:
            if event.type is EventType.HUMAN_DETECTED:
                assert self.open is None
                self.open = event.event_id
                self.alarms += 1
                last = self.entering[-self.limits.window :]

                assert sum(last) >= self.limits.hits
            elif event.type is EventType.STANDBY_RESUMED:
                assert self.open == event.event_id
                assert event.end_ns is not None
                assert event.best is not None
                assert event.count == 1
                self.open = None
                self.ends += 1

    def send(self, kind: str, *, waited: float, age: float) -> None:
        self.reference.wait(waited)
        now = self.reference.now
        captured, score = now - nanoseconds(age), KINDS[kind]
        message = Observation(
            capture_epoch=self.epoch,
            frame_number=self.number,
            captured_ns=captured,
            timestamp_ns=WALL_NS + captured,
            inferred=score is not None,
            width=640,
            height=480,
            boxes=() if score is None else (Box(10, 10, 110, 210, score),),
        )
        self.sent.append(message)
        if score is not None and self.reference.mode != "off":
            self.entering.append(score >= self.limits.enter_threshold)
        self.reference.message(self.epoch, self.number, captured, kind)
        self.note(self.sentry.step(message, now_ns=now))

    @rule(
        kind=st.sampled_from([*KINDS, "enter", "enter"]),
        waited=st.sampled_from([0.03, 0.1, 0.34, 1.0, 2.5]),
        age=st.sampled_from([0.0, 0.02, 0.3, -0.5]),
        skip=st.sampled_from([1, 1, 1, 2, 7]),
    )
    def frame(self, kind: str, waited: float, age: float, skip: int) -> None:
        self.number += skip
        self.send(kind, waited=waited, age=age)

    @rule(kind=st.sampled_from(["enter", "empty"]), frames=st.integers(2, 45), waited=st.sampled_from([0.04, 0.5]))
    def frames(self, kind: str, frames: int, waited: float) -> None:
        for _ in range(frames):
            self.number += 1
            self.send(kind, waited=waited, age=0.02)

    @rule(
        kinds=st.lists(st.sampled_from(["enter", "empty", "empty"]), min_size=3, max_size=9),
        waited=st.sampled_from([0.1, 0.4, 0.7, 1.1, 2.1]),
    )
    def persons_that_come_and_go(self, kinds: list[str], waited: float) -> None:
        for kind in kinds:
            self.number += 1
            self.send(kind, waited=waited, age=0.02)
            self.agrees()

    @rule(kind=st.sampled_from([*KINDS]))
    def first_frame_of_a_new_epoch(self, kind: str) -> None:
        self.epoch, self.number = self.epoch + 1, 1
        self.entering.clear()
        self.send(kind, waited=0.1, age=0.02)

    @precondition(lambda self: self.sent)
    @rule(data=st.data())
    def duplicate_or_late(self, data: st.DataObject) -> None:
        candidates = [message for message in self.sent if message.capture_epoch > self.epoch - 8]
        message = data.draw(st.sampled_from(candidates))
        before = self.sentry.status
        step = self.sentry.step(message, now_ns=self.reference.now)

        assert before == step.status
        assert (False, False, (), None) == (step.used, step.changed, step.events, step.candidate)

    @rule(seconds=st.sampled_from([0.2, 0.9, 1.0, 2.9, 3.0, 10.0]))
    def silence(self, seconds: float) -> None:
        self.reference.wait(seconds)
        self.reference.look()
        self.note(self.sentry.tick(now_ns=self.reference.now))

    @rule(mode=st.sampled_from([*Mode]))
    def mode(self, mode: Mode) -> None:
        if mode is Mode.OFF and self.reference.mode != "off":
            self.entering.clear()
        self.reference.set_mode(mode.value)
        now = self.reference.now
        self.note(self.sentry.set_mode(mode, now_ns=now, wall_ns=WALL_NS + now))

    @invariant()
    def agrees(self) -> None:
        if not hasattr(self, "reference"):
            return
        status, reference = self.sentry.status, self.reference

        assert (reference.state, reference.mode, reference.blind) == (status.state, status.mode, status.blind)
        assert reference.person == status.person
        assert reference.capture_fps == status.capture_fps
        assert (reference.alarms, reference.ends) == (self.alarms, self.ends)
        assert (self.open is not None) == (status.state is State.ALARMED)
        assert (status.mode is Mode.OFF) == (status.state is State.OFF)


TestSentryAgainstReference = SentryAgainstReference.TestCase
TestSentryAgainstReference.settings = settings(
    max_examples=150, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
