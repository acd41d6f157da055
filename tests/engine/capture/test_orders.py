"""What rate is asked: the ring's last word, the stored off before it, and never a guess that opens a closed camera."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

import pytest

from detr_sentry.capture.orders import OFF, Orders, stored_off
from detr_sentry.capture.source import FULL_RATE
from detr_sentry.ipc.messages import Mode, SentryWriter, State

if TYPE_CHECKING:
    from pathlib import Path

NOW_S = 1_800_000_000.0


def publish(writer: SentryWriter, rate: float) -> None:
    writer.publish(
        state=State.STANDBY, mode=Mode.AUTO, blind=False, capture_fps=rate,
        since_ns=0, count=0, event_id="", timestamp_ns=time.time_ns(),
    )  # fmt: skip


def test_the_last_word_counts_also_over_restarts_of_the_controller(tmp_path: Path) -> None:
    ring = tmp_path / "sentry"
    orders = Orders(ring, "door", standby_fps=3.0, state_dir=tmp_path)
    assert 3.0 == orders.rate()

    writer = SentryWriter(ring, camera_id="door", slots=6)
    publish(writer, FULL_RATE)
    assert FULL_RATE == orders.rate()
    publish(writer, 0.0)
    assert OFF == orders.rate()
    writer.close()
    assert OFF == orders.rate()

    writer = SentryWriter(ring, camera_id="door", slots=6)
    time.sleep(0.3)
    assert OFF == orders.rate()
    publish(writer, 3.0)
    time.sleep(0.3)
    assert 3.0 == orders.rate()
    orders.close()
    writer.close()


def test_a_message_that_no_controller_writes_is_ignored(tmp_path: Path) -> None:
    ring = tmp_path / "sentry"
    orders = Orders(ring, "door", standby_fps=3.0, state_dir=tmp_path)
    writer = SentryWriter(ring, camera_id="door", slots=6)
    publish(writer, 12345.0)

    assert 3.0 == orders.rate()
    orders.close()
    writer.close()


@pytest.mark.parametrize(
    ("entry", "off"),
    [
        ({"mode": "off"}, True),
        ({"mode": "off", "until": None}, True),
        ({"mode": "off", "until": NOW_S + 60}, True),
        ({"mode": "off", "until": NOW_S - 60}, False),
        ({"mode": "auto"}, False),
        ({}, False),
        ({"mode": "off", "until": "soon"}, True),
        ("off", True),
    ],
)
def test_the_stored_mode(tmp_path: Path, entry: object, *, off: bool) -> None:
    path = tmp_path / "mode.json"
    path.write_text(json.dumps({"version": 1, "cameras": {"door": entry}}))

    assert off == stored_off(path, "door", NOW_S)
    assert not stored_off(path, "attic", NOW_S)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"cameras": 3}', b"\xff\xfe"])
def test_a_mode_file_that_cannot_be_understood_keeps_the_camera_closed(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "mode.json"
    path.write_bytes(content)

    assert stored_off(path, "door", NOW_S)
    assert not stored_off(tmp_path / "absent.json", "door", NOW_S)
