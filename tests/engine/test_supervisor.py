from __future__ import annotations

import itertools
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

import pytest

from detr_sentry import supervisor as module
from detr_sentry._supervised import Service, State
from detr_sentry.errors import WriterBusyError
from detr_sentry.ipc.heartbeat import read_heartbeat
from detr_sentry.ipc.layout import Layout
from detr_sentry.settings import Settings, load_settings
from detr_sentry.supervisor import Supervisor

BEATING = """
import signal, sys, time
from pathlib import Path
from detr_sentry.ipc.heartbeat import Heartbeat, Phase
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
beat = Heartbeat(Path(sys.argv[1]), sys.argv[2])
end = time.monotonic() + float(sys.argv[3])
while time.monotonic() < end:
    beat.beat(Phase.RUNNING, {"url": "http://127.0.0.1:1/"})
    time.sleep(0.05)
while len(sys.argv) > 4:
    time.sleep(1)  # hangs: alive, without a beat
"""
STUBBORN = BEATING.replace("lambda *_: sys.exit(0)", "signal.SIG_IGN")


class Script(Service):
    """A supervised process that runs `code` instead of a real service."""

    code: ClassVar[str] = BEATING
    arguments: ClassVar[tuple[str, ...]] = ("60",)

    def command(self, settings: Settings) -> list[str]:
        beat = Layout(settings.shm_root, settings.instance).heartbeat(self.kind, self.camera)
        return [sys.executable, "-c", self.code, str(beat), self.kind, *self.arguments]


def script(kind: str, *arguments: str, code: str = BEATING) -> Service:
    Script.code, Script.arguments = code, arguments or ("60",)  # one kind of script a test
    return Script(kind)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings(environ={}, flags={"shm_root": str(tmp_path / "shm"), "state_dir": str(tmp_path / "state")})


@contextmanager
def running(supervisor: Supervisor) -> Iterator[threading.Thread]:
    """The supervisor in a thread; signals cannot be caught there, so its stop flag is used."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(signal, "signal", lambda *_: None)
        thread = threading.Thread(target=supervisor.run)
        thread.start()
        try:
            yield thread
        finally:
            supervisor._stop(signal.SIGTERM, None)
            thread.join(10)
    assert not thread.is_alive()


def eventually(condition: Callable[[], object], within_s: float = 10) -> None:
    end = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < end, "did not happen in time"
        time.sleep(0.02)


def test_services_are_started_watched_and_ended(settings: Settings) -> None:
    supervisor = Supervisor(settings)
    supervisor.services = [script("gateway"), script("inference")]
    layout = Layout(settings.shm_root, settings.instance)
    with running(supervisor):
        eventually(lambda: all(service.state is State.RUNNING for service in supervisor.services))
        eventually(lambda: (beat := read_heartbeat(layout.heartbeat("supervisor"))) and beat.status["services"])
        pids = [service.process.pid for service in supervisor.services if service.process]

    assert [State.STOPPED, State.STOPPED] == [service.state for service in supervisor.services]
    assert not layout.base.exists()
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_a_killed_service_is_started_again(settings: Settings) -> None:
    supervisor = Supervisor(settings)
    supervisor.services = [service] = [script("gateway")]
    with running(supervisor):
        eventually(lambda: service.state is State.RUNNING)
        first = service.process
        assert first is not None
        first.kill()
        eventually(lambda: service.process is not None and service.process.pid != first.pid)
        eventually(lambda: service.state is State.RUNNING)

        assert (service.restarts, service.reason) == (1, "ended by SIGKILL")


def test_a_service_that_dies_at_start_backs_off(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_BACK_OFF_S", 0.05)
    supervisor = Supervisor(settings)
    supervisor.services = [service] = [script("gateway", code="raise SystemExit(3)")]
    starts: list[float] = []
    start = supervisor._start

    def timed_start(one: Service) -> None:
        starts.append(time.monotonic())
        start(one)

    monkeypatch.setattr(supervisor, "_start", timed_start)
    with running(supervisor):
        eventually(lambda: len(starts) >= 4)

    gaps = [later - earlier for earlier, later in itertools.pairwise(starts[1:])]

    assert service.reason == "ended with status 3"
    assert gaps[0] >= 0.1
    assert gaps[1] >= 0.2


@pytest.mark.timeout(60)
def test_a_hung_service_is_replaced(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    supervisor = Supervisor(settings)
    supervisor.services = [service] = [script("gateway", "0.5", "hang")]
    with running(supervisor):
        eventually(lambda: service.state is State.RUNNING)
        started = time.monotonic()
        eventually(lambda: service.restarts == 1, within_s=30)

        assert time.monotonic() - started < 12
        assert service.reason == "ended by SIGABRT"


@pytest.mark.timeout(60)
def test_a_frozen_service_is_replaced(settings: Settings) -> None:
    supervisor = Supervisor(settings)
    supervisor.services = [service] = [script("gateway")]
    with running(supervisor):
        eventually(lambda: service.state is State.RUNNING)
        assert service.process is not None
        os.kill(service.process.pid, signal.SIGSTOP)
        eventually(lambda: service.restarts == 1, within_s=30)

        assert service.reason == "ended by SIGKILL"


def test_a_service_that_never_beats_is_replaced(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STARTING_S", 0.5)
    supervisor = Supervisor(settings)
    supervisor.services = [service] = [script("gateway", code="import time; time.sleep(60)")]
    with running(supervisor):
        eventually(lambda: service.restarts == 1)


def test_a_stubborn_service_is_killed_in_time(settings: Settings) -> None:
    supervisor = Supervisor(settings)
    supervisor.services = [service] = [script("gateway", code=STUBBORN)]
    with running(supervisor):
        eventually(lambda: service.state is State.RUNNING)
        stopped = time.monotonic()

    assert time.monotonic() - stopped < module.STOP_WITHIN_S + 1


def test_a_second_engine_of_the_same_name_is_refused(settings: Settings) -> None:
    supervisor = Supervisor(settings)
    supervisor.services = []
    with running(supervisor):
        eventually((settings.shm_root / settings.instance / "supervisor.lock").exists)
        eventually((settings.shm_root / settings.instance / "supervisor.lock").read_text)
        with pytest.raises(WriterBusyError, match=rf"already running as process {os.getpid()}.*--instance"):
            Supervisor(settings).run()


def test_a_changed_settings_file_restarts_only_what_it_concerns(settings: Settings, tmp_path: Path) -> None:
    file = tmp_path / "sentry.yaml"
    base = f"shm_root: {settings.shm_root}\nstate_dir: {settings.state_dir}\n"
    file.write_text(base)

    def load() -> Settings:
        return load_settings(file, environ={})

    supervisor = Supervisor(load(), reload=load)
    supervisor.services = [inference, controller] = [script("inference"), script("controller")]
    with running(supervisor):
        eventually(lambda: all(service.state is State.RUNNING for service in supervisor.services))
        before = [service.process for service in supervisor.services]
        file.write_text(base + "model: {threads: 1}\n")
        eventually(lambda: inference.process is not before[0] and inference.state is State.RUNNING)

        assert controller.process is before[1]

        file.write_text(base + "model: {nam: x}\n")
        time.sleep(module.POLL_S * 3)

        assert supervisor.settings.model.threads == 1

        file.write_text(base + "instance: other\n")
        time.sleep(module.POLL_S * 3)

        assert supervisor.settings.instance == "main"


def test_a_model_that_is_refused_does_not_replace_one_that_works(
    settings: Settings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file, hostile = tmp_path / "sentry.yaml", tmp_path / "hostile.onnx"
    base = f"shm_root: {settings.shm_root}\nstate_dir: {settings.state_dir}\n"
    file.write_text(base)
    hostile.write_bytes(b"no model at all")

    def load() -> Settings:
        return load_settings(file, environ={})

    supervisor = Supervisor(load(), reload=load)
    supervisor.services = [inference] = [script("inference")]
    with running(supervisor):
        eventually(lambda: inference.state is State.RUNNING)
        before = inference.process
        file.write_text(f"{base}model: {{name: {hostile}}}\n")
        eventually(lambda: "hostile.onnx" in caplog.text)

        assert "the changed settings are not used" in caplog.text
        assert inference.process is before
        assert supervisor.settings.model.name == "embedded"


def test_cameras_come_and_go_with_the_settings(settings: Settings, tmp_path: Path) -> None:
    file = tmp_path / "sentry.yaml"
    base = f"shm_root: {settings.shm_root}\nstate_dir: {settings.state_dir}\ncameras:\n"
    file.write_text(base + "  door: {source: 'demo:'}\n")

    def load() -> Settings:
        return load_settings(file, environ={})

    supervisor = Supervisor(load(), reload=load)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "Service", Script)
        Script.code, Script.arguments = BEATING, ("60",)
        supervisor.services = [Script("capture", "door")]
        with running(supervisor):
            eventually(lambda: supervisor.services[0].state is State.RUNNING)
            file.write_text(base + "  garden: {source: 'demo:'}\n")
            eventually(lambda: [service.name for service in supervisor.services] == ["capture.garden"])
            eventually(lambda: supervisor.services[0].state is State.RUNNING)


def test_the_command_line_of_a_service(settings: Settings, tmp_path: Path) -> None:
    file = tmp_path / "sentry.yaml"
    file.write_text("")
    command = Service("capture", "door").command(load_settings(file, environ={}))

    assert command[1:] == ["-m", "detr_sentry", "capture", "--parent", str(os.getpid()), "--config", str(file), "door"]
