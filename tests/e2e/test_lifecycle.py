"""The whole engine on the demo scene: what happens when its processes are killed, frozen or told to end."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import pytest

DEMO: dict[str, Any] = {"cameras": {"demo": {"source": "demo:?period=12&seed=1&width=640&height=360"}}}

pytestmark = pytest.mark.timeout(180)


def alarmed(engine: Any) -> bool:
    return bool(engine.camera("demo")["state"] == "alarmed")


def detecting(engine: Any) -> bool:
    age = engine.camera("demo")["detection_age_ms"]
    return age is not None and age < 2000


def test_the_figure_is_found_and_forgotten(start_engine: Any) -> None:
    engine = start_engine({**DEMO, "sentry": {"hold_s": 1}})
    engine.wait_for(lambda: alarmed(engine), 30, "the alarm")
    camera = engine.camera("demo")

    assert (camera["state"], camera["blind"]) == ("alarmed", False)
    assert camera["count"] >= 1  # the embedded detector sees some figures twice: its card says so

    engine.wait_for(lambda: engine.camera("demo")["state"] == "standby", 30, "standby after the figure left")
    event = engine.api("events?limit=10")["events"][0]

    assert event["camera"] == "demo"
    picture = engine.bytes(f"api/v1/events/{event['id']}/snapshot.jpg")
    assert picture.startswith(b"\xff\xd8")
    assert picture.endswith(b"\xff\xd9")


@pytest.mark.parametrize("service", ["capture", "inference", "controller", "gateway"])
def test_a_killed_service_comes_back(start_engine: Any, service: str) -> None:
    engine = start_engine(DEMO)
    engine.wait_for(lambda: detecting(engine), 30, "the first detection")
    camera = "demo" if service == "capture" else None
    pid = engine.pid(service, camera)
    os.kill(pid, signal.SIGKILL)
    engine.wait_for(lambda: engine.pid(service, camera) not in {None, pid}, 20, f"a new {service}")
    if service == "gateway":
        engine.url = engine.wait_for(lambda: gateway_url(engine, pid), 20, "the new page")
    engine.wait_for(lambda: detecting(engine), 20, "detections again")


def gateway_url(engine: Any, old_pid: int) -> str | None:
    from detr_sentry.ipc.heartbeat import read_heartbeat

    beat = read_heartbeat(engine.layout.heartbeat("gateway"))
    return beat.status.get("url") if beat and beat.pid != old_pid else None


def test_a_frozen_service_is_replaced_within_ten_seconds(start_engine: Any) -> None:
    engine = start_engine(DEMO)
    engine.wait_for(lambda: detecting(engine), 30, "the first detection")
    pid = engine.pid("inference")
    os.kill(pid, signal.SIGSTOP)
    started = time.monotonic()
    engine.wait_for(lambda: engine.camera("demo")["blind"], 15, "the sentry to say that it is blind")
    engine.wait_for(lambda: engine.pid("inference") not in {None, pid}, 30, "a new inference")

    assert time.monotonic() - started < 15  # ten seconds, on a loaded machine

    engine.wait_for(lambda: not engine.camera("demo")["blind"], 20, "sight again")


def test_sigterm_ends_everything_and_leaves_nothing(start_engine: Any) -> None:
    engine = start_engine(DEMO)
    engine.wait_for(lambda: detecting(engine), 30, "the first detection")
    pids = [
        engine.pid(kind, "demo" if kind == "capture" else None)
        for kind in ("capture", "inference", "controller", "gateway")
    ]
    bells = [engine.layout.bell(kind) for kind in ("inference", "controller", "gateway")] + [
        engine.layout.bell("capture", "demo")
    ]
    took = engine.stop()

    assert engine.process.returncode == 0
    assert took < 5  # two seconds, on a loaded machine
    assert not engine.layout.base.exists()
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)

    from detr_sentry.ipc.bells import Bell

    assert [False] * 4 == [Bell.unlink(bell) for bell in bells]


def test_sigkill_of_the_supervisor_ends_the_services(start_engine: Any) -> None:
    engine = start_engine(DEMO)
    engine.wait_for(lambda: detecting(engine), 30, "the first detection")
    pids = [
        engine.pid(kind, "demo" if kind == "capture" else None)
        for kind in ("capture", "inference", "controller", "gateway")
    ]
    engine.process.kill()
    engine.process.wait(10)
    end = time.monotonic() + 10
    while time.monotonic() < end and any(os.path.exists(f"/proc/{pid}") for pid in pids):
        time.sleep(0.05)

    assert [False] * 4 == [os.path.exists(f"/proc/{pid}") for pid in pids]


def test_off_survives_a_restart_of_everything(start_engine: Any) -> None:
    engine = start_engine(DEMO)
    engine.wait_for(lambda: detecting(engine), 30, "the first detection")
    engine.post("cameras/demo/mode", {"mode": "off"})
    engine.wait_for(lambda: engine.camera("demo")["state"] == "off", 5, "off")
    os.kill(engine.pid("controller"), signal.SIGKILL)
    pid = engine.pid("capture", "demo")
    os.kill(pid, signal.SIGKILL)
    engine.wait_for(lambda: engine.pid("capture", "demo") not in {None, pid}, 20, "a new capture")
    time.sleep(2)

    assert engine.camera("demo")["state"] == "off"
    assert engine.camera("demo")["frame_age_ms"] is None
