"""A camera with a substream: the small stream in standby, the large one when alarmed, never a wait in between."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest

from detr_sentry.capture.source import FULL_RATE
from detr_sentry.capture.sources import make_source
from detr_sentry.errors import SettingsError
from detr_sentry.settings import CameraSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.engine.capture.conftest import HttpCamera, Rig

    RigFor = Callable[..., Rig]

SMALL, LARGE = (160, 120), (320, 240)


@pytest.fixture
def large_camera(http_camera: HttpCamera) -> Iterator[HttpCamera]:
    camera = type(http_camera)()
    camera.size = LARGE
    yield camera
    camera.close()


@pytest.fixture
def pair(rig_for: RigFor, http_camera: HttpCamera, large_camera: HttpCamera) -> Rig:
    return rig_for(large_camera.url, standby_source=http_camera.url, standby_fps=5)


def next_of_size(rig: Rig, size: tuple[int, int], timeout_s: float = 15.0) -> Any:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        frame = rig.next(timeout_s=timeout_s)
        if frame.size == size:
            return frame
    raise AssertionError(f"no frame of {size}")


def test_standby_uses_the_substream_alone(pair: Rig, large_camera: HttpCamera) -> None:
    pair.next()
    sizes = {frame.size for frame in pair.collect(1.0)}

    assert {SMALL} == sizes
    assert [] == large_camera.requests


def test_an_alarm_starts_on_the_substream_and_moves_to_the_main_stream(pair: Rig, large_camera: HttpCamera) -> None:
    large_camera.behaviour = "silent"  # the main stream takes its time
    before = pair.next()
    ordered_ns = time.monotonic_ns()
    pair.order(FULL_RATE)
    first = pair.next(pair.newest())
    frames = pair.collect(1.0)

    assert (first.monotonic_ns - ordered_ns) / 1e6 < 750  # budget 150 ms
    assert {SMALL} == {frame.size for frame in frames}
    assert len(frames) > 8

    large_camera.down()
    large_camera.behaviour = "stream"
    large_camera.up()
    pair.order(5.0)
    pair.order(FULL_RATE)
    main = next_of_size(pair, LARGE)

    assert main.epoch > before.epoch
    assert "connected" == pair.status()["link"]

    pair.order(5.0)
    back = next_of_size(pair, SMALL)
    assert back.epoch > main.epoch


def test_the_main_stream_serves_while_the_substream_is_down(
    rig_for: RigFor, http_camera: HttpCamera, large_camera: HttpCamera
) -> None:
    http_camera.down()
    rig = rig_for(large_camera.url, standby_source=http_camera.url)

    assert LARGE == rig.next().size
    assert "connected" == rig.link("connected")["link"]
    assert "s3cret" not in str(rig.status())


def test_losing_both_is_reported_and_mended(pair: Rig, http_camera: HttpCamera, large_camera: HttpCamera) -> None:
    pair.next()
    http_camera.down()
    large_camera.down()
    pair.link("refused", timeout_s=15)

    http_camera.up()

    assert SMALL == next_of_size(pair, SMALL).size


def test_a_substream_is_a_stream() -> None:
    camera = CameraSettings(id="door", source="rtsp://camera/main", standby_source="/dev/video0")

    with pytest.raises(SettingsError, match="same network camera"):
        make_source(camera)
