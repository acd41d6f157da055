"""The companion's claim: which Home Assistant speaks to this engine, and whether MQTT discovery steps aside for it."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from detr_sentry.controller.report import rfc3339
from detr_sentry.controller.storage import read_json, remove_file, write_json
from detr_sentry.errors import StorageError

if TYPE_CHECKING:
    from pathlib import Path

FILE_NAME = "companion.json"

_log = logging.getLogger("detr_sentry.controller")


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A claim. `ha_instance` is Home Assistant's own id; `since_ns` Unix nanoseconds."""

    ha_instance: str
    replace_mqtt_entities: bool
    since_ns: int

    def report(self) -> dict[str, Any]:
        """The claim as the API shows it."""
        return {
            "ha_instance": self.ha_instance,
            "replace_mqtt_entities": self.replace_mqtt_entities,
            "since": rfc3339(self.since_ns),
        }


class Companion:
    """The stored claim, or none. An unreadable file is none: MQTT discovery goes on until it claims again."""

    def __init__(self, state_dir: Path) -> None:
        self.claim: Claim | None = None
        self._path = state_dir / FILE_NAME
        self._writing = asyncio.Lock()
        try:
            stored = read_json(self._path)
            if stored is not None:
                self.claim = Claim(
                    ha_instance=str(stored["ha_instance"]),
                    replace_mqtt_entities=stored["replace_mqtt_entities"] is True,
                    since_ns=int(stored["since_ns"]),
                )
        except (StorageError, KeyError, TypeError, ValueError) as error:
            _log.warning("%s: the companion's claim is not understood and is forgotten: %s", self._path, error)

    async def take(self, claim: Claim) -> None:
        """Store a claim. Raises StorageError, and then the old one stays."""
        async with self._writing:
            document = {
                "ha_instance": claim.ha_instance,
                "replace_mqtt_entities": claim.replace_mqtt_entities,
                "since_ns": claim.since_ns,
            }
            await asyncio.to_thread(write_json, self._path, document)
            self.claim = claim

    async def clear(self) -> None:
        """Forget the claim. Raises StorageError."""
        async with self._writing:
            await asyncio.to_thread(remove_file, self._path)
            self.claim = None
