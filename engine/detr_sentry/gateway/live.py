"""The live feed: everything once, then what changes, to any number of listeners."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from .counters import Counters

# A listener that is this many messages behind is brought up to date by a new snapshot instead.
MAX_BEHIND = 128


class Listener:
    """One client's outbox: bounded; detections are kept only in their newest form per camera."""

    def __init__(self, *, detections: bool) -> None:
        self.detections = detections
        self.event = asyncio.Event()
        self.wants_snapshot = True
        self._changes: deque[str] = deque()
        self._boxes: dict[str, str] = {}

    def add(self, message: str) -> bool:
        """Queue a change; False if that was one too many, so that a snapshot will follow instead."""
        self.event.set()
        if self.wants_snapshot:
            return True
        if len(self._changes) >= MAX_BEHIND:
            self.resync()
            return False
        self._changes.append(message)
        return True

    def add_detections(self, camera: str, message: str) -> None:
        """Replace what is waiting for this camera."""
        self._boxes[camera] = message
        self.event.set()

    def resync(self) -> None:
        """Drop what is queued; the next message is a snapshot."""
        self._changes.clear()
        self.wants_snapshot = True
        self.event.set()

    def take(self, snapshot: Callable[[], str]) -> str | None:
        """The next message; None if there is nothing to say."""
        if self.wants_snapshot:
            self.wants_snapshot = False
            self._changes.clear()
            return snapshot()
        if self._changes:
            return self._changes.popleft()
        if self._boxes:
            return self._boxes.pop(next(iter(self._boxes)))
        return None


class LiveHub:
    """All listeners. `seq` counts changes: a snapshot carries the number of the last change in it, a gap never happens.

    `snapshot` gives the full state. A change is put into JSON once, whatever the number of listeners.
    """

    def __init__(self, snapshot: Callable[[], Mapping[str, Any]], counters: Counters) -> None:
        self._snapshot = snapshot
        self._counters = counters
        self._listeners: set[Listener] = set()
        self.seq = 0

    def join(self, *, detections: bool) -> Listener:
        """A new listener, which gets a snapshot first."""
        listener = Listener(detections=detections)
        self._listeners.add(listener)
        return listener

    def leave(self, listener: Listener) -> None:
        """Forget a listener."""
        self._listeners.discard(listener)

    def change(self, **what: Any) -> None:
        """Tell everyone of a change: `camera=`, `event=`, `info=` or `companion=` with its whole new value."""
        self.seq += 1
        if not self._listeners:
            return
        message = encode({"type": "change", "seq": self.seq, **what})
        for listener in self._listeners:
            if not listener.add(message):
                self._counters.live_resyncs += 1

    @property
    def wants_detections(self) -> bool:
        """Whether any listener asked for detections."""
        return any(listener.detections for listener in self._listeners)

    def detections(self, camera: str, value: Mapping[str, Any]) -> None:
        """Tell those who asked of a camera's newest detections."""
        message = encode({"type": "detections", "camera": camera, **value})
        for listener in self._listeners:
            if listener.detections:
                listener.add_detections(camera, message)

    def snapshot(self) -> str:
        """The full state as a message."""
        return encode({"type": "snapshot", "seq": self.seq, **self._snapshot()})


def encode(message: Mapping[str, Any]) -> str:
    """Compact JSON."""
    return json.dumps(message, separators=(",", ":"), allow_nan=False)
