from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detr_sentry.sentry.rules import Box, area_share, candidates, contains, merit, zone_mask
from detr_sentry.settings import SentrySettings, Zone

LEFT = Zone(name="left", points=((0.0, 0.0), (0.5, 0.0), (0.5, 1.0), (0.0, 1.0)))
LOWER = Zone(name="lower", points=((0.0, 0.6), (1.0, 0.6), (1.0, 1.0), (0.0, 1.0)))
NOTCHED = ((0.0, 0.0), (1.0, 0.0), (1.0, 1.0), (0.5, 0.5), (0.0, 1.0))

finite = st.floats(-3000, 3000)


@pytest.mark.parametrize(
    ("box", "width", "height", "expected"),
    [
        (Box(0, 0, 320, 240, 0.9), 640, 480, 0.25),
        (Box(100, 100, 100, 200, 0.9), 640, 480, 0.0),
        (Box(200, 100, 100, 200, 0.9), 640, 480, 0.0),
        (Box(0, 0, 10, 10, 0.9), 0, 480, 0.0),
        (Box(0, 0, math.nan, 10, 0.9), 640, 480, 0.0),
        (Box(0, 0, math.inf, 10, 0.9), 640, 480, 0.0),
    ],
)
def test_area_share(box: Box, width: int, height: int, expected: float) -> None:
    assert expected == area_share(box, width, height)


@pytest.mark.parametrize(
    ("x", "y", "expected"),
    [
        (0.5, 0.25, True),
        (0.5, 0.75, False),  # in the notch
        (0.1, 0.85, True),
        (0.5, 0.5, True),  # on the tip of the notch
        (1.0, 0.5, True),  # on an edge
        (0.0, 1.0, True),  # on a corner
        (1.1, 0.5, False),
        (2.0, 0.0, False),  # on the line of an edge, outside it
        (math.nan, 0.5, False),
    ],
)
def test_contains_a_concave_polygon(x: float, y: float, *, expected: bool) -> None:
    assert expected == contains(NOTCHED, x, y)


@given(x=st.floats(0, 1), y=st.floats(0, 1))
def test_contains_a_rectangle_as_comparisons_do(x: float, y: float) -> None:
    assert (0.6 - 1e-9 <= y) == contains(LOWER.points, x, y)


def test_zone_mask_is_of_the_bottom_centre() -> None:
    zones = (LEFT, LOWER)

    assert zone_mask(zones, 0, 0, 200, 100, 1000, 1000) == 0b01
    assert zone_mask(zones, 0, 0, 200, 900, 1000, 1000) == 0b11
    assert zone_mask(zones, 700, 0, 900, 900, 1000, 1000) == 0b10
    assert zone_mask(zones, 700, 0, 900, 100, 1000, 1000) == 0


def test_zone_mask_takes_feet_below_the_picture() -> None:
    assert zone_mask((LOWER,), 100, 0, 200, 1004, 1000, 1000) == 1


def test_zone_mask_has_sixteen_bits() -> None:
    assert zone_mask((LEFT,) * 20, 0, 0, 100, 100, 1000, 1000) == 0xFFFF


@pytest.mark.parametrize(("width", "height"), [(0, 100), (100, 0)])
def test_zone_mask_of_an_empty_picture(width: int, height: int) -> None:
    assert zone_mask((LEFT,), 0, 0, 10, 10, width, height) == 0


@given(corners=st.tuples(finite, finite, finite, finite), size=st.integers(1, 3000))
def test_zone_mask_never_fails(corners: tuple[float, float, float, float], size: int) -> None:
    assert 0 <= zone_mask((LEFT, LOWER), *corners, size, size) <= 3


def test_candidates() -> None:
    rules = SentrySettings(min_area=0.01, zones=(LOWER,))
    near = Box(100, 300, 300, 900, 0.4)
    best = Box(500, 300, 700, 900, 0.9)
    boxes = [
        near,
        Box(100, 300, 300, 900, 0.34),  # below the stay threshold
        Box(100, 300, 300, 900, 0.9, 18),  # a dog
        Box(100, 300, 300, 400, 0.9),  # outside the zone
        Box(100, 895, 110, 900, 0.9),  # too small
        Box(300, 300, 100, 900, 0.9),  # inverted
        Box(100, 300, 300, 900, math.nan),
        best,
    ]

    assert [best, near] == candidates(boxes, rules, 1000, 1000)


def test_candidates_without_zones_and_minimum_still_need_an_area() -> None:
    flat = Box(100, 300, 300, 300, 0.9)
    person = Box(100, 300, 102, 302, 0.9)

    assert [person] == candidates([flat, person], SentrySettings(), 1000, 1000)


def test_merit_is_score_times_area() -> None:
    assert pytest.approx(0.8 * 0.25) == merit(Box(0, 0, 500, 500, 0.8), 1000, 1000)
