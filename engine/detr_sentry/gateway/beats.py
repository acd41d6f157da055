"""The other services' heartbeats, read once a second outside the event loop."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from detr_sentry.ipc.heartbeat import read_heartbeat

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from detr_sentry.ipc.heartbeat import Beat
    from detr_sentry.ipc.layout import Layout

_NOTHING: Mapping[str, Any] = {}


class Beats:
    """The newest heartbeat of each service. A service without one, or with one overdue, counts as down."""

    def __init__(self, layout: Layout, cameras: Iterable[str]) -> None:
        self._paths: dict[str, Path] = {
            "inference": layout.heartbeat("inference"),
            "controller": layout.heartbeat("controller"),
        }
        self._paths.update({f"capture.{camera}": layout.heartbeat("capture", camera) for camera in cameras})
        self._beats: dict[str, Beat | None] = dict.fromkeys(self._paths)

    async def refresh(self) -> None:
        """Read every file, in a thread: a file system may be slow even when it is memory."""
        self._beats = await asyncio.to_thread(self._read)

    def up(self, service: str) -> bool:
        """Whether the service promised a beat that is not due yet."""
        beat = self._beats.get(service)
        return beat is not None and not beat.overdue(time.monotonic_ns())

    def seen(self, service: str) -> bool:
        """Whether there is a heartbeat at all, overdue or not."""
        return self._beats.get(service) is not None

    def phase(self, service: str) -> str | None:
        """What the service says it is doing; None while it is down."""
        beat = self._beats.get(service)
        return str(beat.phase) if beat is not None and self.up(service) else None

    def status(self, service: str) -> Mapping[str, Any]:
        """What the service says of itself; empty while it is down."""
        beat = self._beats.get(service)
        return beat.status if beat is not None and self.up(service) else _NOTHING

    def _read(self) -> dict[str, Beat | None]:
        return {service: read_heartbeat(path) for service, path in self._paths.items()}
