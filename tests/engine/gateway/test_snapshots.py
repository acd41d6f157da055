from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import simplejpeg

from detr_sentry.ipc.messages import Mode, PixelFormat, State

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.engine.gateway.conftest import Running

PLAIN = "/api/v1/cameras/door/snapshot.jpg"
BOXED = f"{PLAIN}?boxes=1"
BOX = (100, 80, 200, 180)


def redness(jpeg: bytes, box: tuple[int, int, int, int] = BOX) -> float:
    """How much of the frame of `box` is drawn in red, 0 to 1."""
    rgb = simplejpeg.decode_jpeg(jpeg).astype(int)
    x1, y1, x2, y2 = box
    edge = np.concatenate([rgb[y2, x1:x2], rgb[y1:y2, x1], rgb[y1:y2, x2]])
    return float(np.mean((edge[:, 0] - edge[:, 1]) > 60))


async def test_a_plain_snapshot_is_the_cameras_own_jpeg(running: Running) -> None:
    status, body = await running.get(PLAIN)

    assert (200, running.engine.jpeg, 0) == (status, body, running.gateway.counters.encoded)


async def test_boxes_are_drawn_into_the_frame_that_they_were_found_in(
    start: Callable[..., Any], make_jpeg: Any
) -> None:
    running: Running = await start()
    engine = running.engine
    dark, bright = make_jpeg(320, 240, 30), make_jpeg(320, 240, 220)
    await running.seen(engine.push_frame(dark))
    engine.push_detections(BOX, frame=0)
    await running.until(lambda: running.gateway.feeds["door"].detections is not None)
    asked = asyncio.create_task(running.get(BOXED))
    await running.until(lambda: running.gateway.feeds["door"]._history_users > 0)
    looked_at = engine.push_frame(dark)
    await running.seen(looked_at)
    await running.seen(engine.push_frame(bright))
    engine.push_detections(BOX, frame=looked_at)
    status, body = await asked

    assert 200 == status
    assert redness(body) > 0.9
    assert simplejpeg.decode_jpeg(body)[220, 10].mean() < 60


async def test_detections_of_the_newest_frame_are_drawn_at_once(running: Running) -> None:
    running.engine.push_frame()
    running.engine.push_detections(BOX)
    feed = running.gateway.feeds["door"]
    await running.until(lambda: feed.detections is not None and feed.detections.frame_number == 2)
    status, body = await running.get(BOXED)

    assert (200, 1) == (status, running.gateway.counters.encoded)
    assert redness(body) > 0.9


async def test_boxes_too_weak_for_an_alarm_are_not_drawn(running: Running) -> None:
    running.engine.push_frame()
    running.engine.confidence = 0.3
    running.engine.push_detections(BOX)
    feed = running.gateway.feeds["door"]
    await running.until(lambda: feed.detections is not None and feed.detections.frame_number == 2)
    status, body = await running.get(BOXED)

    assert (200, running.engine.jpeg) == (status, body)


async def test_old_detections_are_not_drawn(running: Running) -> None:
    running.engine.push_frame()
    running.engine.push_detections(BOX, age_s=1.5)
    feed = running.gateway.feeds["door"]
    await running.until(lambda: feed.detections is not None and feed.detections.frame_number == 2)
    status, body = await running.get(BOXED)

    assert (200, running.engine.jpeg) == (status, body)


async def test_boxes_that_no_frame_matches_are_not_drawn_into_another(running: Running) -> None:
    running.engine.push_detections(BOX, frame=4_000)
    feed = running.gateway.feeds["door"]
    await running.until(lambda: feed.detections is not None and feed.detections.frame_number == 4_000)
    status, body = await running.get(BOXED)

    assert (200, running.engine.jpeg) == (status, body)
    assert {} == dict(feed._history)


async def test_many_who_ask_at_once_share_one_drawing(running: Running) -> None:
    running.engine.push_frame()
    running.engine.push_detections(BOX)
    feed = running.gateway.feeds["door"]
    await running.until(lambda: feed.detections is not None and feed.detections.frame_number == 2)
    answers = await asyncio.gather(*(running.get(BOXED) for _ in range(10)))

    assert {200} == {status for status, _ in answers}
    assert running.gateway.counters.encoded < 10


async def test_an_off_camera_shows_nothing(running: Running) -> None:
    running.engine.push_state(State.OFF, Mode.OFF)  # the ring still holds a frame at this moment
    await running.until(lambda: running.gateway.feeds["door"].off)
    answers = [await running.get(path) for path in (PLAIN, BOXED, "/api/v1/cameras/door/stream.mjpeg")]

    assert [(409, "camera_off")] * 3 == [(status, body["code"]) for status, body in answers]


async def test_switching_off_while_a_snapshot_waits_shows_nothing(running: Running) -> None:
    running.engine.push_detections(BOX, frame=9_000)
    feed = running.gateway.feeds["door"]
    await running.until(lambda: feed.detections is not None and feed.detections.frame_number == 9_000)
    asked = asyncio.create_task(running.get(BOXED))
    await running.until(lambda: feed._history_users > 0)
    running.engine.switch_off()
    status, body = await asked

    assert (409, "camera_off") == (status, body["code"])


async def test_no_frame_and_a_stale_frame_are_problems(start: Callable[..., Any]) -> None:
    running: Running = await start()
    none, problem = await running.get(PLAIN)
    await running.seen(running.engine.push_frame(age_s=11))
    stale, stale_problem = await running.get(PLAIN)

    assert (503, "no_frame") == (none, problem["code"])
    assert (503, "stale_frame") == (stale, stale_problem["code"])


async def test_a_broken_jpeg_is_a_problem_not_a_crash(running: Running) -> None:
    data = running.engine.jpeg[:100] + bytes(3000) + b"\xff\xd9"
    number = running.engine.push_frame(data)
    running.engine.push_detections(BOX, frame=number)
    feed = running.gateway.feeds["door"]
    await running.until(lambda: feed.detections is not None and feed.detections.frame_number == number)
    status, body = await running.get(BOXED)

    assert (503, "bad_frame", 1) == (status, body["code"], running.gateway.counters.bad_frames)


@pytest.mark.parametrize("query", ["?boxes=2", "?boxes=yes", "?boxes="])
async def test_a_wrong_query_is_refused(running: Running, query: str) -> None:
    status, body = await running.get(PLAIN + query)

    assert (422, "invalid") == (status, body["code"])


async def test_a_raw_camera_has_snapshots_too(start: Callable[..., Any]) -> None:
    running: Running = await start(pixel_format=PixelFormat.I420)
    await running.seen(running.engine.push_frame(bytes([100]) * (320 * 240 * 3 // 2)))
    status, body = await running.get(PLAIN)

    assert (200, (240, 320)) == (status, simplejpeg.decode_jpeg_header(body)[:2])
