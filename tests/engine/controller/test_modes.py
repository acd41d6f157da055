from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from detr_sentry.controller.clock import Clock
from detr_sentry.controller.modes import Modes
from detr_sentry.errors import StorageError
from detr_sentry.sentry.events import Mode

SECOND = 1_000_000_000
WALL = 1_700_000_000


@dataclass
class Hands:
    """A clock whose two hands are moved apart by the test."""

    monotonic_s: float = 50.0
    wall_s: float = WALL

    @property
    def clock(self) -> Clock:
        return Clock(lambda: round(self.monotonic_s * SECOND), lambda: round(self.wall_s * SECOND))

    def wait(self, seconds: float) -> None:
        self.monotonic_s += seconds
        self.wall_s += seconds


@pytest.fixture
def hands() -> Hands:
    return Hands()


async def modes(folder: Path, hands: Hands, *cameras: str) -> Modes:
    return await asyncio.to_thread(Modes, folder, cameras or ("door", "yard"), hands.clock)


def write(folder: Path, document: Any) -> None:
    (folder / "mode.json").write_text(document if isinstance(document, str) else json.dumps(document))


def test_clock_is_the_machines() -> None:
    clock = Clock()

    assert abs(clock.monotonic_ns() - time.monotonic_ns()) < 5 * SECOND
    assert abs(clock.wall_ns() - time.time_ns()) < 5 * SECOND


async def test_cameras_start_in_auto(tmp_path: Path, hands: Hands) -> None:
    fresh = await modes(tmp_path, hands)

    assert (Mode.AUTO, None, set()) == (fresh.mode("door"), fresh.until_ns("door"), fresh.lost)


async def test_a_mode_survives_a_restart(tmp_path: Path, hands: Hands) -> None:
    await (await modes(tmp_path, hands)).choose("door", Mode.OFF, None)
    again = await modes(tmp_path, hands)

    assert (Mode.OFF, Mode.AUTO) == (again.mode("door"), again.mode("yard"))
    assert 0o600 == (tmp_path / "mode.json").stat().st_mode & 0o777


async def test_a_timed_mode_ends_and_goes_back(tmp_path: Path, hands: Hands) -> None:
    book = await modes(tmp_path, hands)
    await book.choose("door", Mode.STANDBY, None)
    await book.choose("door", Mode.OFF, 60)
    hands.wait(59.9)

    assert [] == await book.expire()
    assert (Mode.OFF, (WALL + 60) * SECOND) == (book.mode("door"), book.until_ns("door"))

    hands.wait(0.1)

    assert ["door"] == await book.expire()
    assert (Mode.STANDBY, None) == (book.mode("door"), book.until_ns("door"))
    assert Mode.STANDBY == (await modes(tmp_path, hands)).mode("door")


async def test_timed_on_timed_goes_back_to_the_lasting_one(tmp_path: Path, hands: Hands) -> None:
    book = await modes(tmp_path, hands)
    await book.choose("door", Mode.OFF, 60)
    await book.choose("door", Mode.ALARMED, 60)
    hands.wait(61)
    await book.expire()

    assert Mode.AUTO == book.mode("door")


async def test_a_lasting_mode_ends_a_timed_one(tmp_path: Path, hands: Hands) -> None:
    book = await modes(tmp_path, hands)
    await book.choose("door", Mode.OFF, 60)
    await book.choose("door", Mode.OFF, None)
    hands.wait(600)

    assert ([], Mode.OFF) == (await book.expire(), book.mode("door"))


@pytest.mark.parametrize("jump_s", [3600, -3600, 86400, -86400])
async def test_a_clock_jump_does_not_move_the_end(tmp_path: Path, hands: Hands, jump_s: int) -> None:
    book = await modes(tmp_path, hands)
    await book.choose("door", Mode.OFF, 60)
    hands.wall_s += jump_s
    hands.wait(59)

    assert [] == await book.expire()
    assert (WALL + jump_s + 60) * SECOND == book.until_ns("door")

    hands.wait(1)

    assert ["door"] == await book.expire()


@pytest.mark.parametrize(
    ("wall_s", "left_s"), [(20, 40), (60, None), (86400, None), (-86400, 60)], ids=["during", "after", "late", "back"]
)
async def test_over_a_restart_the_wall_clock_goes_on_within_reason(
    tmp_path: Path, hands: Hands, wall_s: int, left_s: int | None
) -> None:
    await (await modes(tmp_path, hands)).choose("door", Mode.OFF, 60)
    reborn = Hands(monotonic_s=3.0, wall_s=WALL + wall_s)
    book = await modes(tmp_path, reborn)

    assert (Mode.AUTO if left_s is None else Mode.OFF) == book.mode("door")
    if left_s is not None:
        assert (WALL + wall_s + left_s) * SECOND == book.until_ns("door")


async def test_a_mode_that_cannot_be_stored_is_not_taken(tmp_path: Path, hands: Hands) -> None:
    book = await modes(tmp_path, hands)
    (tmp_path / "mode.json").mkdir()
    with pytest.raises(StorageError, match=r"mode\.json"):
        await book.choose("door", Mode.OFF, None)

    assert Mode.AUTO == book.mode("door")


async def test_an_end_that_cannot_be_stored_ends_all_the_same(
    tmp_path: Path, hands: Hands, caplog: pytest.LogCaptureFixture
) -> None:
    book = await modes(tmp_path, hands)
    await book.choose("door", Mode.OFF, 60)
    (tmp_path / "mode.json").unlink()
    (tmp_path / "mode.json").mkdir()
    hands.wait(60)

    assert ["door"] == await book.expire()
    assert Mode.AUTO == book.mode("door")
    assert "mode.json" in caplog.text


@pytest.mark.parametrize("document", ["", "{", "[]", '{"cameras": 1}', "null null", "[" * 100_000])
async def test_a_file_that_is_not_understood_opens_no_camera(tmp_path: Path, hands: Hands, document: str) -> None:
    write(tmp_path, document)
    book = await modes(tmp_path, hands)

    assert (Mode.OFF, {"door", "yard"}) == (book.mode("door"), book.lost)

    await book.choose("door", Mode.AUTO, None)

    assert (Mode.AUTO, {"yard"}) == (book.mode("door"), book.lost)

    again = await modes(tmp_path, hands)

    assert (Mode.AUTO, Mode.OFF, {"yard"}) == (again.mode("door"), again.mode("yard"), again.lost)


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        "off",
        {},
        {"mode": "sleep"},
        {"mode": 3},
        {"mode": "off", "back": "x"},
        {"mode": "off", "until": "soon", "duration_s": 5},
        {"mode": "off", "until": float("nan"), "duration_s": 5},
        {"mode": "off", "until": {}, "duration_s": 5},
    ],
)
async def test_an_entry_that_is_not_understood_keeps_its_camera_off(tmp_path: Path, hands: Hands, value: Any) -> None:
    write(tmp_path, {"cameras": {"door": value, "yard": {"mode": "alarmed"}}})
    book = await modes(tmp_path, hands)

    assert (Mode.OFF, Mode.ALARMED, {"door"}) == (book.mode("door"), book.mode("yard"), book.lost)


async def test_cameras_that_are_not_in_the_settings_now_keep_their_mode(tmp_path: Path, hands: Hands) -> None:
    await (await modes(tmp_path, hands)).choose("yard", Mode.OFF, None)
    await (await modes(tmp_path, hands, "door")).choose("door", Mode.STANDBY, None)

    assert Mode.OFF == (await modes(tmp_path, hands)).mode("yard")
