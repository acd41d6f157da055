from __future__ import annotations

import json
import os
import stat
import subprocess
import time
from pathlib import Path

import pytest

from detr_sentry.errors import IpcError
from detr_sentry.ipc.heartbeat import Beat, Heartbeat, Phase, read_heartbeat


def test_says_who_what_and_until_when(tmp_path: Path) -> None:
    path = tmp_path / "heartbeat" / "capture.door"
    heartbeat = Heartbeat(path, "capture", "door")
    before = time.monotonic_ns(), time.time_ns()
    heartbeat.beat(Phase.RUNNING, {"link": "connected", "frames": 7})
    beat = read_heartbeat(path)

    assert beat is not None
    assert ("capture", "door", os.getpid(), Phase.RUNNING) == (beat.service, beat.camera, beat.pid, beat.phase)
    assert {"link": "connected", "frames": 7} == beat.status
    assert before[0] + 5e9 <= beat.deadline_monotonic_ns <= time.monotonic_ns() + 5e9
    assert before[1] <= beat.written_ns <= time.time_ns()
    assert not beat.overdue(beat.deadline_monotonic_ns)
    assert beat.overdue(beat.deadline_monotonic_ns + 1)
    assert 0o600 == stat.S_IMODE(path.stat().st_mode)
    assert [path] == list(path.parent.iterdir())


@pytest.mark.parametrize(
    ("phase", "allowance_s"),
    [
        (Phase.STARTING, 15),
        (Phase.CONNECTING, 15),
        (Phase.COMPILING, 120),
        (Phase.BUILDING, 1800),
        (Phase.RUNNING, 5),
    ],
)
def test_mtime_is_when_the_next_beat_is_due(tmp_path: Path, phase: Phase, allowance_s: int) -> None:
    path = tmp_path / "inference"
    now = time.time()
    Heartbeat(path, "inference").beat(phase)
    due = int(subprocess.run(["stat", "-c", "%Y", str(path)], capture_output=True, text=True, check=True).stdout)

    assert allowance_s == phase.allowance_s
    assert now + allowance_s - 1 <= due <= time.time() + allowance_s + 1


def test_a_shell_sees_a_hanging_service(tmp_path: Path) -> None:
    path = tmp_path / "inference"
    Heartbeat(path, "inference").beat(Phase.RUNNING)
    check = f'[ "$(date +%s)" -gt "$(stat -c %Y {path})" ]'

    assert 1 == subprocess.run(["sh", "-c", check], check=False).returncode

    os.utime(path, (0, time.time() - 2))

    assert 0 == subprocess.run(["sh", "-c", check], check=False).returncode


def written(path: Path) -> int:
    return path.stat().st_ino


def test_counters_are_rewritten_once_a_second_and_words_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [time.monotonic_ns()]
    monkeypatch.setattr(time, "monotonic_ns", lambda: now[0])
    path = tmp_path / "capture.door"
    heartbeat = Heartbeat(path, "capture", "door")
    status: dict[str, object] = {"link": "connected", "frames": 0, "error": None, "drops": {}, "fps": 0.5}

    def frames() -> object:
        beat = read_heartbeat(path)
        assert beat is not None
        return beat.status["frames"], beat.status["link"], beat.phase

    heartbeat.beat(Phase.RUNNING, status)
    for count in range(1, 30):
        heartbeat.beat(Phase.RUNNING, {**status, "frames": count, "fps": 30.0, "drops": {"late": count}})

    assert (0, "connected", Phase.RUNNING) == frames()

    heartbeat.beat(Phase.RUNNING, {**status, "frames": 30, "link": "gone"})

    assert (30, "gone", Phase.RUNNING) == frames()

    heartbeat.beat(Phase.CONNECTING, {**status, "frames": 31, "link": "gone"})

    assert (31, "gone", Phase.CONNECTING) == frames()

    heartbeat.beat(Phase.CONNECTING, {**status, "frames": 32, "link": "gone", "error": "unplugged"})

    assert (32, "gone", Phase.CONNECTING) == frames()

    now[0] += 1_000_000_000
    heartbeat.beat(Phase.CONNECTING, {**status, "frames": 33, "link": "gone", "error": "unplugged"})

    assert (33, "gone", Phase.CONNECTING) == frames()


def test_beating_extends_the_deadline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [time.monotonic_ns()]
    monkeypatch.setattr(time, "monotonic_ns", lambda: now[0])
    heartbeat = Heartbeat(tmp_path / "inference", "inference")
    deadlines = []
    for _ in range(3):
        heartbeat.beat(Phase.RUNNING)
        beat = read_heartbeat(tmp_path / "inference")
        assert beat is not None
        deadlines.append(beat.deadline_monotonic_ns)
        now[0] += 2_000_000_000

    assert [deadlines[0] + n * 2_000_000_000 for n in range(3)] == deadlines


def test_close_removes_the_file(tmp_path: Path) -> None:
    heartbeat = Heartbeat(tmp_path / "inference", "inference")
    heartbeat.close()
    heartbeat.beat(Phase.STARTING)
    heartbeat.close()

    assert read_heartbeat(tmp_path / "inference") is None
    assert [] == list(tmp_path.iterdir())

    heartbeat.beat(Phase.STARTING)

    assert read_heartbeat(tmp_path / "inference") is not None


GOOD: dict[str, object] = {
    "service": "inference",
    "camera": None,
    "pid": 1,
    "phase": "running",
    "deadline_monotonic_ns": 5,
    "written_ns": 6,
    "status": {},
}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"\xff",
        b"1",
        *(json.dumps({key: value for key, value in GOOD.items() if key != gone}).encode() for gone in GOOD),
        *(
            json.dumps({**GOOD, key: wrong}).encode()
            for key, wrong in (("phase", "x"), ("pid", "x"), ("status", []), ("camera", 1), ("written_ns", None))
        ),
    ],
)
def test_a_file_that_is_no_heartbeat_is_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "inference").write_bytes(content)

    assert read_heartbeat(tmp_path / "inference") is None


def test_reads_what_others_wrote(tmp_path: Path) -> None:
    (tmp_path / "inference").write_text(json.dumps(GOOD))

    assert Beat("inference", None, 1, Phase.RUNNING, 5, 6, {}) == read_heartbeat(tmp_path / "inference")


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(IpcError, match="heartbeat directory"):
        Heartbeat(tmp_path / "file" / "inference", "inference")
    heartbeat = Heartbeat(tmp_path / "gone" / "inference", "inference")
    (tmp_path / "gone").rmdir()

    with pytest.raises(IpcError, match="cannot write"):
        heartbeat.beat(Phase.RUNNING)
