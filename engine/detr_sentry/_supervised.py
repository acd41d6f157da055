"""One supervised process: its command line, its state, the settings that concern it, and how it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from detr_sentry.settings import Settings

ABORT_GRACE_S = 0.5  # time for a hung service to print its stacks


class State(StrEnum):
    """What a service is doing, as its supervisor sees it."""

    STARTING = "starting"
    RUNNING = "running"
    WAITING = "waiting"  # ended; is started again after its back-off
    STOPPED = "stopped"


@dataclass(slots=True)
class Service:
    """One supervised process. `camera` is set for capture only."""

    kind: str
    camera: str | None = None
    process: subprocess.Popen[bytes] | None = None
    state: State = State.STOPPED
    started_at: float = 0.0
    start_again_at: float = 0.0
    failures: int = 0
    restarts: int = 0
    reason: str = ""
    concerns: tuple[Any, ...] = field(default=())

    @property
    def name(self) -> str:
        """`inference`, `capture.door`."""
        return f"{self.kind}.{self.camera}" if self.camera else self.kind

    def command(self, settings: Settings) -> list[str]:
        """The command line that executes this service."""
        words = [sys.executable, "-m", "detr_sentry", self.kind, "--parent", str(os.getpid())]
        if settings.file and settings.file.exists():
            words += ["--config", str(settings.file)]
        return words + ([self.camera] if self.camera else [])


def concerns_of(service: Service, settings: Settings) -> tuple[Any, ...]:
    """The settings a service reads; when they differ, it has to be restarted."""
    common = (settings.instance, settings.shm_root, settings.state_dir, settings.log, settings.telemetry)
    match service.kind:
        case "capture":
            return (*common, settings.cameras.get(service.camera or ""))
        case "inference":
            return (*common, settings.model, settings.cameras)
        case "controller":
            published = settings.name, settings.mqtt, settings.gateway.public_url
            return (*common, settings.history, settings.cameras, *published)
        case _:
            return (*common, settings)


def end_hung(process: subprocess.Popen[bytes]) -> None:
    """End a hung process: SIGABRT prints its stacks if it can still run, SIGKILL ends it in any case."""
    process.send_signal(signal.SIGABRT)
    try:
        process.wait(ABORT_GRACE_S)
    except subprocess.TimeoutExpired:
        process.kill()


def reason_of(returncode: int) -> str:
    if returncode >= 0:
        return f"ended with status {returncode}"
    try:
        return f"ended by {signal.Signals(-returncode).name}"
    except ValueError:
        return f"ended by signal {-returncode}"
