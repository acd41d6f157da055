from __future__ import annotations

from collections import defaultdict

from hypothesis import given
from hypothesis import strategies as st

from detr_sentry.inference.schedule import Schedule, SkipCounter, Urgency

URGENCIES = list(Urgency)
STEP = st.dictionaries(st.integers(0, 5), st.sampled_from(URGENCIES), max_size=6)


@given(count=st.integers(1, 6), steps=st.lists(STEP, min_size=1, max_size=60))
def test_no_camera_waits_longer_than_cameras_plus_one_model_times(count: int, steps: list[dict[int, Urgency]]) -> None:
    cameras = tuple(f"c{number}" for number in range(count))
    schedule = Schedule(cameras)
    ready: dict[str, int] = {}
    run = 0
    for offers in steps + [{}] * count:
        for number, urgency in offers.items():
            if number < count:
                schedule.offer(cameras[number], urgency)
                ready.setdefault(cameras[number], run)
        chosen = schedule.choose()
        if not ready:
            assert chosen is None
            continue
        assert chosen in ready
        # a frame that came during the run before had to wait for its rest: one more model time at most
        assert (run - ready.pop(chosen)) + 1 <= count + 1
        run += 1

    assert ready == {}


@given(st.lists(st.sampled_from(URGENCIES), min_size=2, max_size=6))
def test_a_fresh_choice_goes_to_the_most_urgent_class(urgencies: list[Urgency]) -> None:
    schedule = Schedule(tuple(f"c{number}" for number in range(len(urgencies))))
    for number, urgency in enumerate(urgencies):
        schedule.offer(f"c{number}", urgency)

    chosen = schedule.choose()

    assert chosen is not None
    assert min(urgencies) == urgencies[int(chosen[1:])]


def test_a_first_sight_goes_ahead_of_an_alarmed_camera() -> None:
    schedule = Schedule(("a", "b"))
    for _ in range(5):
        schedule.offer("a", Urgency.ALARMED)
        assert schedule.choose() == "a"
    schedule.offer("a", Urgency.ALARMED)
    schedule.offer("b", Urgency.STANDBY)

    assert schedule.choose() == "b"


def test_a_validating_camera_takes_turns_with_many_alarmed_ones() -> None:
    cameras = ("v", "a", "b", "c", "d")
    schedule = Schedule(cameras)
    served: dict[str, int] = defaultdict(int)
    for _ in range(100):
        for camera in cameras:
            schedule.offer(camera, Urgency.VALIDATING if camera == "v" else Urgency.ALARMED)
        chosen = schedule.choose()
        assert chosen is not None
        served[chosen] += 1

    assert served["v"] >= 30
    assert min(served[camera] for camera in "abcd") >= 14


def test_the_same_class_takes_turns() -> None:
    schedule = Schedule(("a", "b", "c"))
    order = []
    for _ in range(9):
        for camera in ("a", "b", "c"):
            schedule.offer(camera, Urgency.ALARMED)
        order.append(schedule.choose())

    assert order == ["a", "b", "c"] * 3


def test_a_withdrawn_camera_is_not_served() -> None:
    schedule = Schedule(("a", "b"))
    schedule.offer("a", Urgency.VALIDATING)
    schedule.offer("b", Urgency.ALARMED)
    schedule.withdraw("a")

    assert (schedule.choose(), schedule.choose()) == ("b", None)


@given(st.lists(st.tuples(st.integers(1, 5), st.integers(1, 20)), min_size=1, max_size=20))
def test_skips_are_counted_exactly(epochs: list[tuple[int, int]]) -> None:
    """Each epoch publishes `count` frames, of which every `step`-th and the last are taken."""
    counter = SkipCounter()
    published = taken = 0
    for epoch, (step, count) in enumerate(epochs, start=100):
        keys = sorted({*range(step, count + 1, step), count})
        for sequence in keys:
            counter.take((epoch, sequence))
        published += count
        taken += len(keys)

    first = min(epochs[0])
    assert counter.skipped == published - taken - (first - 1)


def test_taking_a_frame_again_skips_nothing() -> None:
    counter = SkipCounter()

    assert [counter.take(key) for key in ((1, 4), (1, 4), (1, 7), (2, 1), (2, 3))] == [0, 0, 2, 0, 1]
