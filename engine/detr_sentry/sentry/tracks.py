"""Follows boxes from frame to frame by overlap, which is all that dwell needs. Pure.

Greedy matching by intersection over union, best pair first. At 3 frames per second a walking person overlaps little
with the box before, so a small overlap is enough; a detector's flicker must not restart a dwell, so a track outlives
some misses.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from detr_sentry.sentry.rules import Box

MIN_IOU = 0.1  # a walker at 3 fps keeps about this much of the box before
MAX_MISSES = 3  # inferred frames; together with LOST_AFTER_S, so that neither rate nor gating alone ends a track
LOST_AFTER_S = 1.0
MAX_TRACKS = 64  # bounds the matching: pairs are at most MAX_TRACKS squared
_MAX_ID = (1 << 32) - 1  # a detection's track_id is u32; 0 means "not tracked"


@dataclass(slots=True)
class Track:
    """One followed person. Times are seconds of capture time."""

    track_id: int
    box: Box
    first_s: float
    last_s: float
    misses: int = 0


def iou(a: Box, b: Box) -> float:
    """Intersection over union of two boxes, 0..1."""
    wide = min(a.x2, b.x2) - max(a.x1, b.x1)
    high = min(a.y2, b.y2) - max(a.y1, b.y1)
    if not (wide > 0 and high > 0):
        return 0.0
    shared = wide * high
    return shared / ((a.x2 - a.x1) * (a.y2 - a.y1) + (b.x2 - b.x1) * (b.y2 - b.y1) - shared)


class Tracker:
    """Assigns track ids to the boxes of successive frames of one camera. Boxes must have a positive area."""

    def __init__(self) -> None:
        self._tracks: list[Track] = []
        self._next_id = 1

    def update(self, boxes: Sequence[Box], now_s: float) -> list[Track | None]:
        """The track of each box, in order; None beyond the first MAX_TRACKS boxes. `now_s` is the capture time."""
        result: list[Track | None] = [None] * len(boxes)
        pairs = sorted(
            (
                (overlap, index, track)
                for index, box in enumerate(boxes[:MAX_TRACKS])
                for track in self._tracks
                if (overlap := iou(box, track.box)) >= MIN_IOU
            ),
            key=lambda pair: (-pair[0], pair[1], pair[2].track_id),
        )
        matched: set[int] = set()
        for _, index, track in pairs:
            if result[index] is None and track.track_id not in matched:
                matched.add(track.track_id)
                track.box, track.last_s, track.misses = boxes[index], now_s, 0
                result[index] = track
        for track in self._tracks:
            if track.track_id not in matched:
                track.misses += 1
        kept = [track for track in self._tracks if not self._lost(track, now_s)]
        for index, box in enumerate(boxes[:MAX_TRACKS]):
            if result[index] is None:
                result[index] = started = Track(self._next_id, box, now_s, now_s)
                self._next_id = self._next_id % _MAX_ID + 1
                kept.append(started)
        kept.sort(key=lambda track: -track.last_s)
        self._tracks = kept[:MAX_TRACKS]
        return result

    @staticmethod
    def _lost(track: Track, now_s: float) -> bool:
        return track.misses >= MAX_MISSES and now_s - track.last_s >= LOST_AFTER_S

    def clear(self) -> None:
        """Forget every track; the ids go on."""
        self._tracks.clear()
