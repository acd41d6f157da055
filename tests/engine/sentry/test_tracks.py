from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detr_sentry.sentry import tracks
from detr_sentry.sentry.rules import Box
from detr_sentry.sentry.tracks import MAX_TRACKS, Track, Tracker, iou


def person(x: float, y: float = 0.0) -> Box:
    return Box(x, y, x + 100, y + 200, 0.9)


def ids(found: list[Track | None]) -> list[int | None]:
    return [track.track_id if track else None for track in found]


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        (person(0), person(0), 1.0),
        (person(0), person(50), 1 / 3),
        (person(0), person(100), 0.0),
        (person(0), person(0, 300), 0.0),
    ],
)
def test_iou(a: Box, b: Box, expected: float) -> None:
    assert pytest.approx(expected) == iou(a, b)


def test_a_person_keeps_the_track_while_walking() -> None:
    tracker = Tracker()

    assert [[1]] * 10 == [ids(tracker.update([person(step * 60)], step / 3)) for step in range(10)]


def test_two_persons_keep_their_tracks_whatever_the_order() -> None:
    tracker = Tracker()
    tracker.update([person(0), person(1000)], 0)

    assert [2, 1] == ids(tracker.update([person(1010), person(10)], 0.3))


def test_the_best_overlap_wins() -> None:
    tracker = Tracker()
    tracker.update([person(0)], 0)

    assert [2, 1] == ids(tracker.update([person(60), person(5)], 0.3))


def test_a_flicker_does_not_end_a_track() -> None:
    tracker = Tracker()
    tracker.update([person(0)], 0)
    for frame in range(1, 20):
        tracker.update([], frame / 30)

    (track,) = tracker.update([person(0)], 0.9)

    assert track is not None
    assert (1, 0, 0.9) == (track.track_id, track.first_s, track.last_s)


def test_a_track_ends_after_misses_and_time() -> None:
    tracker = Tracker()
    tracker.update([person(0)], 0)
    for frame in range(1, 4):
        tracker.update([], frame * 0.5)

    assert [2] == ids(tracker.update([person(0)], 2))


def test_gated_time_alone_does_not_end_a_track() -> None:
    tracker = Tracker()
    tracker.update([person(0)], 0)

    assert [1] == ids(tracker.update([person(0)], 30))


def test_clear_forgets_but_never_reuses_an_id() -> None:
    tracker = Tracker()
    tracker.update([person(0)], 0)
    tracker.clear()

    assert [2] == ids(tracker.update([person(0)], 0.1))


def test_tracks_are_bounded_and_the_rest_is_untracked() -> None:
    tracker = Tracker()
    crowd = [person(index * 1000) for index in range(MAX_TRACKS + 5)]

    assert [*range(1, MAX_TRACKS + 1), *[None] * 5] == ids(tracker.update(crowd, 0))

    tracker.update([person(index * 1000, 5000) for index in range(MAX_TRACKS)], 0.1)

    assert len(tracker._tracks) == MAX_TRACKS


def test_ids_wrap_before_32_bits_and_never_become_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracks, "_MAX_ID", 3)
    tracker = Tracker()

    assert [1, 2, 3, 1] == ids(tracker.update([person(index * 1000) for index in range(4)], 0))


@given(st.lists(st.lists(st.tuples(st.floats(0, 2000), st.floats(0, 2000)), max_size=6), max_size=12))
def test_ids_are_distinct_within_a_frame(frames: list[list[tuple[float, float]]]) -> None:
    tracker = Tracker()
    for number, corners in enumerate(frames):
        found = ids(tracker.update([person(x, y) for x, y in corners], number / 3))

        assert len(corners) == len(set(found))
