from __future__ import annotations

import itertools
from dataclasses import dataclass, field

import pytest

from detr_sentry.sentry.events import Event, EventType, Mode, State, Step, new_event_id
from detr_sentry.sentry.fsm import FULL_RATE, Observation, Sentry
from detr_sentry.sentry.rules import Box
from detr_sentry.settings import SentrySettings, Zone

SECOND = 1_000_000_000
WALL = 1_700_000_000 * SECOND
PERSON = Box(100, 100, 300, 400, 0.9)
FAINT = Box(100, 100, 300, 400, 0.4)


@dataclass
class Camera:
    """A sentry fed with frames at a steady rate. Times in seconds."""

    rules: SentrySettings = field(default_factory=SentrySettings)
    now: float = 100.0
    number: int = 0
    epoch: int = 7
    events: list[Event] = field(default_factory=list)

    def __post_init__(self) -> None:
        ids = itertools.count(1)
        self.sentry = Sentry(
            self.rules, standby_fps=3.0, now_ns=self.now_ns, wall_ns=WALL, new_id=lambda _: f"episode-{next(ids)}"
        )

    @property
    def now_ns(self) -> int:
        return round(self.now * SECOND)

    def note(self, step: Step) -> Step:
        self.events += step.events
        return step

    def frame(self, *boxes: Box, after: float = 0.1, inferred: bool = True, number: int | None = None) -> Step:
        self.now += after
        self.number = self.number + 1 if number is None else number
        message = Observation(
            capture_epoch=self.epoch,
            frame_number=self.number,
            captured_ns=self.now_ns,
            timestamp_ns=WALL + self.now_ns,
            inferred=inferred,
            width=640,
            height=480,
            boxes=boxes,
        )
        return self.note(self.sentry.step(message, now_ns=self.now_ns))

    def frames(self, count: int, *boxes: Box, after: float = 0.1) -> Step:
        return [self.frame(*boxes, after=after) for _ in range(count)][-1]

    def gated(self, after: float = 0.1) -> Step:
        return self.frame(after=after, inferred=False)

    def silence(self, seconds: float) -> Step:
        self.now += seconds
        return self.note(self.sentry.tick(now_ns=self.now_ns))

    def mode(self, mode: Mode) -> Step:
        return self.note(self.sentry.set_mode(mode, now_ns=self.now_ns, wall_ns=WALL + self.now_ns))

    def state(self) -> State:
        return self.sentry.status.state

    @property
    def story(self) -> list[str]:
        return [event.type.value for event in self.events]


def test_nothing_is_known_before_the_first_message() -> None:
    camera = Camera()

    assert (State.STANDBY, None, None, False) == (
        camera.state(),
        camera.sentry.status.person,
        camera.sentry.status.count,
        camera.sentry.status.blind,
    )

    camera.gated()

    assert (False, 0) == (camera.sentry.status.person, camera.sentry.status.count)


def test_three_of_five_raise_the_alarm_and_three_empty_seconds_end_it() -> None:
    camera = Camera()
    camera.frame(PERSON)

    assert State.VALIDATING == camera.state()

    camera.frame()
    camera.frame(PERSON)
    camera.frame()
    step = camera.frame(PERSON, PERSON._replace(x1=400, x2=500))

    assert (State.ALARMED, True, 2, "episode-1") == (
        step.status.state,
        step.status.person,
        step.status.count,
        step.status.event_id,
    )

    camera.frames(29)

    assert (State.ALARMED, 0) == (camera.state(), camera.sentry.status.count)

    camera.frame(after=0.15)

    assert State.STANDBY == camera.state()
    assert ["validation_started", "human_detected", "standby_resumed"] == camera.story
    assert ["episode-1"] * 3 == [event.event_id for event in camera.events]
    confirmed, resumed = camera.events[1:]
    assert (WALL + round(100.5 * SECOND), None) == (confirmed.start_ns, confirmed.end_ns)
    assert (confirmed.start_ns, camera.now_ns + WALL, 2) == (resumed.start_ns, resumed.end_ns, resumed.count)
    assert (State.STANDBY, State.ALARMED) == (resumed.state, resumed.previous_state)


def test_the_hold_needs_frames_too() -> None:
    camera = Camera()
    camera.frames(3, PERSON)
    camera.frame(after=2.0)
    camera.frame(after=2.0)

    assert State.ALARMED == camera.state()

    camera.frame(after=0.1)

    assert State.STANDBY == camera.state()


def test_a_faint_person_keeps_an_alarm_but_never_starts_one() -> None:
    camera = Camera()
    camera.frames(50, FAINT)

    assert State.STANDBY == camera.state()

    camera.frames(3, PERSON)
    camera.frames(50, FAINT)

    assert (State.ALARMED, 1) == (camera.state(), camera.sentry.status.count)


def test_validation_gives_up_after_a_window_of_empty_frames() -> None:
    camera = Camera()
    camera.frame(PERSON)
    camera.frames(4)

    assert State.VALIDATING == camera.state()

    camera.frame()

    assert State.STANDBY == camera.state()
    assert ["validation_started"] == camera.story
    assert camera.sentry.status.event_id == ""


@pytest.mark.parametrize("inferred", [True, False])
def test_validation_gives_up_after_two_seconds_without_a_person(*, inferred: bool) -> None:
    camera = Camera()
    camera.frame(PERSON)
    camera.frame(after=1.9, inferred=inferred)

    assert State.VALIDATING == camera.state()

    camera.frame(after=0.1, inferred=inferred)

    assert State.STANDBY == camera.state()


def test_validation_that_never_decides_gives_up_on_an_empty_frame() -> None:
    camera = Camera()
    for _ in range(7):
        camera.frame(PERSON)
        camera.frame()
        camera.frame()

    assert State.STANDBY == camera.state()
    assert "human_detected" not in camera.story


def test_a_model_slower_than_the_timeout_still_confirms() -> None:
    camera = Camera()
    camera.frames(3, PERSON, after=2.5)

    assert State.ALARMED == camera.state()


def test_gated_frames_neither_validate_nor_end_an_alarm() -> None:
    camera = Camera()
    camera.frames(2, PERSON)
    for _ in range(5):
        camera.gated()
    camera.frame(PERSON)

    assert State.ALARMED == camera.state()

    for _ in range(100):
        camera.gated()

    assert (State.ALARMED, False) == (camera.state(), camera.sentry.status.blind)


def test_duplicates_and_late_frames_change_nothing_and_are_counted() -> None:
    camera = Camera()
    camera.frame(PERSON, number=5)
    for number in (5, 3, 5, 1):
        step = camera.frame(PERSON, number=number)

        assert (False, False) == (step.used, step.changed)

    camera.number = 5
    camera.frame(number=9)
    counters = camera.sentry.counters

    assert (2, 3, 2, 2, 1) == (counters.used, counters.gaps, counters.duplicates, counters.late, counters.epochs)
    assert State.VALIDATING == camera.state()


def test_a_duplicate_does_not_cure_blindness() -> None:
    camera = Camera()
    camera.frame()
    camera.silence(3.0)
    camera.frame(number=1)

    assert camera.sentry.status.blind


def test_a_new_epoch_clears_the_window_and_keeps_the_state() -> None:
    camera = Camera()
    camera.frames(2, PERSON)
    camera.epoch, camera.number = 8, 0
    camera.frames(2, PERSON)

    assert State.VALIDATING == camera.state()

    camera.frame(PERSON)

    assert State.ALARMED == camera.state()

    camera.frames(2, after=0.5)
    camera.epoch, camera.number = 9, 0
    camera.frames(3, after=1.0)

    assert State.ALARMED == camera.state()

    camera.frame(after=1.0)

    assert State.STANDBY == camera.state()


def test_a_message_of_a_replaced_epoch_is_late() -> None:
    camera = Camera()
    camera.frame()
    camera.epoch = 8
    camera.frame(number=1)
    camera.epoch = 7
    step = camera.frame(PERSON, number=2)

    assert not step.used
    assert camera.sentry.counters.late == 1


def test_blind_from_the_clock_and_timers_start_anew() -> None:
    camera = Camera()
    camera.frames(3, PERSON)
    camera.silence(2.9)

    assert not camera.sentry.status.blind

    step = camera.silence(0.1)

    assert step.changed
    assert (State.ALARMED, True, None, None) == (
        step.status.state,
        step.status.blind,
        step.status.person,
        step.status.count,
    )

    camera.silence(60)
    camera.frames(3, after=0.9)

    assert (State.ALARMED, False, True) == (camera.state(), camera.sentry.status.blind, camera.sentry.status.person)

    camera.frames(2, after=0.6)

    assert State.STANDBY == camera.state()


def test_a_silence_that_nobody_ticked_counts_as_blindness() -> None:
    camera = Camera()
    camera.frames(3, PERSON)
    camera.frames(3, after=3.5)

    assert State.ALARMED == camera.state()


def test_blind_from_the_start() -> None:
    camera = Camera()

    assert camera.silence(3.0).status.blind


def test_capture_stamps_from_the_future_or_the_past_do_not_move_the_timers() -> None:
    camera = Camera()
    camera.frames(3, PERSON)
    future = Observation(
        capture_epoch=7, frame_number=4, captured_ns=10**18, timestamp_ns=WALL, inferred=True, width=640, height=480
    )
    camera.sentry.step(future, now_ns=camera.now_ns)
    past = Observation(
        capture_epoch=7, frame_number=5, captured_ns=0, timestamp_ns=WALL, inferred=True, width=640, height=480
    )
    camera.sentry.step(past, now_ns=camera.now_ns)
    camera.number = 5
    camera.frame(after=1.0)

    assert State.ALARMED == camera.state()

    camera.frame(after=2.0)

    assert State.STANDBY == camera.state()


@pytest.mark.parametrize(
    ("mode", "standby", "alarmed"),
    [(Mode.AUTO, 3.0, FULL_RATE), (Mode.STANDBY, 3.0, 3.0), (Mode.ALARMED, FULL_RATE, FULL_RATE)],
)
def test_forced_modes_change_the_rate_and_not_the_truth(mode: Mode, standby: float, alarmed: float) -> None:
    camera = Camera()
    camera.mode(mode)
    camera.frame()

    assert (standby, False, State.STANDBY) == (
        camera.sentry.status.capture_fps,
        camera.sentry.status.person,
        camera.state(),
    )

    camera.frames(3, PERSON)

    assert (alarmed, True, State.ALARMED) == (
        camera.sentry.status.capture_fps,
        camera.sentry.status.person,
        camera.state(),
    )
    assert ["validation_started", "human_detected"] == camera.story


def test_off_ends_an_alarm_and_sees_nothing() -> None:
    camera = Camera()
    camera.frames(3, PERSON)
    step = camera.mode(Mode.OFF)

    assert (State.OFF, 0.0, None, False, "") == (
        step.status.state,
        step.status.capture_fps,
        step.status.person,
        step.status.blind,
        step.status.event_id,
    )
    (resumed,) = step.events
    assert (EventType.STANDBY_RESUMED, State.OFF, State.ALARMED) == (
        resumed.type,
        resumed.state,
        resumed.previous_state,
    )
    assert resumed.end_ns is not None

    camera.frames(20, PERSON)
    camera.silence(60)

    assert (State.OFF, False, 3) == (camera.state(), camera.sentry.status.blind, camera.sentry.counters.used)


def test_off_in_the_middle_of_a_validation_says_nothing() -> None:
    camera = Camera()
    camera.frames(2, PERSON)

    assert () == camera.mode(Mode.OFF).events

    camera.mode(Mode.AUTO)
    camera.frames(2, PERSON)

    assert State.VALIDATING == camera.state()


def test_on_from_off_starts_in_standby_with_a_fresh_blind_timer() -> None:
    camera = Camera()
    camera.frame()
    camera.mode(Mode.OFF)
    camera.silence(60)
    step = camera.mode(Mode.AUTO)

    assert (State.STANDBY, False, None) == (step.status.state, step.status.blind, step.status.person)
    assert not camera.silence(2.9).status.blind
    assert camera.silence(0.1).status.blind


def test_the_same_mode_again_changes_nothing() -> None:
    camera = Camera()

    assert not camera.mode(Mode.AUTO).changed

    camera.mode(Mode.OFF)

    assert not camera.mode(Mode.OFF).changed


def test_a_sentry_may_start_off() -> None:
    sentry = Sentry(SentrySettings(), standby_fps=3.0, now_ns=0, wall_ns=WALL, mode=Mode.OFF)

    assert (State.OFF, 0.0) == (sentry.status.state, sentry.status.capture_fps)


def test_preset_reference() -> None:
    camera = Camera(rules=SentrySettings(hits=3, window=3, exit_frames=40, hold_s=0.0))
    camera.frames(3, PERSON, after=0.033)

    assert State.ALARMED == camera.state()

    camera.frames(39, after=0.033)

    assert State.ALARMED == camera.state()

    camera.frame(after=0.033)

    assert State.STANDBY == camera.state()


def test_dwell_is_asked_of_who_starts_an_alarm() -> None:
    camera = Camera(rules=SentrySettings(dwell_s=1.0))
    camera.frames(10, PERSON)

    assert State.STANDBY == camera.state()

    camera.frame(PERSON)

    assert State.VALIDATING == camera.state()

    camera.frames(2, PERSON)

    assert State.ALARMED == camera.state()

    camera.frames(50, PERSON._replace(x1=400, x2=600))

    assert State.ALARMED == camera.state()


def test_dwell_needs_the_enter_threshold_at_its_end_and_not_before() -> None:
    camera = Camera(rules=SentrySettings(dwell_s=1.0))
    camera.frames(20, FAINT)

    assert State.STANDBY == camera.state()

    camera.frame(PERSON)

    assert State.VALIDATING == camera.state()


def test_dwell_starts_anew_after_blindness() -> None:
    camera = Camera(rules=SentrySettings(dwell_s=1.0))
    camera.frames(5, PERSON)
    camera.silence(10)
    camera.frames(10, PERSON)

    assert State.STANDBY == camera.state()

    camera.frame(PERSON)

    assert State.VALIDATING == camera.state()


def test_a_person_outside_every_zone_is_nobody() -> None:
    porch = Zone(name="porch", points=((0.5, 0.0), (1.0, 0.0), (1.0, 1.0), (0.5, 1.0)))
    camera = Camera(rules=SentrySettings(zones=(porch,)))
    camera.frames(5, PERSON)

    assert State.STANDBY == camera.state()

    camera.frames(3, PERSON._replace(x1=400, x2=600))

    assert State.ALARMED == camera.state()


def test_best_frame_is_the_highest_score_times_area() -> None:
    camera = Camera()
    camera.frames(3, PERSON)
    large = camera.frame(PERSON._replace(x2=500, score=0.8), FAINT).candidate
    small = camera.frame(PERSON._replace(x2=150)).candidate
    camera.frames(40)
    best = camera.events[-1].best

    assert large is not None
    assert small is not None
    assert large == best
    assert (7, 4, WALL + round(100.4 * SECOND), 640, 480) == (
        large.capture_epoch,
        large.frame_number,
        large.timestamp_ns,
        large.width,
        large.height,
    )
    assert large.merit > small.merit
    assert camera.events[-1].count == 2


def test_last_seen_and_since_are_times_of_frames() -> None:
    camera = Camera()
    camera.frames(3, PERSON)
    alarmed_at = WALL + camera.now_ns
    camera.frames(2)

    assert (alarmed_at, alarmed_at) == (camera.sentry.status.since_ns, camera.sentry.status.last_seen_ns)


def test_event_ids_are_ulids_of_their_time() -> None:
    earlier, later = new_event_id(WALL), new_event_id(WALL + SECOND)

    assert (26, True) == (len(earlier), earlier < later)
    assert len(new_event_id(-5)) == 26


def test_a_validation_that_gave_up_leaves_nothing_to_the_next() -> None:
    camera = Camera()
    camera.frames(2, PERSON)
    camera.frame(after=2.0)

    assert State.STANDBY == camera.state()

    camera.frame(PERSON)

    assert State.VALIDATING == camera.state()


def test_a_slow_model_is_given_a_whole_window() -> None:
    camera = Camera()
    camera.frame(PERSON)
    camera.frame(PERSON, after=1.5)
    camera.frame(after=1.5)

    assert State.VALIDATING == camera.state()

    camera.frame(PERSON, after=1.5)

    assert State.ALARMED == camera.state()


def test_an_undecided_validation_is_given_its_time() -> None:
    camera = Camera()
    for _ in range(4):
        camera.frame(PERSON)
        camera.frames(2)

    assert State.VALIDATING == camera.state()


def test_a_resumed_alarm_goes_on_and_its_hold_starts_anew() -> None:
    camera = Camera()
    camera.sentry.resume("earlier", since_ns=WALL)

    assert (State.ALARMED, "earlier", WALL, None) == (
        camera.state(),
        camera.sentry.status.event_id,
        camera.sentry.status.since_ns,
        camera.sentry.status.person,
    )

    camera.frame(after=2.9)

    assert (State.ALARMED, True) == (camera.state(), camera.sentry.status.person)

    camera.frames(2, after=1.4)

    assert State.ALARMED == camera.state()

    camera.frame(after=0.2)

    assert ["standby_resumed"] == camera.story
    assert ("earlier", WALL) == (camera.events[0].event_id, camera.events[0].start_ns)


def test_nothing_is_resumed_while_off() -> None:
    camera = Camera()
    camera.mode(Mode.OFF)
    camera.sentry.resume("earlier", since_ns=WALL)

    assert (State.OFF, "") == (camera.state(), camera.sentry.status.event_id)


def test_recall_does_not_replace_what_was_seen_since() -> None:
    camera = Camera()
    camera.sentry.recall(last_seen_ns=WALL)

    assert WALL == camera.sentry.status.last_seen_ns

    camera.frame(PERSON)
    camera.sentry.recall(last_seen_ns=WALL)

    assert WALL != camera.sentry.status.last_seen_ns
