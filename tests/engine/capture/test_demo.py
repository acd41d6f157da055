"""The demo keeps its promises: somebody between a quarter and three quarters of the period, the same for a seed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import simplejpeg

from detr_sentry.capture.demo import DemoScene, DemoSource
from detr_sentry.jpeg import walk_jpeg
from detr_sentry.settings import CameraSettings
from detr_sentry.source_url import parse_source

if TYPE_CHECKING:
    from numpy.typing import NDArray

PERIOD_S = 40.0


@pytest.fixture(scope="module")
def scene() -> DemoScene:
    return DemoScene(seed=3, period_s=PERIOD_S, width=640, height=360)


@pytest.mark.parametrize("period_s", [4.0, 12.0, 40.0, 300.0])
@pytest.mark.parametrize("seed", range(6))
def test_somebody_is_there_exactly_from_a_quarter_to_three_quarters(seed: int, period_s: float) -> None:
    scene = DemoScene(seed, period_s, 320, 180)
    for period in (0, 1, 7):
        start = period * period_s
        empty = [0.0, 0.1, 0.2, 0.249, 0.751, 0.8, 0.95, 0.999]
        busy = np.linspace(0.2501, 0.7499, 60)

        assert all([] == scene.truth(start + share * period_s) for share in empty)
        for share in busy:
            (box,) = scene.truth(start + share * period_s)
            x1, y1, x2, y2 = box
            assert 0 <= x1 < x2 <= 320
            assert 0 <= y1 < y2 <= 180
            assert y2 - y1 > 180 * 0.12


def test_the_same_seed_gives_the_same_pictures_in_any_order(scene: DemoScene) -> None:
    other = DemoScene(seed=3, period_s=PERIOD_S, width=640, height=360)
    moments = [0.0, 12.3, 25.0, 55.5, 12.3]
    forwards = [scene.frame(t) for t in moments]
    backwards = [other.frame(t) for t in reversed(moments)]

    for one, two in zip(forwards, reversed(backwards), strict=True):
        np.testing.assert_array_equal(one, two)


def test_other_seeds_and_visits_look_different(scene: DemoScene) -> None:
    other = DemoScene(seed=4, period_s=PERIOD_S, width=640, height=360)

    assert difference(scene.frame(0.0), other.frame(0.0)).mean() > 5
    assert scene.truth(20.0) != other.truth(20.0)
    assert scene.truth(20.0) != scene.truth(20.0 + PERIOD_S)


def test_the_box_holds_what_changed(scene: DemoScene) -> None:
    for t in (14.0, 20.0, 26.0):
        ((x1, y1, x2, y2),) = scene.truth(t)
        with_person, without = scene.frame(t), scene.frame(t)
        light = scene._yard.light(t)
        without = np.asarray(scene._yard.finish(scene._yard.paint(t), round(t * 30)), np.uint8)
        changed = difference(with_person, without).max(axis=2) > 40
        rows, columns = np.nonzero(changed[: int(y1 + 0.85 * (y2 - y1))])  # above the shadow on the ground

        assert 0.85 < light < 1.15
        assert x1 - 2 <= columns.min() <= x1 + 16
        assert x2 - 16 <= columns.max() <= x2 + 2
        assert y1 - 2 <= rows.min() <= y1 + 6
        assert changed[int(y1) : int(y2), int(x1) : int(x2)].mean() > 0.2


def test_the_person_walks_without_jumps(scene: DemoScene) -> None:
    centers = []
    for t in np.arange(PERIOD_S / 4 + 1, PERIOD_S * 3 / 4 - 1, 0.1):
        ((x1, _, x2, y2),) = scene.truth(float(t))
        centers.append(((x1 + x2) / 2, y2))
    steps = np.hypot(*np.diff(np.array(centers), axis=0).T)

    assert steps.max() < 640 * 0.04
    assert np.ptp(np.array(centers)[:, 0]) > 640 * 0.2


def test_the_empty_yard_moves_mildly(scene: DemoScene) -> None:
    still, later = scene.frame(1.0), scene.frame(2.0)
    moved = difference(still, later)

    assert moved.mean() > 0.5
    assert (moved.max(axis=2) > 40).mean() < 0.02


def test_the_source_delivers_jpegs_of_the_present_moment() -> None:
    spec = parse_source("demo:?period=8&seed=2&width=320&height=180&fps=15")
    source = DemoSource(spec, CameraSettings(id="door", source="demo:"))
    info = source.open(lambda: True)
    first = source.grab()
    data = bytes(first.data)
    second = source.grab()

    assert (320, 180, 15.0) == (info.width, info.height, info.fps)
    assert source.fileno() is None
    assert len(data) == walk_jpeg(data, (320, 180)).length
    assert 0 <= first.pts_ns < second.pts_ns
    scene = DemoScene(2, 8.0, 320, 180)
    drawn = scene.frame(first.pts_ns / 1e9)
    decoded = simplejpeg.decode_jpeg(data)
    assert difference(drawn, decoded).mean() < 6
    source.close()


def difference(one: NDArray[np.uint8], two: NDArray[np.uint8]) -> NDArray[np.int16]:
    return np.abs(one.astype(np.int16) - two.astype(np.int16))
