"""Which boxes count as a person at the door: score, area and zone. Pure geometry.

Boxes are pixels of the source frame; zones are polygons in shares of the picture (0..1), tested with the bottom centre
of the box, where the feet are. The edge of a zone belongs to it: the lower edge of the picture is y = 1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

Point = tuple[float, float]

PERSON_CLASS_ID = 1  # the sparse COCO id that every sentry model publishes for a person
MAX_ZONES = 16  # bits of a detection's zone mask
_SMALLEST = 1e-12  # share of the picture: a box without area is no person
_EDGE = 1e-9  # shares of the picture; far below a pixel, above the rounding of a float division


class Box(NamedTuple):
    """One detection: corners in pixels, score 0..1, sparse COCO class id."""

    x1: float
    y1: float
    x2: float
    y2: float
    score: float
    class_id: int = PERSON_CLASS_ID


class ZoneShape(Protocol):
    """A polygon of at least three points, each (x, y) as a share of the picture."""

    @property
    def points(self) -> Sequence[Point]: ...  # noqa: D102


class Rules(Protocol):
    """What the sentry needs to know; `settings.SentrySettings` is one. Areas are shares of the picture."""

    @property
    def hits(self) -> int: ...  # noqa: D102
    @property
    def window(self) -> int: ...  # noqa: D102
    @property
    def enter_threshold(self) -> float: ...  # noqa: D102
    @property
    def stay_threshold(self) -> float: ...  # noqa: D102
    @property
    def min_area(self) -> float: ...  # noqa: D102
    @property
    def dwell_s(self) -> float: ...  # noqa: D102
    @property
    def hold_s(self) -> float: ...  # noqa: D102
    @property
    def exit_frames(self) -> int: ...  # noqa: D102
    @property
    def validating_timeout_s(self) -> float: ...  # noqa: D102
    @property
    def blind_after_s(self) -> float: ...  # noqa: D102
    @property
    def zones(self) -> Sequence[ZoneShape]: ...  # noqa: D102


def area_share(box: Box, width: int, height: int) -> float:
    """The box's share of a `width` x `height` picture; 0 for an empty, inverted or non-finite box or picture."""
    wide, high = box.x2 - box.x1, box.y2 - box.y1
    if not (wide > 0 and high > 0 and width > 0 and height > 0):
        return 0.0
    share = wide * high / (width * height)
    return share if share < float("inf") else 0.0


def contains(polygon: Sequence[Point], x: float, y: float) -> bool:
    """Whether the point lies in the polygon (even-odd rule) or on its edge."""
    inside = False
    x0, y0 = polygon[-1]
    for x1, y1 in polygon:
        if _on_edge((x0, y0), (x1, y1), x, y):
            return True
        if (y0 > y) != (y1 > y) and x < (x1 - x0) * (y - y0) / (y1 - y0) + x0:
            inside = not inside
        x0, y0 = x1, y1
    return inside


def _on_edge(start: Point, end: Point, x: float, y: float) -> bool:
    (x0, y0), (x1, y1) = start, end
    cross = (x1 - x0) * (y - y0) - (y1 - y0) * (x - x0)
    if abs(cross) > _EDGE:
        return False
    return min(x0, x1) - _EDGE <= x <= max(x0, x1) + _EDGE and min(y0, y1) - _EDGE <= y <= max(y0, y1) + _EDGE


def zone_mask(  # noqa: PLR0917 - the corners and the size in the order that every box has
    zones: Sequence[ZoneShape],
    x1: float,
    y1: float,  # noqa: ARG001 - callers pass a whole box
    x2: float,
    y2: float,
    width: int,
    height: int,
) -> int:
    """Bit i is set where the box's bottom centre lies in `zones[i]` (the first 16). 0 without zones.

    The point is clamped to the picture, because a model may put the feet a little outside.
    """
    if not zones or width <= 0 or height <= 0:
        return 0
    x = min(max((x1 + x2) / 2 / width, 0.0), 1.0)
    y = min(max(y2 / height, 0.0), 1.0)
    return sum(1 << bit for bit, zone in enumerate(zones[:MAX_ZONES]) if contains(zone.points, x, y))


def candidates(boxes: Iterable[Box], rules: Rules, width: int, height: int) -> list[Box]:
    """The persons that keep an alarm: stay threshold, minimum area, in a zone if there are any. Best score first."""
    kept = [
        box
        for box in boxes
        if box.class_id == PERSON_CLASS_ID
        and box.score >= rules.stay_threshold
        and area_share(box, width, height) >= max(rules.min_area, _SMALLEST)
        and (not rules.zones or zone_mask(rules.zones, box.x1, box.y1, box.x2, box.y2, width, height))
    ]
    kept.sort(key=lambda box: -box.score)
    return kept


def merit(box: Box, width: int, height: int) -> float:
    """How well a box shows the person: score times share of the picture."""
    return box.score * area_share(box, width, height)
