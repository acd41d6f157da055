"""One alarm as the history keeps it. Values only."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from detr_sentry.controller.snapshot import Picture
    from detr_sentry.sentry.events import Best, Event

_MAX_INTEGER = (1 << 63) - 1  # SQLite's


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """An alarm. Times in Unix nanoseconds; `seen_ns` is when a person was last seen in it.

    `box` (x1, y1, x2, y2, pixels of width x height) and `confidence` belong to the picture where there is one.
    """

    event_id: str
    camera: str
    start_ns: int
    seen_ns: int
    end_ns: int | None = None
    count: int = 0
    confidence: float | None = None
    box: tuple[float, float, float, float] | None = None
    width: int | None = None
    height: int | None = None
    snapshot_ns: int | None = None
    snapshot_exact: bool = False
    snapshot_bytes: int = 0

    @classmethod
    def of(cls, camera: str, event: Event, *, seen_ns: int) -> Self:
        """The record of an alarm's event, without a picture."""
        return cls(
            event_id=event.event_id,
            camera=camera,
            start_ns=min(event.start_ns, _MAX_INTEGER),
            seen_ns=min(seen_ns, _MAX_INTEGER),
            end_ns=None if event.end_ns is None else min(event.end_ns, _MAX_INTEGER),
            count=event.count,
        )

    def with_box_of(self, other: Record) -> Self:
        """The record with the box of another record of the same alarm."""
        return replace(self, confidence=other.confidence, box=other.box, width=other.width, height=other.height)

    def showing(self, best: Best) -> Self:
        """The record with the box of `best`."""
        box = best.box
        return replace(
            self,
            confidence=box.score,
            box=(box.x1, box.y1, box.x2, box.y2),
            width=best.width,
            height=best.height,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A record to store, and a picture that replaces the one it had."""

    record: Record
    picture: Picture | None = None

    def after(self, earlier: Change) -> Change:
        """Itself, with the picture of an earlier change that is not stored yet."""
        return self if self.picture is not None else replace(self, picture=earlier.picture)
