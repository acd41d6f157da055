from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from detr_sentry.controller import recorder as recorder_module
from detr_sentry.controller.clock import Clock
from detr_sentry.controller.history import History
from detr_sentry.controller.recorder import MAX_PENDING, MAX_PICTURES, Recorder
from detr_sentry.controller.records import Change, Record
from detr_sentry.errors import StorageError
from detr_sentry.settings import HistorySettings

from .conftest import eventually
from .test_history import picture, record


class Bench:
    """A recorder on a folder, and what it said."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.problems: list[str | None] = []
        self.pictures: list[str] = []
        self.opened: list[dict[str, Record]] = []
        self.recorder = Recorder(
            History(folder, HistorySettings(max_age_days=36500)),
            Clock(),
            on_open=self.opened.append,
            on_problem=lambda: self.problems.append(self.recorder.problem),
            on_picture=lambda stored: self.pictures.append(stored.event_id),
            retry_s=0.1,
        )
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self.recorder.run())

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        await self.recorder.close()

    async def ids(self) -> list[str]:
        return [each.event_id for each in await self.recorder.events() or []]


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    bench = Bench(tmp_path / "state")
    yield bench
    await bench.stop()


async def test_changes_are_stored_in_order_and_pictures_told(bench: Bench) -> None:
    bench.start()
    bench.recorder.record(Change(record=record(1), picture=picture()))
    bench.recorder.record(Change(record=record(2)))
    await eventually(lambda: bench.pictures)

    assert ["E2", "E1"] == await bench.ids()
    assert ([{}], ["E1"], []) == (bench.opened, bench.pictures, bench.problems)

    found = await bench.recorder.event("E1")
    assert found is not None
    assert found.snapshot_ns is not None


async def test_what_waits_at_the_end_is_stored(bench: Bench) -> None:
    bench.start()
    await eventually(lambda: bench.opened)
    bench.recorder.record(Change(record=record(1, end_ns=5), picture=picture()))
    await bench.stop()
    again = Bench(bench.folder)
    again.start()
    await eventually(lambda: again.opened)

    assert ["E1"] == await again.ids()
    assert {"door"} == set(again.opened[0])

    await again.stop()


async def test_only_the_newest_of_an_alarm_waits(bench: Bench) -> None:
    bench.recorder.record(Change(record=record(1), picture=picture()))
    for count in range(1000):
        bench.recorder.record(Change(record=record(1, count=count)))

    (waiting,) = bench.recorder._pending.values()
    assert (999, True) == (waiting.record.count, waiting.picture is not None)


async def test_what_waits_is_bounded_and_the_oldest_goes(bench: Bench) -> None:
    for number in range(MAX_PENDING + 10):
        bench.recorder.record(Change(record=record(number), picture=picture()))

    waiting = list(bench.recorder._pending.values())
    assert (MAX_PENDING, 10, "E10") == (len(waiting), bench.recorder.dropped, waiting[0].record.event_id)
    assert MAX_PICTURES == sum(change.picture is not None for change in waiting)


async def test_a_folder_that_comes_later(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.folder.write_bytes(b"in the way")
    bench.start()
    bench.recorder.record(Change(record=record(1), picture=picture()))
    await eventually(lambda: bench.problems == ["disk_error"])
    await asyncio.sleep(0.5)

    assert 1 == caplog.text.count("detection goes on")
    with pytest.raises(StorageError, match="not open"):
        await bench.recorder.events()

    bench.folder.unlink()
    await eventually(lambda: bench.problems == ["disk_error", None])

    assert (["E1"], ["E1"]) == (await bench.ids(), bench.pictures)


async def test_pictures_that_cannot_be_stored_are_tried_again(bench: Bench) -> None:
    bench.start()
    await eventually(lambda: bench.opened)
    pictures = bench.folder / "events"
    shutil.rmtree(pictures)
    pictures.write_bytes(b"in the way")
    bench.recorder.record(Change(record=record(1), picture=picture()))
    await eventually(lambda: bench.problems == ["disk_error"])
    bench.recorder.record(Change(record=record(1, count=4)))
    bench.recorder.record(Change(record=record(2)))
    await asyncio.sleep(0.3)
    pictures.unlink()
    await eventually(lambda: bench.problems == ["disk_error", None])
    found = await bench.recorder.event("E1")

    assert found is not None
    assert (4, True) == (found.count, found.snapshot_ns is not None)
    assert ["E2", "E1"] == await bench.ids()


async def test_a_problem_goes_although_no_alarm_comes(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder_module, "MAX_PENDING", 0)
    bench.start()
    await eventually(lambda: bench.opened)
    pictures = bench.folder / "events"
    shutil.rmtree(pictures)
    pictures.write_bytes(b"in the way")
    monkeypatch.setattr(recorder_module, "MAX_PENDING", 1)
    bench.recorder.record(Change(record=record(1), picture=picture()))
    await eventually(lambda: bench.problems == ["disk_error"])
    bench.recorder._pending.clear()
    await asyncio.sleep(0.3)

    assert ["disk_error"] == bench.problems

    pictures.unlink()
    await eventually(lambda: bench.problems == ["disk_error", None])

    assert [] == list(pictures.iterdir())


async def test_old_alarms_go_by_the_hour(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder_module, "PRUNE_S", 0.1)
    bench.start()
    bench.recorder.record(Change(record=record(1)))
    await eventually(lambda: bench.opened)

    assert ["E1"] == await bench.ids()

    bench.recorder._history._settings = HistorySettings(max_age_days=0.01)
    async with asyncio.timeout(10):
        while await bench.ids():  # noqa: ASYNC110 - the worker thread's progress has no event to wait for
            await asyncio.sleep(0.05)
