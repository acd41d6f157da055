from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pytest

from detr_sentry import doctor
from detr_sentry.doctor import Finding, Verdict
from detr_sentry.errors import IpcError
from detr_sentry.ipc.bells import Bell
from detr_sentry.ipc.heartbeat import Heartbeat, Phase
from detr_sentry.ipc.layout import Layout
from detr_sentry.settings import Settings, load_settings


def settings_in(folder: Path, **flags: object) -> Settings:
    base = {"shm_root": str(folder / "shm"), "state_dir": str(folder / "state"), "gateway": {"port": 0}}
    return load_settings(environ={}, flags={**base, **flags})


def finding(settings: Settings, check: str) -> Finding:
    return next(found for found in doctor.examine(settings) if found.check == check)


def test_a_sound_machine_fails_no_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = settings_in(tmp_path, cameras={"door": {"source": "demo:"}})

    assert doctor.run(settings, as_json=False, remove=False) == 0
    shown = capsys.readouterr().out
    for check in ("system", "processor", "shared memory", "message queues", "open files", "state", "port", "model"):
        assert check in shown


def test_json_has_every_finding(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    doctor.run(settings_in(tmp_path), as_json=True, remove=False)
    found = json.loads(capsys.readouterr().out)

    assert all({"check", "verdict", "seen", "mend"} == set(entry) for entry in found)


def test_too_little_shared_memory_names_the_bytes(tmp_path: Path) -> None:
    huge = {f"cam_{number}": {"source": "demo:", "width": 16384, "height": 16384} for number in range(64)}
    found = finding(settings_in(tmp_path, cameras=huge), "shared memory")

    assert found.verdict is Verdict.FAIL
    assert "171815 MB needed" in found.seen
    assert "remount,size=" in found.mend


def test_a_taken_port_is_named(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        found = finding(settings_in(tmp_path, gateway={"port": port}), "port")

        assert found.verdict is Verdict.FAIL
        assert str(port) in found.seen


def test_a_missing_model_is_named(tmp_path: Path) -> None:
    found = finding(settings_in(tmp_path, model={"name": str(tmp_path / "absent.onnx")}), "model")

    assert found.verdict is Verdict.FAIL
    assert "absent.onnx" in found.seen


def test_an_unwritable_state_folder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, _mode: path != tmp_path)  # root may write to every real folder

    assert finding(settings_in(tmp_path), "state").verdict is Verdict.FAIL


def test_no_camera_is_said(tmp_path: Path) -> None:
    assert finding(settings_in(tmp_path), "cameras").verdict is Verdict.WARN


def test_what_a_killed_engine_left_is_found_and_removed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = settings_in(tmp_path, instance=f"left{os.getpid()}")
    layout = Layout(settings.shm_root, settings.instance)
    layout.create()
    bell = Bell(layout.bell("inference"))
    bell.close()

    assert finding(settings, "engine").verdict is Verdict.WARN

    doctor.run(settings, as_json=False, remove=True)

    removed = capsys.readouterr().err
    assert layout.bell("inference") in removed
    assert not layout.base.exists()
    assert not Bell.unlink(layout.bell("inference"))


def test_nothing_is_removed_under_a_running_engine(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    layout = Layout(settings.shm_root, settings.instance)
    layout.create()
    heartbeat = Heartbeat(layout.heartbeat("supervisor"), "supervisor")
    heartbeat.beat(Phase.RUNNING)

    assert finding(settings, "engine").verdict is Verdict.OK
    with pytest.raises(IpcError, match=f"still runs: supervisor \\({os.getpid()}\\)"):
        doctor.run(settings, as_json=False, remove=True)

    heartbeat.close()
