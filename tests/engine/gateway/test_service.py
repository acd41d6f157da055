from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import ClientSession, WSMsgType

from detr_sentry.errors import SettingsError
from detr_sentry.gateway.policy import api_policy
from detr_sentry.gateway.service import listeners, make_authenticator, serve
from detr_sentry.ipc.bells import Bell
from detr_sentry.ipc.heartbeat import Phase, read_heartbeat
from detr_sentry.ipc.layout import Layout
from detr_sentry.settings import GatewaySettings, Settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path


@pytest.fixture
def config(make_settings: Callable[..., Settings], tmp_path: Path) -> Iterator[tuple[Path, Settings]]:
    """A settings file for the real command, and what it says."""
    settings = make_settings()
    file = tmp_path / "sentry.yaml"
    file.write_text(
        f"instance: {settings.instance}\nshm_root: {settings.shm_root}\nstate_dir: {settings.state_dir}\n"
        "gateway:\n  port: 0\ncameras:\n  door:\n    source: 'demo:'\n"
    )
    yield file, settings
    Bell.unlink(Layout(settings.shm_root, settings.instance).bell("gateway"))


@pytest.fixture
async def process(config: tuple[Path, Settings]) -> AsyncIterator[asyncio.subprocess.Process]:
    """The gateway as its own process."""
    file, _settings = config
    environ = {key: value for key, value in os.environ.items() if not key.startswith("DETR_SENTRY_")}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "detr_sentry", "gateway", "--config", str(file), env=environ, stderr=subprocess.PIPE
    )
    yield process
    if process.returncode is None:
        process.kill()
    await process.wait()


async def announced(settings: Settings) -> str:
    """The URL in the heartbeat of the running gateway."""
    path = Layout(settings.shm_root, settings.instance).heartbeat("gateway")
    async with asyncio.timeout(15):
        while True:
            beat = await asyncio.to_thread(read_heartbeat, path)
            if beat is not None and beat.phase is Phase.RUNNING:
                return str(beat.status["url"])
            await asyncio.sleep(0.02)


async def test_the_command_serves_and_ends_within_a_second(
    config: tuple[Path, Settings], process: asyncio.subprocess.Process
) -> None:
    _file, settings = config
    url = await announced(settings)
    async with ClientSession(url) as http:
        async with http.get("/healthz") as response:
            alive = await response.text()
        stream = await http.ws_connect("/api/v1/cameras/door/stream")
        live = await http.ws_connect("/api/v1/live")
        await live.receive(timeout=5)
        await stream.receive(timeout=5)
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        code = await process.wait()
        took_s = time.monotonic() - began
        goodbyes = {(await ws.receive(timeout=5)).type for ws in (stream, live)}
    left = await asyncio.to_thread(Layout(settings.shm_root, settings.instance).heartbeat("gateway").exists)

    assert ("ok", 0, False) == (alive, code, left)
    assert took_s < 1.0
    assert {WSMsgType.CLOSE} == goodbyes


async def test_the_heartbeat_stays_in_time(make_settings: Callable[..., Settings]) -> None:
    settings = make_settings()
    stop = asyncio.Event()
    service = asyncio.create_task(serve(settings, stop=stop))
    await announced(settings)
    path = Layout(settings.shm_root, settings.instance).heartbeat("gateway")
    deadlines = set()
    for _ in range(26):
        beat = await asyncio.to_thread(read_heartbeat, path)
        assert beat is not None
        deadlines.add(beat.deadline_monotonic_ns)
        assert not beat.overdue(time.monotonic_ns())
        await asyncio.sleep(0.1)
    stop.set()
    code = await service
    Bell.unlink(Layout(settings.shm_root, settings.instance).bell("gateway"))

    assert 0 == code
    assert len(deadlines) >= 2


async def test_a_port_in_use_is_named(make_settings: Callable[..., Settings]) -> None:
    holder = await asyncio.start_server(lambda _reader, _writer: None, "127.0.0.1", 0)
    port = holder.sockets[0].getsockname()[1]
    settings = make_settings()
    taken = Settings(
        instance=settings.instance,
        shm_root=settings.shm_root,
        state_dir=settings.state_dir,
        gateway=GatewaySettings(port=port),
    )
    try:
        with pytest.raises(SettingsError, match=rf"127\.0\.0\.1:{port}"):
            await serve(taken)
    finally:
        holder.close()
        await holder.wait_closed()
        Bell.unlink(Layout(settings.shm_root, settings.instance).bell("gateway"))


def test_the_token_is_shown_once(make_settings: Callable[..., Settings], capsys: pytest.CaptureFixture[str]) -> None:
    settings = make_settings(host="0.0.0.0")
    policies = listeners(settings)
    auth = make_authenticator(settings, policies)
    shown = capsys.readouterr().out
    token = (settings.state_dir / "token").read_text().strip()
    make_authenticator(settings, policies)
    shown_again = capsys.readouterr().out

    assert token in shown
    assert auth.is_token(token)
    assert "" == shown_again


def test_loopback_makes_no_token(make_settings: Callable[..., Settings], capsys: pytest.CaptureFixture[str]) -> None:
    settings = make_settings()
    make_authenticator(settings, listeners(settings))

    assert "" == capsys.readouterr().out
    assert not (settings.state_dir / "token").exists()


def test_ingress_is_a_second_listener(make_settings: Callable[..., Any]) -> None:
    settings = make_settings(host="0.0.0.0", ingress_port=8099)
    api, ingress = listeners(settings)

    assert api_policy(settings.gateway) == api
    assert (8099, False, frozenset({"172.30.32.2"})) == (ingress.port, ingress.token_required, ingress.peers)
