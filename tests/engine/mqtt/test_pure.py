"""The pure layer: what is said and when, what waits, when to try again."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detr_sentry.controller import payloads
from detr_sentry.controller.announcer import Announcer
from detr_sentry.controller.backoff import CAP_S, FIRST_S, JITTER, REFUSED_S, STABLE_S, BackOff, Complaints
from detr_sentry.controller.outbox import MAX_EVENTS, Message, Order, Outbox
from detr_sentry.controller.report import camera_report, event_push
from detr_sentry.controller.retained import FILE_NAME, Retained
from detr_sentry.controller.topics import Topics
from detr_sentry.sentry.events import Event, EventType, Mode, State, Status, new_event_id

from .broker import check_payload

TOPICS = Topics(instance="main")
DOOR = TOPICS.camera("door")
ALARM = new_event_id(10**18)


def report(**changes: Any) -> dict[str, Any]:
    status: dict[str, Any] = {
        "state": State.STANDBY,
        "mode": Mode.AUTO,
        "blind": False,
        "capture_fps": 3.0,
        "since_ns": 10**18,
        "person": False,
        "count": 0,
        "event_id": "",
        "last_seen_ns": None,
    }
    others = {"mode_until_ns": None, "problem": None, "last_event_id": None}
    for key, value in changes.items():
        (others if key in others else status)[key] = value
    return camera_report("door", "Door", Status(**status), **others)


def alarmed(count: int | None, **changes: Any) -> dict[str, Any]:
    alarm: dict[str, Any] = {"state": State.ALARMED, "person": True, "event_id": ALARM, "last_event_id": ALARM}
    return report(**{**alarm, "count": count, **changes})


# Writes


def test_ten_minutes_of_presence_are_at_most_forty_writes() -> None:
    announcer, outbox, chance = Announcer(DOOR), Outbox(), random.Random(1)
    writes: dict[str, int] = {}
    pictures = 0

    def say(messages: list[Message]) -> None:
        for message in messages:
            outbox.put(message)
        while (taken := outbox.take()) is not None:
            writes[taken.topic] = writes.get(taken.topic, 0) + 1
            outbox.done(taken)

    say(announcer.changed(report(), 0.0))
    say(announcer.changed(report(state=State.VALIDATING, event_id=ALARM), 1.0))
    writes.clear()
    for tick in range(600 * 5):
        now_s = 2.0 + tick / 5
        say(announcer.changed(alarmed(chance.randint(1, 4), last_seen_ns=10**18 + tick), now_s))
        say(announcer.due(now_s))
        pictures += announcer.alarm_picture_is_due(ALARM, now_s)
    say(announcer.changed(report(), 603.0))

    assert sum(writes.values()) + pictures <= 40
    assert writes[DOOR.state] <= 25
    assert 2 == writes[DOOR.person]


def test_a_count_is_told_late_but_told_and_everything_else_at_once() -> None:
    announcer = Announcer(DOOR)

    def states(messages: list[Message]) -> list[Any]:
        return [json.loads(message.payload)["count"] for message in messages if message.topic == DOOR.state]

    assert [] == announcer.due(0.0)
    assert [1] == states(announcer.changed(alarmed(1), 100.0))
    assert [] == states(announcer.changed(alarmed(2), 101.0))
    assert [] == states(announcer.due(129.0))
    assert [2] == states(announcer.due(130.0))
    assert [] == states(announcer.due(200.0))
    assert [3] == states(announcer.changed(alarmed(3, problem="disk_full"), 130.5))
    assert [None] == states(announcer.changed(alarmed(None, blind=True, person=None), 130.6))
    assert [3] == states(announcer.changed(alarmed(3), 130.7))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"person": True}, [(DOOR.person, b"ON"), (DOOR.availability, b"online")]),
        ({"person": False}, [(DOOR.person, b"OFF"), (DOOR.availability, b"online")]),
        ({"person": None, "count": None, "state": State.OFF}, [(DOOR.person, b"None"), (DOOR.availability, b"online")]),
        ({"person": None, "count": None, "blind": True}, [(DOOR.availability, b"offline"), (DOOR.person, b"None")]),
    ],
)
def test_availability_and_person_come_in_the_order_that_shows_nothing_false(
    changes: dict[str, Any], expected: list[tuple[str, bytes]]
) -> None:
    messages = Announcer(DOOR).changed(report(**changes), 0.0)

    assert expected == [(message.topic, message.payload) for message in messages[:2]]
    assert (changes.get("state") is State.OFF) == any(
        message.topic == DOOR.snapshot and not message.payload for message in messages
    )


def test_pictures_are_due_twice_a_second_in_an_alarm_seldom_before_and_never_while_off() -> None:
    announcer = Announcer(DOOR)

    assert not announcer.snapshot_is_due(5.0)
    assert not announcer.detections_are_due(5.0)

    announcer.changed(report(), 5.0)
    shown = [tick / 10 for tick in range(50, 300) if announcer.snapshot_is_due(tick / 10)]

    assert [5.0, 15.0, 25.0] == shown

    announcer.changed(alarmed(1), 26.0)
    shown = [tick / 10 for tick in range(260, 280) if announcer.snapshot_is_due(tick / 10)]

    assert [26.0, 26.5, 27.0, 27.5] == shown
    assert 5 == sum(announcer.detections_are_due(28 + tick / 100) for tick in range(100))

    announcer.changed(report(state=State.OFF), 30.0)

    assert not announcer.snapshot_is_due(40.0)
    assert not announcer.detections_are_due(40.0)


def test_the_picture_of_an_alarm_comes_first_then_each_minute_and_last() -> None:
    announcer = Announcer(DOOR)
    announcer.changed(alarmed(1), 0.0)

    assert [0, 60] == [second for second in range(100) if announcer.alarm_picture_is_due(ALARM, float(second))]

    announcer.changed(report(), 101.0)

    assert announcer.alarm_picture_is_due(ALARM, 101.0)


# Payloads

_IDS = st.sampled_from(["", ALARM])
_TIMES = st.integers(-(10**10), 1 << 63)


@given(
    state=st.sampled_from(State),
    mode=st.sampled_from(Mode),
    blind=st.booleans(),
    since_ns=_TIMES,
    person=st.none() | st.booleans(),
    count=st.none() | st.integers(0, 300),
    event_id=_IDS,
    problem=st.none() | st.sampled_from(["blind", "camera_gone", "mode_lost"]),
    last_event_id=st.none() | st.just(ALARM),
    last_seen_ns=st.none() | _TIMES,
)
def test_whatever_a_camera_reports_is_said_as_the_schema_has_it(**values: Any) -> None:
    for message in Announcer(DOOR).changed(report(**values), 0.0):
        check_payload(message.topic, message.payload)


@given(
    kind=st.sampled_from(EventType), state=st.sampled_from(State), before=st.sampled_from(State), timestamp_ns=_TIMES
)
def test_whatever_happens_is_said_as_the_schema_has_it(
    kind: EventType, state: State, before: State, timestamp_ns: int
) -> None:
    event = Event(
        event_id=ALARM, type=kind, state=state, previous_state=before, timestamp_ns=timestamp_ns, start_ns=timestamp_ns
    )
    check_payload(DOOR.event, payloads.event("main_door", event_push("door", event)))


_ANYTHING: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.floats(0) | st.integers(0) | st.text(),
    lambda below: st.lists(below, max_size=2) | st.dictionaries(st.text(max_size=5), below, max_size=3),
)


@given(
    capture=st.fixed_dictionaries({}, optional={"fps": _ANYTHING, "drops": _ANYTHING, "link": _ANYTHING}),
    inference=st.fixed_dictionaries(
        {},
        optional={
            "provider": _ANYTHING,
            "model": _ANYTHING,
            "cameras": st.just({"door": {"inference_ms": 2.5}}) | st.just({"door": 3}) | _ANYTHING,
        },
    ),
)
def test_whatever_heartbeats_hold_health_is_as_the_schema_has_it(
    capture: dict[str, Any], inference: dict[str, Any]
) -> None:
    check_payload(DOOR.health, payloads.health(capture, inference, "door"))


# Outbox


def message(topic: str, payload: bytes = b"x", **options: Any) -> Message:
    return Message(topic=topic, payload=payload, **options)


def drain(outbox: Outbox) -> list[tuple[str, bytes]]:
    sent = []
    while (taken := outbox.take()) is not None:
        sent.append((taken.topic, taken.payload))
        outbox.done(taken)
    return sent


def test_states_go_first_then_online_then_events_then_the_rest() -> None:
    outbox = Outbox()
    outbox.put(message("picture"))
    outbox.put_event(message("event", retain=False, order=Order.EVENT))
    outbox.put(message("online", order=Order.ONLINE))
    outbox.put(message("state", order=Order.STATE))

    assert ["state", "online", "event", "picture"] == [topic for topic, _ in drain(outbox)]


def test_of_a_topic_the_newest_is_sent_and_nothing_is_said_twice() -> None:
    outbox = Outbox()
    outbox.put(message("a", b"1"))
    outbox.put(message("b"))
    outbox.put(message("a", b"2"))

    assert [("b", b"x"), ("a", b"2")] == drain(outbox)

    outbox.put(message("a", b"2"))

    assert [] == drain(outbox)

    outbox.put(message("a", b"2"), again=True)

    assert [("a", b"2")] == drain(outbox)


def test_what_was_not_sent_comes_again_unless_something_newer_waits() -> None:
    outbox = Outbox()
    outbox.put(message("a", b"1"))
    lost = outbox.take()
    assert lost is not None
    outbox.returned(lost)

    assert [("a", b"1")] == drain(outbox)

    outbox.put(message("a", b"2"))
    lost = outbox.take()
    assert lost is not None
    outbox.put(message("a", b"3"))
    outbox.returned(lost)

    assert [("a", b"3")] == drain(outbox)

    outbox.put(message("boxes", retain=False))
    lost = outbox.take()
    assert lost is not None
    outbox.returned(lost)

    assert [] == drain(outbox)


def test_events_are_kept_in_order_and_bounded() -> None:
    outbox = Outbox()
    for number in range(MAX_EVENTS + 3):
        outbox.put_event(message("event", str(number).encode(), retain=False, order=Order.EVENT))
    first = outbox.take()
    assert first is not None
    outbox.returned(first)

    assert (b"3", 3, MAX_EVENTS) == (first.payload, outbox.dropped, len(outbox))
    assert [str(number).encode() for number in range(3, MAX_EVENTS + 3)] == [payload for _, payload in drain(outbox)]


def test_an_event_that_is_being_sent_while_it_is_given_up_does_not_take_the_next_with_it() -> None:
    outbox = Outbox()
    for number in range(MAX_EVENTS):
        outbox.put_event(message("event", str(number).encode(), retain=False, order=Order.EVENT))
    sending = outbox.take()
    assert sending is not None
    outbox.put_event(message("event", b"new", retain=False, order=Order.EVENT))
    outbox.done(sending)

    assert MAX_EVENTS == len(drain(outbox))


def test_what_is_refused_waits_and_the_newest_of_it_is_tried_again() -> None:
    outbox = Outbox()
    outbox.put(message("a", b"1"))
    outbox.put_event(message("event", retain=False, order=Order.EVENT))
    for _ in range(2):
        taken = outbox.take()
        assert taken is not None
        outbox.refused(taken)
    outbox.put(message("a", b"2"))

    assert [] == drain(outbox)

    outbox.retry_refused()

    assert [("a", b"2")] == drain(outbox)


def test_a_new_connection_is_told_all_that_is_retained() -> None:
    outbox = Outbox()
    for each in (message("a"), message("b", b""), message("c"), message("boxes", retain=False)):
        outbox.put(each)
    outbox.forget("c")
    drain(outbox)
    outbox.put(message("boxes", retain=False))
    outbox.renew()

    assert [("a", b"x"), ("b", b"")] == drain(outbox)
    assert {"a"} == outbox.retained()


@given(st.lists(st.tuples(st.sampled_from("abc"), st.binary(max_size=1), st.sampled_from(Order)), max_size=60))
def test_however_it_goes_a_slow_broker_ends_with_the_newest_of_each(steps: list[tuple[str, bytes, Order]]) -> None:
    outbox, sent = Outbox(), {}
    newest = {}
    for number, (topic, payload, order) in enumerate(steps):
        put = message(topic, payload, order=order if order is not Order.EVENT else Order.REST)
        outbox.put(put)
        newest[topic] = payload
        taken = outbox.take() if number % 3 == 0 else None
        if taken is not None and number % 2:
            outbox.returned(taken)
        elif taken is not None:
            sent[taken.topic] = taken.payload
            outbox.done(taken)

        assert len(outbox) <= 3
    sent.update(drain(outbox))

    assert newest == sent


# Pauses and complaints


def test_pauses_double_to_a_cap_and_only_a_lasting_connection_resets_them() -> None:
    backoff = BackOff(chance=lambda: 0.0)
    pauses = [backoff.pause_s() for _ in range(6)]

    assert [FIRST_S, 1.0, 2.0, CAP_S, CAP_S, CAP_S] == pauses

    backoff.lasted(STABLE_S / 2)

    assert CAP_S == backoff.pause_s()

    backoff.lasted(STABLE_S)

    assert FIRST_S == backoff.pause_s()
    assert REFUSED_S == backoff.pause_s(refused=True)
    assert REFUSED_S * (1 - JITTER) == BackOff(chance=lambda: 1.0).pause_s(refused=True)


def test_complaints_of_a_kind_are_counted_between_those_that_are_let_through() -> None:
    complaints = Complaints(every_s=10)
    admitted = [complaints.admit("a", second) for second in (0, 1, 2, 10, 11)]

    assert [0, None, None, 2, None] == admitted
    assert 0 == complaints.admit("b", 11)
    assert 6 == complaints.total


# Topics


def test_only_the_own_cameras_are_commanded() -> None:
    assert "door" == TOPICS.commanded("detr_sentry/main/door/mode/set", ["yard", "door"])
    assert None is TOPICS.commanded("detr_sentry/main/attic/mode/set", ["yard", "door"])
    assert "ha/device/main_door/config" == Topics(instance="main", discovery_prefix="ha").discovery("door")


def test_no_two_topics_are_the_same() -> None:
    everything = [
        *(getattr(DOOR, name) for name in ("availability", "person", "state", "health", "event", "snapshot")),
        *(DOOR.last_alarm, DOOR.detections, DOOR.mode_set, TOPICS.availability, TOPICS.info, TOPICS.birth),
        TOPICS.discovery("door"),
    ]

    assert len(everything) == len(set(everything))
    assert all(left != right for left, right in itertools.combinations(everything, 2))


# What is remembered


async def test_what_is_on_the_broker_is_remembered_over_restarts(tmp_path: Path) -> None:
    first = await asyncio.to_thread(Retained, tmp_path, "main")
    await first.add(["a", "b"])
    await first.add(["b"])
    await first.remove(["a"])
    second = await asyncio.to_thread(Retained, tmp_path, "main")

    assert (first.client_id, frozenset({"b"})) == (second.client_id, second.topics)
    assert 0o600 == (tmp_path / FILE_NAME).stat().st_mode & 0o777


@pytest.mark.parametrize(
    "content",
    ["{", "[]", '{"topics": 3, "client_id": "x"}', '{"topics": ["a"]}', "{}", '{"topics": [], "client_id": 1}'],
)
def test_a_file_that_is_not_understood_is_forgotten(tmp_path: Path, content: str) -> None:
    (tmp_path / FILE_NAME).write_text(content)
    retained = Retained(tmp_path, "main")

    assert frozenset() == retained.topics
    assert retained.client_id.startswith("detr_sentry_main_")


async def test_a_full_disk_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    retained = await asyncio.to_thread(Retained, tmp_path, "main")
    (tmp_path / f".{FILE_NAME}.new").mkdir()
    await retained.add(["a"])

    assert {"a"} == retained.topics
    assert "may stay on the broker" in caplog.text
