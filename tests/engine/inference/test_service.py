from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from detr_sentry.inference.choice import Choices, key_of
from detr_sentry.inference.service import score_floor
from detr_sentry.ipc.bells import Bell
from detr_sentry.ipc.heartbeat import Beat, Phase, read_heartbeat
from detr_sentry.ipc.layout import Layout
from detr_sentry.ipc.messages import State
from detr_sentry.models.contract import load_baked
from detr_sentry.models.resolve import embedded_model
from detr_sentry.settings import CameraSettings, SentrySettings, Settings

Rig = Callable[[str], Any]
PATIENCE_S = 15.0


def wait_for(condition: Callable[[], Any], what: str, patience_s: float = PATIENCE_S) -> Any:
    deadline_s = time.monotonic() + patience_s
    while time.monotonic() < deadline_s:
        answer = condition()
        if answer is not None and answer is not False:
            return answer
        time.sleep(0.01)
    pytest.fail(f"not within {patience_s} s: {what}")


class Service:
    """The real process, started as the supervisor does."""

    def __init__(self, settings: Settings, layout: Layout) -> None:
        self.layout = layout
        prefix = "DETR_SENTRY_"
        environ = {key: value for key, value in os.environ.items() if not key.startswith(prefix)}
        values = {
            "CONFIG": str(settings.state_dir / "sentry.yaml"),
            "INSTANCE": settings.instance,
            "SHM_ROOT": settings.shm_root,
            "STATE_DIR": settings.state_dir,
            "MODEL__NAME": settings.model.name,
            "MODEL__THREADS": settings.model.threads,
            "MODEL__BACKEND": settings.model.backend,
            **{f"CAMERAS__{camera.upper()}__SOURCE": "demo:" for camera in settings.cameras},
        }
        settings.state_dir.mkdir(exist_ok=True)
        (settings.state_dir / "sentry.yaml").write_text("{}\n")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "detr_sentry", "inference"],
            env={**environ, **{prefix + key: str(value) for key, value in values.items()}},
            stderr=subprocess.PIPE,
            text=True,
        )

    def beat(self) -> Beat | None:
        return read_heartbeat(self.layout.heartbeat("inference"))

    def running(self) -> bool:
        beat = self.beat()
        return beat is not None and beat.phase is Phase.RUNNING

    def end(self) -> tuple[int, str]:
        """SIGTERM; returns the exit status and the log."""
        self.process.send_signal(signal.SIGTERM)
        _, log = self.process.communicate(timeout=PATIENCE_S)
        return self.process.returncode, log


@pytest.fixture
def start(layout: Layout) -> Iterator[Callable[[Settings], Service]]:
    services: list[Service] = []

    def launch(settings: Settings) -> Service:
        services.append(Service(settings, layout))
        return services[-1]

    yield launch
    for service in services:
        service.process.kill()
        if service.process.stderr is not None and not service.process.stderr.closed:
            service.process.communicate()


def test_frames_of_two_cameras_become_detections_and_ring(
    start: Callable[[Settings], Service], settings_for: Callable[..., Settings], layout: Layout, rig: Rig
) -> None:
    door, yard = rig("door"), rig("yard")
    listeners = [Bell(layout.bell(name)) for name in ("controller", "gateway")]
    service = start(settings_for(CameraSettings(id="door", source="demo:"), CameraSettings(id="yard", source="demo:")))
    wait_for(service.running, "running")
    bell = Bell(layout.bell("inference"))

    for camera, level in ((door, 204), (yard, 10)):
        camera.believe(State.ALARMED)
        number = camera.gray(level)
        bell.ring()
        message = wait_for(camera.receive, f"detections of {camera.id}")
        assert (message.camera_id, message.frame_number) == (camera.id, number)
        assert len(message) == (1 if level == 204 else 0)
    rung = [listener.drain() for listener in listeners]
    bell.close()

    def both_counted() -> bool:
        beat = service.beat()
        return beat is not None and all(beat.status["cameras"][name]["inferred"] == 1 for name in ("door", "yard"))

    wait_for(both_counted, "counters in the heartbeat")
    beat = service.beat()
    assert beat is not None
    assert rung == [2, 2]
    assert {
        "provider": "CPU",
        "backend": "onnxruntime",
        "model": "bright",
        "embedded": False,
        "threads": 1,
    }.items() <= (beat.status.items())
    assert beat.status["cameras"]["door"]["inference_ms"] > 0
    for listener in listeners:
        listener.close()


def test_sigterm_ends_it_well_and_at_once(
    start: Callable[[Settings], Service], settings_for: Callable[..., Settings], rig: Rig
) -> None:
    rig("door")
    service = start(settings_for(CameraSettings(id="door", source="demo:")))
    wait_for(service.running, "running")
    begun_s = time.monotonic()
    status, log = service.end()

    assert status == 0
    assert time.monotonic() - begun_s < 5.0
    assert "bright on onnxruntime (CPU, 1 threads)" in log
    assert service.beat() is None


def test_frames_without_a_bell_are_seen_all_the_same(
    start: Callable[[Settings], Service], settings_for: Callable[..., Settings], rig: Rig
) -> None:
    service = start(settings_for(CameraSettings(id="door", source="demo:")))
    wait_for(service.running, "running")
    door = rig("door")
    door.gray(204)

    assert wait_for(door.receive, "detections").frame_number == 1


def test_a_refused_model_ends_it_with_the_reason(
    start: Callable[[Settings], Service], settings_for: Callable[..., Settings], tmp_path: Path
) -> None:
    (tmp_path / "foreign.onnx").write_bytes(b"GIF89a" * 50)
    service = start(settings_for(CameraSettings(id="door", source="demo:"), model=tmp_path / "foreign.onnx"))

    _, log = service.process.communicate(timeout=PATIENCE_S)

    assert service.process.returncode == 2
    assert "the model cannot be used" in log
    assert "not an ONNX file" in log


def test_a_backend_that_is_named_but_cannot_run_ends_it_with_the_reason(
    start: Callable[[Settings], Service], settings_for: Callable[..., Settings]
) -> None:
    settings = settings_for(CameraSettings(id="door", source="demo:"))
    service = start(replace(settings, model=replace(settings.model, backend="tensorrt")))

    _, log = service.process.communicate(timeout=PATIENCE_S)

    assert service.process.returncode == 1
    assert "'tensorrt'" in log
    assert service.beat() is None


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_auto_changes_over_to_the_verified_choice_in_the_same_process(
    start: Callable[[Settings], Service], settings_for: Callable[..., Settings], rig: Rig
) -> None:
    settings = settings_for(CameraSettings(id="door", source="demo:"), model=embedded_model())
    service = start(replace(settings, model=replace(settings.model, backend="auto")))
    wait_for(service.running, "running")
    door = rig("door")
    door.believe(State.STANDBY)
    beat = service.beat()
    assert beat is not None
    at_first = beat.status["backend"], beat.status["backend_choice"]

    def verified() -> bool:
        beat = service.beat()
        assert service.process.poll() is None
        return beat is not None and beat.phase is Phase.RUNNING and beat.status["backend_choice"] == "verified"

    wait_for(verified, "a verified choice", patience_s=150.0)
    beat = service.beat()
    assert beat is not None
    number = door.gray(204)
    wait_for(lambda: (found := door.receive()) and found.frame_number == number, "detections after the change")
    choice = Choices(settings.state_dir / "models").get(key_of(load_baked(embedded_model())[0].sha256, 1))
    status, log = service.end()

    assert at_first == ("onnxruntime", "waiting")
    assert choice is not None
    assert choice.openings == 0
    assert beat.pid == service.process.pid
    assert beat.status["backend"] == choice.backend.partition(":")[0]
    assert beat.status["provider"] == (choice.provider or "CPU")
    assert status == 0
    assert ("changing over in a quiet moment" in log) == (choice.backend != "onnxruntime")


def test_a_second_one_is_refused_and_names_the_first(
    start: Callable[[Settings], Service], settings_for: Callable[..., Settings]
) -> None:
    settings = settings_for(CameraSettings(id="door", source="demo:"))
    first = start(settings)
    wait_for(first.running, "running")
    _, log = (second := start(settings)).process.communicate(timeout=PATIENCE_S)

    assert second.process.returncode == 1
    assert f"process {first.process.pid} already writes" in log


def test_a_model_that_keeps_failing_ends_the_service(
    start: Callable[[Settings], Service],
    settings_for: Callable[..., Settings],
    bright_detector: Callable[..., Path],
    rig: Rig,
) -> None:
    service = start(settings_for(CameraSettings(id="door", source="demo:"), model=bright_detector(nan_above=0.9)))
    wait_for(service.running, "running")
    door = rig("door")
    door.believe(State.ALARMED)

    def ended() -> bool:
        door.gray(250)
        return service.process.poll() is not None

    wait_for(ended, "the end")
    assert service.process.returncode == 1


@pytest.mark.parametrize(("stay", "floor"), [(0.35, 0.2), (0.1, 0.05), (0.9, 0.75)])
def test_the_floor_lies_below_the_lowest_stay_threshold(stay: float, floor: float) -> None:
    cameras = {
        name: CameraSettings(id=name, source="demo:", sentry=SentrySettings(stay_threshold=value))
        for name, value in (("a", 0.95), ("b", stay))
    }

    assert score_floor(Settings(cameras=cameras)) == pytest.approx(floor)
