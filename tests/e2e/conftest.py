"""A real engine, started as a user would start it, for end-to-end tests."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from detr_sentry.ipc.heartbeat import read_heartbeat
from detr_sentry.ipc.layout import Layout

START_S = 60.0


@dataclass
class Engine:
    """A running `detr-sentry run` and how to talk to it."""

    process: subprocess.Popen[str]
    layout: Layout
    log: Path
    folder: Path
    url: str = ""

    def api(self, path: str) -> Any:
        """GET below /api/v1/, decoded."""
        with urllib.request.urlopen(f"{self.url}api/v1/{path}", timeout=10) as answer:
            return json.loads(answer.read())

    def bytes(self, path: str) -> bytes:
        """GET, raw."""
        with urllib.request.urlopen(f"{self.url}{path}", timeout=10) as answer:
            return bytes(answer.read())

    def post(self, path: str, body: dict[str, Any]) -> Any:
        """POST JSON below /api/v1/, decoded."""
        request = urllib.request.Request(
            f"{self.url}api/v1/{path}",
            data=json.dumps(body).encode(),
            headers={"Content-Type": "application/json", "Origin": self.url.rstrip("/")},
            method="POST",
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            text = answer.read()
            return json.loads(text) if text else None

    def camera(self, camera_id: str) -> dict[str, Any]:
        """One camera of /api/v1/cameras."""
        found: dict[str, Any] = next(entry for entry in self.api("cameras")["cameras"] if entry["id"] == camera_id)
        return found

    def pid(self, service: str, camera: str | None = None) -> int | None:
        """The process of a service that beats now."""
        beat = read_heartbeat(self.layout.heartbeat(service, camera))
        return beat.pid if beat else None

    def wait_for(self, condition: Callable[[], Any], within_s: float, what: str) -> Any:
        """The first true value of `condition`; a failing engine is reported with its log."""
        end = time.monotonic() + within_s
        while time.monotonic() < end:
            try:
                value = condition()
            except (urllib.error.URLError, ConnectionError, TimeoutError, StopIteration):
                value = None
            if value:
                return value
            if self.process.poll() is not None:
                break
            time.sleep(0.02)
        pytest.fail(f"{what} did not happen within {within_s:g} s\n{self.log.read_text()[-6000:]}")

    def stop(self) -> float:
        """SIGTERM; seconds until the engine had ended."""
        started = time.monotonic()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(20)
        return time.monotonic() - started


StartEngine = Callable[..., Engine]


@pytest.fixture
def start_engine(tmp_path: Path) -> Iterator[StartEngine]:
    """Starts engines with given settings (a mapping, as in sentry.yaml); all are stopped after the test."""
    engines: list[Engine] = []

    def start(settings: dict[str, Any] | None = None, *, arguments: tuple[str, ...] = ()) -> Engine:
        number = len(engines)
        folder = tmp_path / f"engine{number}"
        folder.mkdir()
        instance = f"e2e_{os.getpid()}_{number}"
        shm_root = Path("/dev/shm") / f"detr-sentry-e2e-{os.getuid()}"
        content = {
            "instance": instance,
            "shm_root": str(shm_root),
            "state_dir": str(folder / "state"),
            **(settings or {}),
        }
        content["gateway"] = {"port": 0, **content.get("gateway", {})}
        file = folder / "sentry.yaml"
        file.write_text(json.dumps(content))  # JSON is YAML
        log = folder / "log.txt"
        with log.open("w") as out:
            process = subprocess.Popen(
                [sys.executable, "-m", "detr_sentry", "run", "--config", str(file), *arguments],
                stdout=out,
                stderr=subprocess.STDOUT,
                text=True,
            )
        engine = Engine(process, Layout(shm_root, instance), log, folder)
        engines.append(engine)

        def url() -> str | None:
            beat = read_heartbeat(engine.layout.heartbeat("gateway"))
            return beat.status.get("url") if beat else None

        engine.url = engine.wait_for(url, START_S, "the page")
        engine.wait_for(lambda: engine.bytes("healthz"), START_S, "an answer of the gateway")
        return engine

    yield start
    for engine in engines:
        engine.stop()
