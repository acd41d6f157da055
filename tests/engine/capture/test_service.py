"""The capture service as a whole: rates, off, restarts, faults and what it says of them."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from detr_sentry.capture.source import FULL_RATE
from detr_sentry.errors import SettingsError, WriterBusyError
from detr_sentry.ipc.heartbeat import Phase, read_heartbeat

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.engine.capture.conftest import Rig

    RigFor = Callable[..., Rig]


def test_standby_until_the_controller_speaks_then_its_rate_at_once(rig_for: RigFor, replay_file: str) -> None:
    rig = rig_for(replay_file, standby_fps=2.0, fps=20)
    first = rig.next()
    standby = rig.collect(2.0)
    assert 2 <= len(standby) <= 6

    ordered_ns = time.monotonic_ns()
    rig.order(FULL_RATE)
    frame = rig.next(rig.newest())
    delay_ms = (frame.monotonic_ns - ordered_ns) / 1e6
    full = rig.collect(2.0)

    assert delay_ms < 750  # budget 150 ms
    assert 20 <= len(full) <= 42
    assert (160, 120) == first.size
    assert "MJPEG" == first.pixel_format


def test_frames_are_numbered_stamped_and_passed_through(
    rig_for: RigFor, replay_file: str, picture: Callable[..., bytes]
) -> None:
    rig = rig_for(replay_file)
    rig.order(FULL_RATE)
    frames = rig.collect(1.0)
    originals = {picture(number) for number in range(20)}

    assert {frame.data for frame in frames} <= originals
    assert 1 == len({frame.epoch for frame in frames})
    assert all(after.number > before.number for before, after in pairwise(frames))
    assert all(after.monotonic_ns > before.monotonic_ns for before, after in pairwise(frames))
    assert all(after.pts_ns > before.pts_ns for before, after in pairwise(frames))
    assert all(abs(time.time_ns() - frame.timestamp_ns) < 30e9 for frame in frames)
    assert all(frame.monotonic_ns <= frame.read_ns for frame in frames)
    assert all(frame.trace is None for frame in frames)


def test_frames_carry_a_new_trace_each_when_telemetry_is_on(rig_for: RigFor, replay_file: str) -> None:
    rig = rig_for(replay_file, telemetry=True)
    rig.order(FULL_RATE)

    traces = [frame.trace for frame in rig.collect(1.0)]

    assert len(traces) > 3
    assert all(trace is not None and len(trace) == 25 and trace[24] == 1 for trace in traces)
    assert len(traces) == len(set(traces))


def test_off_closes_wipes_and_stays_off_whoever_restarts(rig_for: RigFor, replay_file: str) -> None:
    rig = rig_for(replay_file)
    rig.next()

    rig.order(0.0)
    status = rig.link("off")
    assert rig.newest() is None
    assert status["problem"] is None

    rig.stop()
    rig.start()  # the capture restarts
    assert [] == rig.collect(0.8)
    rig.controller_dies()
    assert [] == rig.collect(0.8)
    assert "off" == rig.status()["link"]

    rig.order(FULL_RATE)

    assert rig.next().number >= 1
    rig.link("connected")


def test_a_stored_off_holds_before_the_controller_is_up(rig_for: RigFor, replay_file: str) -> None:
    rig = rig_for(replay_file, start=False)
    state = rig.settings.state_dir
    state.mkdir(parents=True)
    (state / "mode.json").write_text(json.dumps({"version": 1, "cameras": {"door": {"mode": "off", "until": None}}}))

    rig.start()
    assert [] == rig.collect(0.8)
    rig.link("off")
    rig.order(5.0)

    assert rig.next().number >= 1


def test_the_heartbeat_tells_the_truth(rig_for: RigFor, replay_file: str) -> None:
    rig = rig_for(replay_file, fps=20)
    rig.order(FULL_RATE)
    rig.link("connected")
    rig.collect(2.5)

    status = rig.status()
    beat = read_heartbeat(rig.layout.heartbeat("capture", "door"))

    assert beat is not None
    assert Phase.RUNNING is beat.phase
    assert not beat.overdue(time.monotonic_ns())
    assert (160, 120, "MJPEG") == (status["width"], status["height"], status["pixel_format"])
    assert replay_file == status["source"]
    assert 8 < status["fps"] < 25
    assert status["frames"] > 10
    assert {} == status["drops"]
    assert abs(time.time_ns() - status["last_frame_ns"]) < 10e9
    assert (None, None) == (status["problem"], status["error"])


def test_a_restart_gives_a_new_epoch_that_readers_follow(rig_for: RigFor, replay_file: str) -> None:
    rig = rig_for(replay_file)
    before = rig.next()

    rig.stop()
    rig.start()
    after = rig.next(before)

    assert after.epoch > before.epoch


def test_a_missing_file_is_waited_for_with_two_log_lines(
    rig_for: RigFor, tmp_path: Path, picture: Callable[..., bytes], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "detr_sentry.capture")
    path = tmp_path / "late.mjpeg"
    rig = rig_for(f"replay:{path}?fps=20")
    status = rig.link("gone")
    assert "late.mjpeg" in status["error"]
    assert "gone" == status["problem"]
    time.sleep(1.5)  # several attempts

    path.write_bytes(b"".join(picture(number) for number in range(5)))
    rig.next()
    rig.link("connected")

    assert ["WARNING", "INFO"] == [record.levelname for record in caplog.records]
    assert "back after" in caplog.records[1].getMessage()


def test_a_file_that_ends_is_gone_and_not_shown_again(rig_for: RigFor, replay_file: str) -> None:
    rig = rig_for(f"{replay_file}&loop=0")
    rig.order(FULL_RATE)
    frames = rig.collect(3.0)

    status = rig.link("gone")

    assert "ended" in status["error"]
    stamps = [frame.pts_ns for frame in frames]

    assert sorted(stamps) == stamps  # never from its start again; a new rate may take one picture twice
    assert len(set(stamps)) <= 20
    assert [] == rig.collect(1.0)


def test_a_file_that_is_no_video_is_a_wrong_format(rig_for: RigFor, tmp_path: Path) -> None:
    path = tmp_path / "notes.mjpeg"
    path.write_bytes(b"no pictures in here" * 100)

    status = rig_for(f"replay:{path}").link("wrong_format")

    assert "JPEG" in status["error"]


def test_a_frozen_picture_is_reported(
    rig_for: RigFor, tmp_path: Path, picture: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("detr_sentry.capture.picture.FROZEN_AFTER_NS", 1_500_000_000)
    path = tmp_path / "frozen.mjpeg"
    path.write_bytes(picture(1))
    rig = rig_for(f"replay:{path}?fps=20")
    rig.order(FULL_RATE)
    rig.collect(4.0)

    status = rig.status()

    assert ("connected", "frozen") == (status["link"], status["problem"])


def test_two_captures_of_one_camera_do_not_mix(rig_for: RigFor, replay_file: str) -> None:
    rig = rig_for(replay_file)
    rig.next()

    with pytest.raises(WriterBusyError):
        rig.start()

    rig.next()


def test_unknown_cameras_and_options_are_refused(rig_for: RigFor) -> None:
    with pytest.raises(SettingsError, match="unknown option"):
        rig_for("demo:?colour=red")
    with pytest.raises(SettingsError, match="seed"):
        rig_for("demo:?seed=-1")


PROGRAM = """
import sys
from pathlib import Path
from detr_sentry.capture.service import run
from detr_sentry.settings import build_settings
root, instance, source, camera = sys.argv[1:]
tree = {"instance": instance, "shm_root": root + "/shm", "state_dir": root + "/state",
        "cameras": {"door": {"source": source}}}
sys.exit(run(build_settings(tree, origins={}), camera))
"""


@pytest.fixture
def start_process() -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Starts real capture processes, ended and reaped with the test."""
    processes: list[subprocess.Popen[bytes]] = []

    def start(rig: Rig, source: str, camera: str = "door") -> subprocess.Popen[bytes]:
        root = str(rig.settings.shm_root.parent)
        command = [sys.executable, "-c", PROGRAM, root, rig.settings.instance, source, camera]
        processes.append(subprocess.Popen(command, stderr=subprocess.PIPE))
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.communicate()


@pytest.mark.timeout(60)
def test_the_process_ends_on_sigterm_and_survives_sigkill(
    rig_for: RigFor, replay_file: str, start_process: Callable[..., subprocess.Popen[bytes]]
) -> None:
    rig = rig_for(replay_file, start=False)
    process = start_process(rig, replay_file)
    first = rig.next(timeout_s=20)
    process.send_signal(signal.SIGKILL)
    assert -signal.SIGKILL == process.wait(10)
    heartbeat = rig.layout.heartbeat("capture", "door")
    assert heartbeat.exists()

    process = start_process(rig, replay_file)
    second = rig.next(first, timeout_s=20)
    assert second.epoch > first.epoch
    asked = time.monotonic()
    process.send_signal(signal.SIGTERM)

    assert 0 == process.wait(10)
    assert time.monotonic() - asked < 5  # expected: well below 1 s
    assert not heartbeat.exists()


@pytest.mark.timeout(60)
def test_the_process_says_what_is_wrong_and_exits(
    rig_for: RigFor, start_process: Callable[..., subprocess.Popen[bytes]]
) -> None:
    rig = rig_for("demo:", start=False)

    for camera, source, code, says in [
        ("attic", "demo:", 2, b"no camera 'attic'"),
        ("door", "demo:?period=zero", 2, b"option period"),
    ]:
        process = start_process(rig, source, camera)
        _, errors = process.communicate(timeout=30)

        assert code == process.returncode
        assert says in errors


@pytest.mark.timeout(60)
def test_the_process_ends_at_once_while_it_connects(
    rig_for: RigFor, start_process: Callable[..., subprocess.Popen[bytes]]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as black_hole:
        url = f"rtsp://127.0.0.1:{black_hole.getsockname()[1]}/x"
        rig = rig_for(url, start=False)
        process = start_process(rig, url)
        rig.link("connecting", timeout_s=20)
        connection, _ = black_hole.accept()
        asked = time.monotonic()
        process.send_signal(signal.SIGTERM)

        assert 0 == process.wait(10)
        connection.close()
        assert time.monotonic() - asked < 5  # expected: well below 1 s


def test_an_order_to_close_is_obeyed_while_connecting(rig_for: RigFor) -> None:
    with socket.create_server(("127.0.0.1", 0)) as black_hole:
        rig = rig_for(f"http://127.0.0.1:{black_hole.getsockname()[1]}/x")
        connection, _ = black_hole.accept()
        rig.order(0.0)

        rig.link("off", timeout_s=5)
        connection.close()


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_opening_and_closing_leaks_no_descriptor(rig_for: RigFor, replay_file: str) -> None:
    rig = rig_for(replay_file)

    def cycles(count: int) -> int:
        for _ in range(count):
            rig.order(FULL_RATE)
            rig.next()
            rig.order(0.0)
            rig.link("off")
        return open_files()

    warm = cycles(7)  # readers open slots as they meet them

    assert warm + 2 >= cycles(7)
