"""The gateway as a process: listeners, heartbeat, signals."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
import time
from typing import TYPE_CHECKING, Any

from aiohttp import web

from detr_sentry.errors import SettingsError
from detr_sentry.ipc.heartbeat import Heartbeat, Phase
from detr_sentry.ipc.layout import Layout

from .app import build_app, make_runner
from .auth import TOKEN_FILE, Authenticator, load_token
from .gateway import Gateway
from .policy import api_policy, ingress_policy

if TYPE_CHECKING:
    from detr_sentry.settings import Settings

    from .policy import ListenerPolicy

log = logging.getLogger("detr_sentry.gateway")

BEAT_S = 1.0
# Names for addresses that mean "all of them", which no browser opens.
_WILDCARDS = {"0.0.0.0": "localhost", "::": "localhost", "": "localhost"}  # noqa: S104 - compared, not bound


def run(settings: Settings) -> int:
    """Serve until SIGTERM or SIGINT. Raises SettingsError (an address in use), StorageError (the token)."""
    return asyncio.run(serve(settings))


async def serve(settings: Settings, *, stop: asyncio.Event | None = None) -> int:
    """The service inside a running loop; ends when `stop` is set or a signal comes."""
    stop = stop or asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    heartbeat = Heartbeat(Layout(settings.shm_root, settings.instance).heartbeat("gateway"), "gateway")
    heartbeat.beat(Phase.STARTING)
    policies = listeners(settings)
    auth = await asyncio.to_thread(make_authenticator, settings, policies)
    gateway = Gateway(settings)
    runners: list[web.AppRunner] = []
    try:
        await gateway.start()
        urls = []
        for policy in policies:
            runner = make_runner(await asyncio.to_thread(build_app, gateway, policy, auth))
            runners.append(runner)
            urls.append(await listen(runner, policy))
        log.info("listening on %s", ", ".join(urls))
        while not stop.is_set():
            gateway.check()
            heartbeat.beat(Phase.RUNNING, _status(gateway, urls[0]))
            try:
                async with asyncio.timeout(BEAT_S):
                    await stop.wait()
            except TimeoutError:
                continue
    finally:
        await asyncio.gather(*(runner.cleanup() for runner in runners))
        await gateway.close()
        heartbeat.close()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
    return 0


def listeners(settings: Settings) -> list[ListenerPolicy]:
    """The policies of the ports that these settings open."""
    policies = [api_policy(settings.gateway)]
    if settings.gateway.ingress_port is not None:
        policies.append(ingress_policy(settings.gateway.ingress_port, settings.gateway.ingress_peer))
    return policies


def make_authenticator(settings: Settings, policies: list[ListenerPolicy]) -> Authenticator:
    """With the token if any listener asks for one; a new token is shown to the person who started us, once."""
    if not any(policy.token_required for policy in policies):
        return Authenticator(None, time.monotonic)
    token, new = load_token(settings.state_dir)
    if new:
        # Not through the log: logs are collected, and a token in a collection is no secret.
        sys.stdout.write(f"API token, shown only this once: {token}\n(kept in {settings.state_dir / TOKEN_FILE})\n")
        sys.stdout.flush()
    return Authenticator(token, time.monotonic)


async def listen(runner: web.AppRunner, policy: ListenerPolicy) -> str:
    """Open the port of a policy; returns its URL. Raises SettingsError naming the address."""
    await runner.setup()
    try:
        await web.TCPSite(runner, policy.host, policy.port).start()
    except OSError as error:
        reason = f"cannot listen on {policy.host}:{policy.port}: {error.strerror or error}"
        raise SettingsError("gateway.port", reason) from error
    port = runner.addresses[0][1]
    name = _WILDCARDS.get(policy.host, policy.host)
    return f"http://[{name}]:{port}/" if ":" in name else f"http://{name}:{port}/"


def _status(gateway: Gateway, url: str) -> dict[str, Any]:
    counters = gateway.counters
    return {
        "url": url,
        "clients": counters.viewers + counters.live,
        "viewers": counters.viewers,
        "encoded": counters.encoded,
        "frames_sent": counters.frames_sent,
        "frames_skipped": counters.frames_skipped,
    }
