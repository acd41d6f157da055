"""The live page in a real Chromium, on a real engine that watches the demo scene.

The browser's side is in `browser/*.test.mjs` (node's own test runner, playwright-core, axe-core). Screenshots are left
in `build/screenshots`.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import ClientSession, WSMsgType, web

from detr_sentry.gateway.app import build_app, make_runner
from detr_sentry.gateway.auth import Authenticator, load_token
from detr_sentry.gateway.gateway import Gateway
from detr_sentry.gateway.policy import ListenerPolicy
from detr_sentry.gateway.service import listen
from detr_sentry.ipc.leftovers import clean
from detr_sentry.settings import build_settings

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from aiohttp import ClientWebSocketResponse

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

BROWSER_TESTS = Path(__file__).parent / "browser"
CHROMIUM = os.environ.get("SENTRY_CHROMIUM", "/usr/bin/chromium")
# The figure walks through the picture for half of the period, so a run sees it come and go.
CAMERAS = {
    "door": {"name": "Front door", "source": "demo:?period=24&seed=1"},
    "garden": {"name": "Garden", "source": "demo:?period=3600&seed=2", "fps": 5, "standby_fps": 1},
}
READY_WITHIN_S = 90
INGRESS_PATH = "/api/hassio_ingress/Xy_12-token"
_HOP_BY_HOP = frozenset({"connection", "content-encoding", "content-length", "transfer-encoding", "upgrade"})


def free_port() -> int:
    """A port of the loopback that nobody listens on now; a gateway that is killed comes back on the same one."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def engine(start_engine: Any) -> Any:
    """Two cameras on the demo scene, both delivering, the detector at work."""
    engine = start_engine({"name": "Porch", "gateway": {"port": free_port()}, "cameras": CAMERAS})

    def sees() -> bool:
        cameras = engine.api("cameras")["cameras"]
        return all(camera["state"] and camera["width"] for camera in cameras) and cameras[0]["inference_ms"] is not None

    engine.wait_for(sees, READY_WITHIN_S, "the first look at both cameras")
    return engine


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
def test_page(name: str, engine: Any, node: str, screenshots: Path) -> None:
    run_page_tests(node, name, engine.url, screenshots, SENTRY_GATEWAY_BEAT=str(engine.layout.heartbeat("gateway")))


async def start_proxy(target: str) -> tuple[web.AppRunner, str]:
    """Serve `target` (with a final slash) below a path, as Home Assistant's ingress does; the runner and URL."""

    async def forward(request: web.Request) -> web.StreamResponse:
        url = f"{target}{request.match_info['path']}"
        headers = {name: value for name, value in request.headers.items() if name.lower() in {"accept", "content-type"}}
        if "Origin" in request.headers:
            headers["Origin"] = target.rstrip("/")
        if request.headers.get("Upgrade", "").lower() == "websocket":
            return await _forward_socket(request, url, headers)
        async with (
            ClientSession() as session,
            session.request(
                request.method, url, params=request.query, headers=headers, data=await request.read()
            ) as answer,
        ):
            kept = {name: value for name, value in answer.headers.items() if name.lower() not in _HOP_BY_HOP}
            return web.Response(status=answer.status, headers=kept, body=await answer.read())

    app = web.Application()
    app.router.add_route("*", f"{INGRESS_PATH}/{{path:.*}}", forward)
    runner = web.AppRunner(app, shutdown_timeout=0.2)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    return runner, f"http://127.0.0.1:{runner.addresses[0][1]}{INGRESS_PATH}/"


async def _forward_socket(request: web.Request, url: str, headers: dict[str, str]) -> web.WebSocketResponse:
    outer = web.WebSocketResponse()
    await outer.prepare(request)
    async with ClientSession() as session, session.ws_connect(url, params=request.query, headers=headers) as inner:
        ways = [asyncio.create_task(_pass_on(outer, inner)), asyncio.create_task(_pass_on(inner, outer))]
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)
    await outer.close()
    return outer


async def _pass_on(
    source: web.WebSocketResponse | ClientWebSocketResponse, sink: web.WebSocketResponse | ClientWebSocketResponse
) -> None:
    send: dict[WSMsgType, Callable[..., Awaitable[None]]] = {
        WSMsgType.TEXT: sink.send_str,
        WSMsgType.BINARY: sink.send_bytes,
    }
    async for message in source:
        await send[message.type](message.data)


async def test_below_a_path(engine: Any, node: str, screenshots: Path) -> None:
    runner, url = await start_proxy(engine.url)
    try:
        await asyncio.to_thread(run_page_tests, node, "prefix", url, screenshots)
    finally:
        await runner.cleanup()


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
