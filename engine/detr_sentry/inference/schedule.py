"""Which camera's newest frame goes to the model next. Pure: counted in model runs, without clock or I/O.

Among cameras with a frame that waits: validating first, then standby past its motion gate, then alarmed; within a class
the one served longest ago. A camera never sees more than `cameras` other runs between the moment it is ready and its
own run: with the run that was going on when its frame came, it waits at most (cameras + 1) model times.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

Key = tuple[int, int]
"""(epoch, sequence) of a frame."""


class Urgency(IntEnum):
    """Classes of cameras; smaller goes first."""

    VALIDATING = 0
    STANDBY = 1
    ALARMED = 2


@dataclass(slots=True)
class _Entry:
    """A camera. `ready_run` is the number of the run before which it became ready, None if it is not."""

    served_run: int = -1
    ready_run: int | None = None
    urgency: Urgency = Urgency.STANDBY


class Schedule:
    """Chooses among the cameras it was made with. `offer` what is ready, `choose`, run the model, again."""

    def __init__(self, cameras: tuple[str, ...]) -> None:
        self._entries = {camera: _Entry() for camera in cameras}
        self._run = 0

    def offer(self, camera: str, urgency: Urgency) -> None:
        """The camera has a frame that waits; repeated offers keep its place and take the new urgency."""
        entry = self._entries[camera]
        entry.urgency = urgency
        if entry.ready_run is None:
            entry.ready_run = self._run

    def withdraw(self, camera: str) -> None:
        """The camera's frame went away (mode off, bad frame, camera gone)."""
        self._entries[camera].ready_run = None

    def choose(self) -> str | None:
        """The camera to serve now, which is ready no longer; None if none is ready. Each choice counts as one run."""
        ready = [(camera, entry) for camera, entry in self._entries.items() if entry.ready_run is not None]
        if not ready:
            return None
        camera, entry = min(ready, key=lambda item: (item[1].urgency, item[1].served_run))
        if not self._can_wait([other for other in ready if other[1] is not entry]):
            camera, entry = min(ready, key=lambda item: (self._latest_run(item[1]), item[1].urgency))
        entry.ready_run = None
        entry.served_run = self._run
        self._run += 1
        return camera

    def _can_wait(self, others: list[tuple[str, _Entry]]) -> bool:
        """Whether `others`, served after this run in the order of their limits, all keep them.

        Cameras that become ready later have later limits, so what fits today fits for good (earliest deadline first).
        """
        limits = sorted(self._latest_run(entry) for _, entry in others)
        return all(self._run + place <= limit for place, limit in enumerate(limits, start=1))

    def _latest_run(self, entry: _Entry) -> int:
        """The number of the last run that may be this camera's."""
        return (self._run if entry.ready_run is None else entry.ready_run) + len(self._entries)


class SkipCounter:
    """Counts exactly the frames that were published but not taken, from the keys of those that were."""

    def __init__(self) -> None:
        self.taken: Key | None = None
        self.skipped = 0

    def take(self, key: Key) -> int:
        """The frame `key` was taken; returns how many before it were not.

        The first frame ever skips nothing. In a new epoch, whose sequences start at 1, its own earlier frames count.
        """
        if self.taken is None:
            gap = 0
        elif key[0] == self.taken[0]:
            gap = max(key[1] - self.taken[1] - 1, 0)
        else:
            gap = key[1] - 1
        self.taken = key
        self.skipped += gap
        return gap
