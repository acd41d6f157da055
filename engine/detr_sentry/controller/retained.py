"""What this engine has left on the broker, remembered over restarts, so that nothing stays of cameras that are gone.

`mqtt.json` is `{"version": 1, "client_id": "...", "topics": [...]}`. The client id is made once: a broker that has not
noticed the end of our last connection ends it when the same id comes back, and its will is not published later.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from typing import TYPE_CHECKING, Any

from detr_sentry.controller.storage import read_json, write_json
from detr_sentry.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

FILE_NAME = "mqtt.json"
_VERSION = 1

_log = logging.getLogger("detr_sentry.controller")


class Retained:
    """Made before the event loop runs; then used from it. What cannot be stored is known until the process ends."""

    def __init__(self, state_dir: Path, instance: str) -> None:
        self._path = state_dir / FILE_NAME
        self._writing = asyncio.Lock()
        self.topics: frozenset[str] = frozenset()
        self.client_id = f"detr_sentry_{instance}_{secrets.token_hex(4)}"
        try:
            stored = read_json(self._path)
            if stored is not None:
                self._take(stored)
        except (StorageError, KeyError, TypeError, AttributeError) as error:
            _log.warning("%s: is not understood and is forgotten: %s", self._path, error)

    def _take(self, stored: Any) -> None:
        topics = frozenset(topic for topic in stored["topics"] if isinstance(topic, str) and topic)
        client_id = stored["client_id"]
        if isinstance(client_id, str) and client_id.isascii() and client_id.isprintable():
            self.client_id = client_id or self.client_id
        self.topics = topics

    async def add(self, topics: Iterable[str]) -> None:
        """Remember topics, before anything is retained there."""
        await self._become(self.topics | frozenset(topics))

    async def remove(self, topics: Iterable[str]) -> None:
        """Forget topics, once nothing is retained there any more."""
        await self._become(self.topics - frozenset(topics))

    async def _become(self, topics: frozenset[str]) -> None:
        if topics == self.topics:
            return
        self.topics = topics
        document = {"version": _VERSION, "client_id": self.client_id, "topics": sorted(topics)}
        async with self._writing:
            try:
                await asyncio.to_thread(write_json, self._path, document)
            except StorageError as error:
                _log.warning("%s; topics of removed cameras may stay on the broker", error)
