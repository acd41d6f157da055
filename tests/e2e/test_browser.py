"""The live page in a real Chromium, on a real engine that watches the demo scene.

The browser's side is in `browser/*.test.mjs` (node's own test runner, playwright-core, axe-core). Screenshots are left
in `build/screenshots`.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from detr_sentry.gateway.app import build_app, make_runner
from detr_sentry.gateway.auth import Authenticator, load_token
from detr_sentry.gateway.gateway import Gateway
from detr_sentry.gateway.policy import ListenerPolicy
from detr_sentry.gateway.service import listen
from detr_sentry.settings import build_settings
from detr_sentry.supervisor import clean

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

BROWSER_TESTS = Path(__file__).parent / "browser"
CHROMIUM = os.environ.get("SENTRY_CHROMIUM", "/usr/bin/chromium")
# The figure walks through the picture for half of this, so a run sees it come and go.
DEMO_PERIOD_S = 24
READY_WITHIN_S = 90


@dataclass(frozen=True, slots=True)
class Engine:
    """A running engine: the address of its page, and the heartbeat file of its gateway."""

    url: str
    gateway_beat: Path


def free_port() -> int:
    """A port of the loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def sees(url: str) -> bool:
    """Whether every camera of the engine delivers pictures and its detector has answered about the first one."""
    try:
        with urllib.request.urlopen(f"{url}api/v1/cameras", timeout=5) as answer:
            cameras = json.load(answer)["cameras"]
    except OSError:
        return False
    return all(camera["state"] and camera["width"] for camera in cameras) and cameras[0]["inference_ms"] is not None


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    folder = tmp_path_factory.mktemp("engine")
    port, instance = free_port(), f"browser_{os.getpid()}"
    settings = folder / "sentry.yaml"
    settings.write_text(
        f"""\
instance: {instance}
name: Porch
state_dir: {folder / "state"}
gateway:
  port: {port}
cameras:
  door:
    name: Front door
    source: "demo:?period={DEMO_PERIOD_S}&seed=1"
  garden:
    name: Garden
    source: "demo:?period=3600&seed=2"
    fps: 5
    standby_fps: 1
"""
    )
    url = f"http://127.0.0.1:{port}/"
    log = folder / "engine.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "detr_sentry", "run", "--config", str(settings)], stdout=output, stderr=output
        )
    try:
        deadline = time.monotonic() + READY_WITHIN_S
        while not sees(url):
            if process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"the engine sees nothing within {READY_WITHIN_S} s:\n{log.read_text()[-4000:]}")
            time.sleep(0.2)
        yield Engine(url, Path("/dev/shm/detr-sentry") / instance / "heartbeat" / "gateway")
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def screenshots(repository: Path) -> Path:
    folder = repository / "build" / "screenshots"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="module")
def node() -> str:
    """Node with the two packages of the browser tests; skipped where there is no node or no Chromium."""
    found = shutil.which("node")
    if found is None or not Path(CHROMIUM).exists():
        pytest.skip("needs node >= 20 and Chromium (apt install nodejs npm chromium, or set SENTRY_CHROMIUM)")
    if not (BROWSER_TESTS / "node_modules" / "playwright-core").is_dir():
        subprocess.run(["npm", "ci", "--no-audit", "--no-fund"], cwd=BROWSER_TESTS, check=True, timeout=300)
    return found


def run_page_tests(node: str, name: str, url: str, screenshots: Path, **environment: str) -> None:
    """Run `browser/<name>.test.mjs` against the page at `url`; its report is the failure."""
    finished = subprocess.run(
        [node, "--test", f"{name}.test.mjs"],
        cwd=BROWSER_TESTS,
        env={
            **os.environ,
            "SENTRY_URL": url,
            "SENTRY_SCREENSHOTS": str(screenshots),
            "SENTRY_CHROMIUM": CHROMIUM,
            **environment,
        },
        capture_output=True,
        text=True,
        timeout=550,
        check=False,
    )

    print(finished.stdout)
    assert finished.returncode == 0, finished.stdout[-8000:] + finished.stderr[-2000:]


def test_words(node: str, screenshots: Path) -> None:
    run_page_tests(node, "words", "http://127.0.0.1/", screenshots)


@pytest.mark.parametrize("name", ["access", "live", "modes", "clients"])
def test_page(name: str, engine: Engine, node: str, screenshots: Path) -> None:
    run_page_tests(node, name, engine.url, screenshots, SENTRY_GATEWAY_BEAT=str(engine.gateway_beat))


async def test_token_and_first_camera(node: str, screenshots: Path, tmp_path: Path) -> None:
    file = tmp_path / "sentry.yaml"
    file.write_text("name: Porch  # kept by hand\n")
    settings = build_settings(
        {"instance": f"token_{os.getpid()}", "state_dir": str(tmp_path / "state")}, origins={}, file=file
    )
    token, _new = load_token(settings.state_dir)
    policy = ListenerPolicy(host="127.0.0.1", port=0, token_required=True)
    gateway = Gateway(settings)
    runner = make_runner(build_app(gateway, policy, Authenticator(token, time.monotonic)))
    try:
        await gateway.start()
        url = await listen(runner, policy)

        await asyncio.to_thread(
            run_page_tests, node, "token", url, screenshots, SENTRY_TOKEN=token, SENTRY_SETTINGS=str(file)
        )
    finally:
        await runner.cleanup()
        await gateway.close()
        clean(gateway.layout)

    assert "name: Porch  # kept by hand" in file.read_text()
