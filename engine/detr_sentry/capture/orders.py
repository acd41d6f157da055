"""What rate the controller asks for, also before it is up: a camera that its owner closed stays closed."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any, Final

from detr_sentry.errors import CorruptMessageError
from detr_sentry.ipc.messages import SentryView
from detr_sentry.ipc.ring import RingReader

if TYPE_CHECKING:
    from pathlib import Path

OFF: Final = 0.0
_MAX_MODE_BYTES: Final = 1 << 20


class Orders:
    """Follows the sentry ring of one camera. `rate()` is cheap enough for every turn of a loop.

    Until the first message the camera runs at `standby_fps`, unless the controller's stored mode says off. A controller
    that dies leaves its last word in force.
    """

    def __init__(self, ring: Path, camera_id: str, *, standby_fps: float, state_dir: Path) -> None:
        self._reader = RingReader(ring)
        self._seen: tuple[int, int] | None = None
        closed = stored_off(state_dir / "mode.json", camera_id, time.time())
        self._rate = OFF if closed else standby_fps

    def rate(self) -> float:
        """FULL_RATE, OFF, or frames a second."""
        latest = self._reader.latest()
        if latest is None or latest == self._seen:
            return self._rate
        lease = self._reader.acquire()
        if lease is None:
            return self._rate
        with lease:
            self._seen = lease.key
            try:
                self._rate = SentryView(lease).capture_fps
            except CorruptMessageError:
                return self._rate
        return self._rate

    def close(self) -> None:
        """Detach from the ring."""
        self._reader.close()


def stored_off(path: Path, camera_id: str, now_s: float) -> bool:
    """Whether the controller's mode file says that this camera is off at the wall time `now_s`.

    No file: no. A file that cannot be understood: yes, as the controller itself takes it.
    """
    try:
        with path.open("rb") as file:
            entry: Any = json.loads(file.read(_MAX_MODE_BYTES))["cameras"].get(camera_id, {})
        mode, until = entry.get("mode"), entry.get("until")
        return bool(mode == "off" and (until is None or now_s < float(until)))
    except FileNotFoundError:
        return False
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return True
