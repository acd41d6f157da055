"""The controller as its own process: what the broker says of it after it has ended, one way or the other."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.engine.controller.conftest import Place, eventually

from .broker import PASSWORD, USER, Broker, Ear, Line

pytestmark = pytest.mark.timeout(90)

SETTINGS = """
instance: {instance}
shm_root: {shm_root}
state_dir: {state_dir}
mqtt: {{host: 127.0.0.1, port: {port}, username: {user}}}
cameras:
  door:
    source: demo:?period=40&seed=1
    sentry: {{hold_s: 0.3, blind_after_s: 30}}
"""


@pytest.fixture
def launch(place: Place) -> Iterator[Any]:
    """Starts the controller as the supervisor does."""
    started: list[subprocess.Popen[bytes]] = []

    def begin(port: int) -> subprocess.Popen[bytes]:
        config = place.folder / "sentry.yaml"
        settings = place.settings
        config.write_text(
            SETTINGS.format(
                instance=settings.instance,
                shm_root=settings.shm_root,
                state_dir=settings.state_dir,
                port=port,
                user=USER,
            )
        )
        environment = {name: value for name, value in os.environ.items() if not name.startswith("DETR_SENTRY_")}
        environment["DETR_SENTRY_MQTT__PASSWORD"] = PASSWORD
        command = [sys.executable, "-m", "detr_sentry", "controller", "--config", str(config)]
        with (place.folder / "log").open("ab") as log:
            started.append(subprocess.Popen(command, stderr=log, env=environment))
        return started[-1]

    yield begin
    for process in started:
        if process.poll() is None:
            process.kill()
        process.wait()


async def test_offline_is_said_after_the_end_and_by_the_broker_after_a_kill(
    place: Place, broker: Broker, launch: Any
) -> None:
    topic = f"detr_sentry/{place.settings.instance}/availability"
    async with Ear(broker.port) as ear:
        process = await asyncio.to_thread(launch, broker.port)
        await eventually(lambda: ear.last(topic) == b"online", within_s=40)
        process.kill()
        await eventually(lambda: ear.last(topic) == b"offline", within_s=25)
        process = await asyncio.to_thread(launch, broker.port)
        await eventually(lambda: ear.last(topic) == b"online", within_s=40)
        ended_s = time.monotonic()
        process.terminate()
        status = await asyncio.to_thread(process.wait, 20)

        assert 0 == status
        assert time.monotonic() - ended_s < 5
        await eventually(lambda: ear.of(topic)[-2:] == [b"online", b"offline"])

        ear.check()

    assert PASSWORD not in await asyncio.to_thread((place.folder / "log").read_text)


async def test_a_process_whose_broker_does_not_answer_ends_all_the_same(
    place: Place, broker: Broker, launch: Any
) -> None:
    async with Line(broker.port) as line:
        line.frozen = True
        process = await asyncio.to_thread(launch, line.port)
        await eventually(lambda: line.accepted >= 2, within_s=40)
        ended_s = time.monotonic()
        process.terminate()
        status = await asyncio.to_thread(process.wait, 20)

    assert 0 == status
    assert time.monotonic() - ended_s < 5
