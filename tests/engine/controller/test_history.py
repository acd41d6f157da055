from __future__ import annotations

import dataclasses
import logging
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import simplejpeg

from detr_sentry.controller.history import FILE_NAME, History
from detr_sentry.controller.records import Change, Record
from detr_sentry.controller.snapshot import Picture
from detr_sentry.errors import StorageError
from detr_sentry.ipc.messages import PixelFormat
from detr_sentry.sentry.events import Best
from detr_sentry.sentry.rules import Box
from detr_sentry.settings import HistorySettings

DAY = 86_400 * 1_000_000_000
NOW = 1_700_000_000 * 1_000_000_000
JPEG = bytes(simplejpeg.encode_jpeg(np.zeros((48, 64, 3), np.uint8)))


def record(number: int = 1, **fields: object) -> Record:
    values = {"event_id": f"E{number}", "camera": "door", "start_ns": NOW + number, "seen_ns": NOW + number}
    return Record(**{**values, **fields})  # type: ignore[arg-type]


def picture(data: bytes = JPEG, **fields: object) -> Picture:
    values = {
        "data": data,
        "pixel_format": PixelFormat.MJPEG,
        "width": 64,
        "height": 48,
        "timestamp_ns": NOW + 5,
        "exact": True,
    }
    return Picture(**{**values, **fields})  # type: ignore[arg-type]


@pytest.fixture
def history(tmp_path: Path) -> Iterator[History]:
    history = History(tmp_path, HistorySettings())
    history.open()
    yield history
    history.close()


def apply(history: History, *changes: Change) -> list[Record]:
    return history.apply(changes, now_ns=NOW)


def test_it_is_for_this_user_only(history: History, tmp_path: Path) -> None:
    apply(history, Change(record=record()))

    assert {0o600} == {path.stat().st_mode & 0o777 for path in tmp_path.glob(f"{FILE_NAME}*")}
    assert 3 == len(list(tmp_path.glob(f"{FILE_NAME}*")))
    assert 0o700 == history.snapshots.stat().st_mode & 0o777


def test_a_record_comes_back_as_it_was(history: History) -> None:
    box = Box(1.5, 2, 30, 40, 0.75)
    best = Best(capture_epoch=1, frame_number=2, timestamp_ns=3, box=box, width=64, height=48, merit=0.1)
    full = record(end_ns=NOW + 9, count=2).showing(best)
    apply(history, Change(record=record(2)), Change(record=full, picture=picture()))
    expected = dataclasses.replace(full, snapshot_ns=NOW + 5, snapshot_exact=True, snapshot_bytes=len(JPEG))

    assert expected == history.event("E1")
    assert record(2) == history.event("E2")
    assert None is history.event("E3")
    assert JPEG == (history.snapshots / "E1.jpg").read_bytes()


def test_a_later_change_keeps_what_it_does_not_bring(history: History) -> None:
    box = Box(1, 2, 30, 40, 0.75)
    best = Best(capture_epoch=1, frame_number=2, timestamp_ns=3, box=box, width=64, height=48, merit=0.1)

    assert ["E1"] == [
        each.event_id
        for each in apply(history, Change(record=record(count=3).showing(best), picture=picture(exact=False)))
    ]
    assert [] == apply(history, Change(record=record(end_ns=NOW + 9, count=1)))

    found = history.event("E1")
    assert found is not None
    assert (NOW + 9, 3, (1, 2, 30, 40), NOW + 5, False, len(JPEG)) == (
        found.end_ns,
        found.count,
        found.box,
        found.snapshot_ns,
        found.snapshot_exact,
        found.snapshot_bytes,
    )


def test_a_picture_that_cannot_be_encoded_is_left_out(history: History, caplog: pytest.LogCaptureFixture) -> None:
    apply(history, Change(record=record(), picture=picture(b"not a jpeg")))
    found = history.event("E1")

    assert found is not None
    assert found.snapshot_ns is None
    assert "left out" in caplog.text


def test_pages_newest_first(history: History) -> None:
    apply(history, *(Change(record=record(n, camera="door" if n % 2 else "yard")) for n in range(1, 8)))

    def page(**query: object) -> list[str] | None:
        found = history.events(**query)  # type: ignore[arg-type]
        return None if found is None else [each.event_id for each in found]

    assert ["E7", "E6", "E5"] == page(limit=3)
    assert ["E4", "E3"] == page(before="E5", limit=2)
    assert [] == page(before="E1")
    assert None is page(before="E99")
    assert ["E6", "E4", "E2"] == page(camera="yard")
    assert {"door": "E7", "yard": "E6"} == {camera: each.event_id for camera, each in history.newest().items()}


def test_too_many_old_or_large_go_with_their_pictures(tmp_path: Path) -> None:
    history = History(tmp_path, HistorySettings(max_events=3, max_age_days=1, max_snapshot_mb=2.2 * len(JPEG) / 1e6))
    history.open()
    apply(history, *(Change(record=record(n), picture=picture()) for n in range(1, 6)))

    assert ["E5", "E4"] == [each.event_id for each in history.events() or []]
    assert {"E4.jpg", "E5.jpg"} == {path.name for path in history.snapshots.iterdir()}

    apply(history, Change(record=record(6)), Change(record=record(7)))

    assert ["E7", "E6", "E5"] == [each.event_id for each in history.events() or []]
    assert 3 == history.prune(now_ns=NOW + DAY + 100)
    assert [] == history.events()
    assert [] == list(history.snapshots.iterdir())

    history.close()


def test_one_picture_larger_than_the_room_stays(tmp_path: Path) -> None:
    history = History(tmp_path, HistorySettings(max_snapshot_mb=1e-6))
    history.open()
    apply(history, Change(record=record(), picture=picture()))

    assert None is not history.event("E1")

    history.close()


def test_a_restart_ends_what_was_left_open_but_not_what_lasts(history: History, tmp_path: Path) -> None:
    apply(history, Change(record=record(1, seen_ns=NOW + 70)), Change(record=record(2)), Change(record=record(3)))
    history.close()
    (history.snapshots / "E9.jpg").write_bytes(b"orphan")
    (history.snapshots / ".E1.jpg.new").write_bytes(b"half")
    (history.snapshots / "notes.txt").write_bytes(b"somebody's")
    again = History(tmp_path, HistorySettings())
    again.open(lasting={"E2"})

    assert [NOW + 3, None, NOW + 70] == [each.end_ns for each in again.events() or []]
    assert ["notes.txt"] == [path.name for path in again.snapshots.iterdir()]

    again.close()


@pytest.mark.parametrize("damage", ["start", "middle"])
def test_a_broken_database_is_put_aside(
    history: History, tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    apply(history, *(Change(record=record(n)) for n in range(400)))
    history.close()
    file = tmp_path / FILE_NAME
    data = bytearray(file.read_bytes())
    at = 0 if damage == "start" else len(data) // 2
    data[at : at + 6000] = b"\xa5" * 6000
    file.write_bytes(data)
    with caplog.at_level(logging.ERROR):
        again = History(tmp_path, HistorySettings())
        again.open()

    assert [] == again.events()
    assert (tmp_path / f"{FILE_NAME}.broken").exists()
    assert "put aside" in caplog.text

    again.close()


def test_a_database_of_a_newer_engine_is_left_alone(history: History, tmp_path: Path) -> None:
    history.close()
    connection = sqlite3.connect(tmp_path / FILE_NAME)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(StorageError, match="newer engine"):
        History(tmp_path, HistorySettings()).open()


def test_places_that_cannot_be_used_are_errors(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match="cannot be used"):
        History(tmp_path / "file", HistorySettings()).open()
    (tmp_path / "state" / FILE_NAME).mkdir(parents=True)
    with pytest.raises(StorageError, match=FILE_NAME):
        History(tmp_path / "state", HistorySettings()).open()


def test_it_must_be_open(tmp_path: Path) -> None:
    history = History(tmp_path, HistorySettings())
    history.close()
    with pytest.raises(StorageError, match="not open"):
        history.events()


def test_a_failed_write_leaves_nothing_and_may_be_repeated(history: History) -> None:
    bad = dataclasses.replace(record(2), camera=None)  # type: ignore[arg-type]
    with pytest.raises(StorageError, match="NOT NULL"):
        apply(history, Change(record=record()), Change(record=bad))

    assert [] == history.events()

    apply(history, Change(record=record()))

    assert ["E1"] == [each.event_id for each in history.events() or []]
