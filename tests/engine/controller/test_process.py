"""The controller as its own process, started as the supervisor starts it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from detr_sentry.errors import ControlError
from detr_sentry.ipc.messages import State

from .conftest import PERSON, Place, SentryReader, eventually

pytestmark = pytest.mark.timeout(90)

SETTINGS = """
instance: {instance}
shm_root: {shm_root}
state_dir: {state_dir}
cameras:
  door:
    source: demo:?period=40&seed=1
    sentry: {{hold_s: 0.3, blind_after_s: 30}}
"""
START_S = 20  # a Python process on a busy machine

Launch = Callable[..., subprocess.Popen[bytes]]


class Process:
    """One controller process; `log` is its standard error so far."""

    def __init__(self, place: Place, *, prefix: tuple[str, ...] = ()) -> None:
        config = place.folder / "sentry.yaml"
        config.write_text(
            SETTINGS.format(
                instance=place.settings.instance,
                shm_root=place.settings.shm_root,
                state_dir=place.settings.state_dir,
            )
        )
        self._log = place.folder / "log"
        command = [*prefix, sys.executable, "-m", "detr_sentry", "controller", "--config", str(config)]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("DETR_SENTRY_")}
        with self._log.open("ab") as log:
            self.popen = subprocess.Popen(command, stderr=log, env=environment)

    @property
    def log(self) -> str:
        return self._log.read_text()

    def end(self) -> None:
        if self.popen.poll() is None:
            self.popen.kill()
        self.popen.wait()


@pytest.fixture
async def launch(place: Place) -> AsyncIterator[Callable[..., Process]]:
    processes: list[Process] = []

    def begin(**options: Any) -> Process:
        processes.append(Process(place, **options))
        return processes[-1]

    yield begin
    for process in processes:
        await asyncio.to_thread(process.end)


async def answer(place: Place, op: str, **arguments: Any) -> Any:
    async with asyncio.timeout(START_S):
        while True:
            with contextlib.suppress(ControlError):
                async with place.client() as client:
                    return await client.call(op, **arguments)
            await asyncio.sleep(0.05)


async def until(sentry: SentryReader, state: State, feed: Callable[[], Any]) -> None:
    async with asyncio.timeout(START_S):
        while (view := sentry.read()) is None or view.state is not state:
            feed()
            await asyncio.sleep(0.05)


async def test_sigterm_ends_it_within_a_second_with_everything_stored(
    place: Place, sentry: SentryReader, launch: Callable[..., Process]
) -> None:
    process = launch()
    await answer(place, "ping")
    await until(sentry, State.ALARMED, lambda: place.detect(PERSON))
    view = sentry.read()
    assert view is not None
    begun = time.monotonic()
    process.popen.send_signal(signal.SIGTERM)
    status = await asyncio.to_thread(process.popen.wait, 20)
    took = time.monotonic() - begun

    assert status == 0
    assert took < 2.5  # at least twice the second that is allowed: the machine is shared
    assert not place.layout.control_socket.exists()

    launch()
    event = await answer(place, "get_event", event_id=view.event_id)

    assert (view.event_id, True) == (event["id"], event["snapshot"])


async def test_sigkill_loses_neither_mode_nor_alarm(
    place: Place, sentry: SentryReader, launch: Callable[..., Process]
) -> None:
    process = launch()
    await answer(place, "ping")
    await until(sentry, State.ALARMED, lambda: place.detect(PERSON))
    view = sentry.read()
    assert view is not None
    process.popen.kill()
    await asyncio.to_thread(process.popen.wait)
    launch()
    report = await answer(place, "get_state", camera="door")

    assert ("alarmed", view.event_id) == (report["state"], report["event_id"])

    await answer(place, "set_mode", camera="door", mode="off")
    view = sentry.read()
    assert view is not None
    assert view.state is State.OFF


async def test_a_second_controller_ends_with_a_reason(
    place: Place, sentry: SentryReader, launch: Callable[..., Process]
) -> None:
    launch()
    await answer(place, "ping")
    second = launch()
    status = await asyncio.to_thread(second.popen.wait, START_S)

    assert status == 1
    assert "already writes this stream" in second.log


def _can_mount() -> bool:
    if shutil.which("unshare") is None:
        return False
    probe = subprocess.run(
        ["unshare", "--mount", "mount", "-t", "tmpfs", "-o", "size=64k", "none", "/mnt"],
        capture_output=True,
        check=False,
    )
    return probe.returncode == 0


@pytest.mark.skipif(not _can_mount(), reason="needs a mount namespace of its own (root or CAP_SYS_ADMIN)")
async def test_a_full_disk_is_a_problem_and_no_obstacle(
    place: Place, sentry: SentryReader, launch: Callable[..., Process]
) -> None:
    state = place.settings.state_dir
    script = f'mount -t tmpfs -o size=512k none {state} && exec "$@"'
    process = launch(prefix=("unshare", "--mount", "sh", "-c", script, "sh"))
    await answer(place, "list_events")
    disk = Path(f"/proc/{process.popen.pid}/root{state}")
    filler = disk / "filler"
    fill(filler)
    await until(sentry, State.ALARMED, lambda: place.detect(PERSON))

    async def problem() -> str | None:
        place.detect(PERSON)
        found: str | None = (await answer(place, "get_state", camera="door"))["problem"]
        return found

    async with asyncio.timeout(START_S):
        while await problem() != "disk_full":
            await asyncio.to_thread(place.beat)
            await asyncio.sleep(0.1)
    with pytest.raises(ControlError) as caught:
        async with place.client() as client:
            await client.call("set_mode", camera="door", mode="off")

    assert caught.value.code == "storage"

    await until(sentry, State.STANDBY, place.detect)
    await asyncio.sleep(6)

    assert process.log.count("alarms cannot be stored") == 1

    filler.unlink()
    async with asyncio.timeout(START_S):
        while await problem() is not None:
            await asyncio.to_thread(place.beat)
            await asyncio.sleep(0.1)
    events = (await answer(place, "list_events"))["events"]

    assert [True] == [event["snapshot"] for event in events if event["end"] is not None]
    assert process.log.count("alarms are stored again") == 1


def fill(path: Path) -> None:
    """Take every byte that is left."""
    with path.open("wb", buffering=0) as file:
        for size in (65536, 4096, 1):
            with contextlib.suppress(OSError):
                while True:
                    file.write(bytes(size))


async def test_its_log_is_quiet_while_all_is_well(
    place: Place, sentry: SentryReader, launch: Callable[..., Process]
) -> None:
    process = launch()
    await answer(place, "ping")
    for _ in range(20):
        place.detect()
        await asyncio.sleep(0.05)
    await eventually(lambda: (view := sentry.read()) is not None and not view.blind)

    assert process.log == ""
