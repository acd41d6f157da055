"""Heartbeats: one small file per service, touched by the loop that does the work.

The file is JSON, and its mtime is the wall time at which the next beat is due: a service hangs when now is later
(`[ "$(date +%s)" -gt "$(stat -c %Y FILE)" ]`). Supervisor, container health check and Kubernetes probe read the same.
Programs on the same machine compare `deadline_monotonic_ns` instead, which no clock step can move.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from detr_sentry.errors import IpcError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_REWRITE_NS = 1_000_000_000
"""A status of mere counters is written this often at most: readers show it to people."""

_COUNTERS = frozenset({int, float, dict, list})

_MAX_BYTES = 1 << 20


class Phase(StrEnum):
    """What a service is doing, as far as the time it may take matters."""

    STARTING = "starting"
    CONNECTING = "connecting"
    COMPILING = "compiling"
    BUILDING = "building"
    RUNNING = "running"

    @property
    def allowance_s(self) -> float:
        """Seconds that may pass until the next beat."""
        return _ALLOWANCE_S[self]


_ALLOWANCE_S = {
    Phase.STARTING: 15.0,
    Phase.CONNECTING: 15.0,
    Phase.COMPILING: 120.0,
    Phase.BUILDING: 1800.0,
    Phase.RUNNING: 5.0,
}


class Heartbeat:
    """Writes the heartbeat of a service. Call `beat` from the loop that does the work, as often as it turns.

    The file is replaced as a whole (rename) when the phase or a word of the status changes, else once a second.

    Raises:
        IpcError: the file cannot be written.
    """

    def __init__(self, path: Path, service: str, camera: str | None = None) -> None:
        self._path = path
        self._temporary = path.with_name(f".{path.name}.new")
        self._service = service
        self._camera = camera
        self._phase: Phase | None = None
        self._words: tuple[object, ...] = ()
        self._rewrite_at_ns = 0
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise IpcError(f"{path.parent}: cannot make the heartbeat directory: {error}") from error

    def beat(self, phase: Phase, status: Mapping[str, Any] | None = None) -> None:
        """Says that the service is alive, in `phase`, and must be heard again within `phase.allowance_s`.

        `status` is for people and other services. A change of its text, truth values or nulls is written at once,
        a change of its numbers or of what lies deeper within a second.
        """
        now_ns = time.monotonic_ns()
        words = () if status is None else tuple(v for v in status.values() if type(v) not in _COUNTERS)
        if now_ns < self._rewrite_at_ns and phase is self._phase and words == self._words:
            return
        self._write(now_ns, phase, status)
        self._phase = phase
        self._words = words
        self._rewrite_at_ns = now_ns + _REWRITE_NS

    def close(self) -> None:
        """Removes the file: the service has ended on purpose."""
        self._path.unlink(missing_ok=True)
        self._rewrite_at_ns = 0

    def _write(self, now_ns: int, phase: Phase, status: Mapping[str, Any] | None) -> None:
        wall_ns = time.time_ns()
        allowance_ns = int(phase.allowance_s * 1e9)
        content = {
            "service": self._service,
            "camera": self._camera,
            "pid": os.getpid(),
            "phase": phase.value,
            "deadline_monotonic_ns": now_ns + allowance_ns,
            "written_ns": wall_ns,
            "status": status or {},
        }
        try:
            fd = os.open(self._temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            try:
                os.write(fd, json.dumps(content).encode())
                os.utime(fd, ns=(wall_ns, wall_ns + allowance_ns))
            finally:
                os.close(fd)
            self._temporary.rename(self._path)
        except OSError as error:
            raise IpcError(f"{self._path}: cannot write the heartbeat: {error}") from error


@dataclass(frozen=True, slots=True)
class Beat:
    """What a heartbeat file says."""

    service: str
    camera: str | None
    pid: int
    phase: Phase
    deadline_monotonic_ns: int
    written_ns: int
    status: dict[str, Any] = field(default_factory=dict)

    def overdue(self, now_monotonic_ns: int) -> bool:
        """Whether the next beat should have come by now."""
        return now_monotonic_ns > self.deadline_monotonic_ns


def read_heartbeat(path: Path) -> Beat | None:
    """The heartbeat in `path`; None where there is none, or none of ours."""
    try:
        with path.open("rb") as file:
            content = json.loads(file.read(_MAX_BYTES))
        status = content["status"]
        camera = content["camera"]
        if not isinstance(status, dict) or not isinstance(camera, str | None):
            return None
        return Beat(
            service=str(content["service"]),
            camera=camera,
            pid=int(content["pid"]),
            phase=Phase(content["phase"]),
            deadline_monotonic_ns=int(content["deadline_monotonic_ns"]),
            written_ns=int(content["written_ns"]),
            status=status,
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None
