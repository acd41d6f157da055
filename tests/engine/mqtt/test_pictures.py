"""Pictures for MQTT: boxes where people are, sizes that dashboards like, and nothing of what cannot be read."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest
import simplejpeg

from detr_sentry.controller.drawing import ENOUGH_WIDTH, draw
from detr_sentry.controller.outbox import Message
from detr_sentry.controller.topics import Topics
from detr_sentry.controller.watcher import Watcher
from detr_sentry.errors import BadFrameError
from detr_sentry.ipc.messages import PixelFormat
from detr_sentry.sentry.rules import Box
from tests.engine.controller.conftest import HEIGHT, PERSON, WIDTH, Place, Runner, eventually


def jpeg(width: int, height: int) -> bytes:
    return bytes(simplejpeg.encode_jpeg(np.full((height, width, 3), 90, np.uint8)))


def is_red(image: Any, x: int, y: int) -> bool:
    red, green, _blue = (int(value) for value in image[y, x])
    return red > green + 60


@pytest.mark.parametrize(
    ("width", "height", "shown"),
    [(640, 480, (480, 640)), (1920, 1080, (1080, 1920)), (3840, 2160, (1080, 1920)), (2561, 1441, (721, 1281))],
)
def test_the_box_is_where_the_person_is_at_every_size(width: int, height: int, shown: tuple[int, int]) -> None:
    box = Box(width * 0.25, height * 0.25, width * 0.5, height * 0.75, 0.9)
    image = simplejpeg.decode_jpeg(draw(jpeg(width, height), [box], width=width, height=height))

    assert shown == image.shape[:2]
    assert image.shape[1] >= min(width, ENOUGH_WIDTH)
    for x, y, expected in ((0.2515, 0.5, True), (0.4985, 0.5, True), (0.4, 0.2515, True), (0.4, 0.5, False)):
        assert expected == is_red(image, int(x * image.shape[1]), int(y * image.shape[0]))


def test_a_picture_without_boxes_stays_what_it_is_or_gets_smaller() -> None:
    small, large = jpeg(640, 480), jpeg(3840, 2160)

    assert small is draw(small, [], width=640, height=480)
    assert (1080, 1920, 3) == simplejpeg.decode_jpeg(draw(large, [], width=3840, height=2160)).shape


@pytest.mark.parametrize("box", [(-50, -50, 9999, 9999), (63, 47, 64, 48), (10, 10, 10, 10), (900, 900, 950, 950)])
def test_a_box_beyond_the_edge_is_no_harm(box: tuple[float, float, float, float]) -> None:
    image = simplejpeg.decode_jpeg(draw(jpeg(64, 48), [Box(*box, 0.5)], width=64, height=48))

    assert (48, 64, 3) == image.shape


@pytest.mark.parametrize("data", [b"", b"\xff\xd8\xff", jpeg(32, 32)])
def test_what_is_not_the_picture_that_it_claims_to_be_is_refused(data: bytes) -> None:
    with pytest.raises(BadFrameError):
        draw(data, [Box(1, 1, 9, 9, 0.5)], width=64, height=48)


async def test_a_watcher_shows_raw_frames_and_survives_what_cannot_be_read(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    put: list[Message] = []
    watcher = Watcher(
        "door",
        Topics(instance="main").camera("door"),
        place.layout,
        stay_threshold=0.3,
        detections=False,
        put=put.append,
    )
    watcher.announcer.state = "alarmed"
    place.detect(PERSON, pixel_format=PixelFormat.RGB24, level=90)
    watcher.look(100.0)
    await eventually(lambda: put)
    image = simplejpeg.decode_jpeg(put[0].payload)

    assert (HEIGHT, WIDTH, 3) == image.shape
    assert is_red(image, 10, 30)

    await watcher.show_alarm({"snapshot_path": "/nowhere", "box": None, "width": 64, "height": 48})
    await watcher.show_alarm({"snapshot_path": "/nowhere", "box": None, "width": 64, "height": 48})

    assert 2 == watcher.unshown
    assert 1 == len([record for record in caplog.records if record.levelname == "WARNING"])
    assert 1 == len(put)

    watcher.look(101.0)
    watcher.announcer.state = "off"  # switched off while the picture is made
    await asyncio.sleep(0.5)
    await watcher.close()

    assert 1 == len(put)


async def test_a_camera_that_was_never_seen_shows_nothing(place: Place, runner: Runner) -> None:
    put: list[Message] = []
    topics = Topics(instance="main").camera("yard")
    watcher = Watcher("yard", topics, place.layout, stay_threshold=0.3, detections=True, put=put.append)
    watcher.announcer.state = "standby"
    watcher.look(100.0)
    await watcher.close()

    assert [] == put


async def test_a_broken_message_or_picture_is_counted_and_the_next_one_shown(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    put: list[Message] = []
    topics = Topics(instance="main").camera("door")
    watcher = Watcher("door", topics, place.layout, stay_threshold=0.3, detections=True, put=put.append)
    watcher.announcer.state = "alarmed"
    place.detect(PERSON)
    watcher.look(100.0)  # the boxes are due, and the picture too
    await eventually(lambda: len(put) == 2)

    assert [topics.detections, topics.snapshot] == [message.topic for message in put]

    watcher.look(100.3)  # only the boxes
    await asyncio.sleep(0.1)

    assert [topics.detections] == [message.topic for message in put[2:]]

    assert place.detections is not None
    assert place.frames is not None
    broken = place.detections.ring.begin()
    assert broken is not None
    broken[:64] = b"\xff" * 64
    place.detections.ring.publish()
    watcher.look(101.0)

    assert 1 == watcher.unshown

    place.number += 1
    pixels = place.frames.begin()
    assert pixels is not None
    pixels[:4] = b"\xff\xd8\xff\xd9"
    place.frames.publish(
        length=4,
        frame_number=place.number,
        capture_epoch=place.epoch,
        timestamp_ns=1,
        captured_monotonic_ns=1,
        pts_ns=0,
        width=WIDTH,
        height=HEIGHT,
        channels=3,
        pixel_format=PixelFormat.MJPEG,
    )
    place.frames.publish, publish = lambda **_: 0, place.frames.publish  # type: ignore[method-assign]
    place.number -= 1
    place.detect(PERSON)
    place.frames.publish = publish  # type: ignore[method-assign]
    watcher.look(102.0)
    await eventually(lambda: watcher.unshown == 2)

    warnings = [record.message for record in caplog.records if record.levelname == "WARNING"]

    assert 1 == len(warnings)
    assert "door: a picture cannot be shown by MQTT" in warnings[0]

    await watcher.close()
