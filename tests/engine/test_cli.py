from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from detr_sentry import __version__, cli
from detr_sentry.settings import FLAGS_VARIABLE


@pytest.fixture(autouse=True)
def _own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("DETR_SENTRY_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["--version"])

    assert caught.value.code == 0
    assert capsys.readouterr().out == f"detr-sentry {__version__}\n"


def test_without_a_command_the_usage_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main([])

    assert caught.value.code == 2
    assert "COMMAND" in capsys.readouterr().err


def test_settings_shows_values_and_origins(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "sentry.yaml").write_text("cameras: {door: {source: 'rtsp://me:secret@cam/1'}}\n")

    assert cli.main(["settings"]) == 0
    shown = capsys.readouterr().out
    assert f"rtsp://********@cam/1   ({tmp_path / 'sentry.yaml'})" in shown
    assert "secret" not in shown

    assert cli.main(["settings", "--json", "--log-level", "debug"]) == 0
    assert {"value": "debug", "origin": "command line"} == json.loads(capsys.readouterr().out)["log.level"]


def test_a_wrong_setting_is_a_line_and_status_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "sentry.yaml").write_text("gateway: {prt: 1}\n")

    assert cli.main(["settings"]) == 2
    assert capsys.readouterr().err.startswith("detr-sentry: gateway.prt: is not a setting")


def test_a_named_file_must_exist(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["settings", "--config", "absent.yaml"]) == 2
    assert "absent.yaml" in capsys.readouterr().err


def test_the_page_has_a_place_for_settings_before_there_are_any(tmp_path: Path) -> None:
    file, may_be_absent = cli.settings_file(cli.build_parser().parse_args(["settings"]))

    assert (file, may_be_absent) == (tmp_path / ".config" / "detr-sentry" / "sentry.yaml", True)


def test_run_flags_are_settings() -> None:
    arguments = cli.build_parser().parse_args(
        ["run", "--source", "a.mp4", "--source", "/dev/video0", "--port", "9", "--model", "m", "--instance", "x"]
    )

    assert cli.run_flags(arguments) == {
        "model": {"name": "m"},
        "instance": "x",
        "gateway": {"port": 9},
        "cameras": {"camera_1": {"source": "a.mp4"}, "camera_2": {"source": "/dev/video0"}},
    }


def test_services_inherit_the_flags_of_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FLAGS_VARIABLE, json.dumps({"gateway": {"port": 9}, "log": {"level": "error"}}))
    settings = cli.settings_of(cli.build_parser().parse_args(["gateway", "--log-level", "debug"]))

    assert (settings.gateway.port, settings.log.level) == (9, "debug")


def test_a_taken_port_is_said_before_anything_starts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "sentry.yaml").write_text(f"shm_root: {tmp_path}/shm\nstate_dir: {tmp_path}/state\n")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

        assert cli.main(["run", "--port", str(port)]) == 2

    said = capsys.readouterr().err
    assert f"127.0.0.1:{port}: Address already in use" in said
    assert "--port" in said
    assert not (tmp_path / "shm").exists()


def test_inference_can_only_look_at_the_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "none.onnx").write_bytes(b"no model")

    assert cli.main(["inference", "--check"]) == 0

    (tmp_path / "sentry.yaml").write_text(f"model: {{name: {tmp_path}/none.onnx}}\n")

    assert cli.main(["inference", "--check"]) == 1
    assert "none.onnx" in capsys.readouterr().err


def test_an_unknown_camera_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "sentry.yaml").write_text(f"shm_root: {tmp_path}/shm\ncameras: {{door: {{source: 'demo:'}}}}\n")
    done = subprocess.run(
        [sys.executable, "-m", "detr_sentry", "capture", "garden"],
        capture_output=True,
        text=True,
        check=False,
        timeout=15,
    )

    assert done.returncode == 2
    assert "no camera 'garden'; known: door" in done.stderr


def test_help_of_every_command_starts_fast_enough_to_be_read() -> None:
    for command in (
        "run",
        "capture",
        "inference",
        "controller",
        "gateway",
        "settings",
        "doctor",
        "models",
        "eval",
        "bench",
    ):
        done = subprocess.run(
            [sys.executable, "-m", "detr_sentry", command, "--help"],
            capture_output=True,
            text=True,
            check=False,
            timeout=15,
        )

        assert (done.returncode, done.stderr) == (0, "")
        assert f"detr-sentry {command}" in done.stdout


def test_a_service_dies_with_its_supervisor(tmp_path: Path) -> None:
    code = (
        "import subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', "
        "'import os, time; from detr_sentry._process import become_service; "
        'become_service("t", parent=os.getppid()); print("up", flush=True); time.sleep(60)\'])\n'
        "print(child.pid, flush=True); time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        words = {parent.stdout.readline().strip(), parent.stdout.readline().strip()}
        pid = int(next(word for word in words if word != "up"))
        parent.send_signal(signal.SIGKILL)
    end = time.monotonic() + 10
    while time.monotonic() < end and Path(f"/proc/{pid}/stat").exists():
        if Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z":
            break
        time.sleep(0.05)
    else:
        assert not Path(f"/proc/{pid}").exists()


def test_a_service_whose_supervisor_is_already_gone_ends_at_once() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from detr_sentry._process import become_service; become_service('x', parent=1)"],
        check=False,
        timeout=15,
    )

    assert done.returncode == -signal.SIGTERM
