from __future__ import annotations

import asyncio
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
import simplejpeg
from aiohttp import WSMsgType

from detr_sentry.gateway.stream import Pace
from detr_sentry.ipc.messages import Mode, PixelFormat, State

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.engine.gateway.conftest import Running


async def test_a_frame_comes_with_its_header_and_the_cameras_own_jpeg(running: Running) -> None:
    running.engine.push_state(State.ALARMED, count=1)
    async with running.viewer() as viewer:
        message = await viewer.receive()

    assert running.engine.jpeg == message.jpeg
    age_ms = message.head.pop("detection_age_ms")
    assert 0 <= age_ms < 1000
    assert 0 <= message.head.pop("frame_age_ms") < 5000
    assert message.head.pop("timestamp_ns") > 0
    assert {
        "camera": "door",
        "frame_number": 1,
        "capture_epoch": 1,
        "width": 320,
        "height": 240,
        "jpeg_width": 320,
        "jpeg_height": 240,
        "fps": None,
        "state": "alarmed",
        "mode": "auto",
        "blind": False,
        "count": 1,
        "problem": None,
        "detections": [
            {
                "x1": 10.0,
                "y1": 20.0,
                "x2": 110.0,
                "y2": 220.0,
                "confidence": 0.875,
                "class_id": 1,
                "label": "person",
                "track_id": 7,
            }
        ],
        "detection_frame": 1,
    } == message.head


async def test_at_most_two_frames_are_unacknowledged_then_the_newest_goes(running: Running) -> None:
    engine = running.engine
    async with running.viewer() as viewer:
        first = await viewer.receive()
        second_number = engine.push_frame()
        second = await viewer.receive()
        for _ in range(5):
            newest = engine.push_frame()
            await running.seen(newest)
        blocked = await viewer.nothing_comes()
        skipped_before = running.gateway.counters.frames_skipped
        await viewer.acknowledge(first)
        third = await viewer.receive()

    assert second_number == second.head["frame_number"]
    assert blocked
    assert newest == third.head["frame_number"]
    assert 4 == running.gateway.counters.frames_skipped - skipped_before


async def test_an_acknowledgement_covers_the_frames_before_it(running: Running) -> None:
    engine = running.engine
    async with running.viewer() as viewer:
        await viewer.receive()
        engine.push_frame()
        second = await viewer.receive()
        await viewer.acknowledge(second)
        received = []
        for _ in range(2):
            await running.seen(engine.push_frame())
            received.append((await viewer.receive()).head["frame_number"])

    assert [3, 4] == received


async def test_an_acknowledgement_of_a_frame_never_sent_gives_no_credit(running: Running) -> None:
    engine = running.engine
    async with running.viewer() as viewer:
        await viewer.receive()
        engine.push_frame()
        await viewer.receive()
        await viewer.ws.send_json({"ack": 999_999})
        await running.seen(engine.push_frame())
        blocked = await viewer.nothing_comes()

    assert blocked


@pytest.mark.parametrize("text", ["", "ack", "[]", "{}", '{"ack": "1"}', '{"ack": null}', "[" * 500, "1e999"])
async def test_a_client_that_breaks_the_protocol_is_told_and_closed(running: Running, text: str) -> None:
    async with running.viewer() as viewer:
        await viewer.receive()
        await viewer.ws.send_str(text)
        message = await viewer.ws.receive(timeout=5)

    assert (WSMsgType.CLOSE, 1003) == (message.type, message.data)


async def test_a_client_message_larger_than_an_acknowledgement_ends_the_connection(running: Running) -> None:
    async with running.viewer() as viewer:
        await viewer.receive()
        await viewer.ws.send_str("x" * 100_000)
        message = await viewer.ws.receive(timeout=5)
        await running.until(lambda: running.gateway.counters.viewers == 0)

    assert (WSMsgType.CLOSE, 1009) == (message.type, message.data)


async def test_boxes_vanish_when_they_are_older_than_a_second(running: Running) -> None:
    engine = running.engine
    feed = running.gateway.feeds["door"]
    engine.push_detections((1, 2, 3, 4), age_s=1.1)
    await running.until(lambda: feed.detections is not None and not feed.detections.fresh(feed.now_ns()))
    engine.push_frame()
    await running.seen(engine.frame_number)
    async with running.viewer() as viewer:
        message = await viewer.receive()

    assert [] == message.head["detections"]
    assert message.head["detection_age_ms"] > 1000


async def test_switching_off_is_told_at_once_without_a_picture(running: Running) -> None:
    async with running.viewer() as viewer:
        await viewer.receive()
        running.engine.switch_off()
        message = await viewer.receive(timeout_s=1.0)

    assert b"" == message.jpeg
    assert ("off", "off", None) == (message.head["state"], message.head["mode"], message.head["frame_number"])
    assert [] == message.head["detections"]


async def test_a_viewer_without_credit_hears_of_off_too(running: Running) -> None:
    engine = running.engine
    async with running.viewer() as viewer:
        await viewer.receive()
        engine.push_frame()
        await viewer.receive()
        engine.switch_off()
        message = await viewer.receive(timeout_s=1.0)

    assert ("off", b"") == (message.head["state"], message.jpeg)


async def test_no_picture_from_before_off_is_ever_shown_again(running: Running) -> None:
    engine = running.engine
    async with running.viewer() as viewer:
        await viewer.acknowledge(await viewer.receive())
        engine.switch_off()
        await viewer.receive()
        feed = running.gateway.feeds["door"]
        kept = (feed.frame, feed.full.jpeg, feed.full.packet, feed.small.jpeg)
        async with running.viewer() as newcomer:
            first = await newcomer.receive()
            nothing_more = await newcomer.nothing_comes()
        engine.push_state(State.STANDBY, Mode.AUTO)
        again = engine.push_frame()
        back = await viewer.receive()
        if not back.jpeg:
            back = await viewer.receive()

    assert (None, b"", b"", b"") == kept
    assert ("off", b"") == (first.head["state"], first.jpeg)
    assert nothing_more
    assert again == back.head["frame_number"]


async def test_the_small_rendition_is_encoded_only_while_somebody_waits_for_it(start: Callable[..., Any]) -> None:
    running: Running = await start(width=1280, height=720)
    engine, counters = running.engine, running.gateway.counters
    await running.seen(engine.push_frame())
    async with running.viewer() as viewer:
        await viewer.receive()
        before = counters.encoded
        async with running.viewer("?width=400") as small:
            message = await small.receive()
            await running.seen(engine.push_frame())
            await small.receive()
            # Two frames are unacknowledged now: nothing is made for a viewer that could not take it.
            for _ in range(3):
                await running.seen(engine.push_frame())
            await asyncio.sleep(0.1)
        during = counters.encoded
        for _ in range(3):
            await running.seen(engine.push_frame())
        await asyncio.sleep(0.1)
        after = counters.encoded

    assert 0 == before
    assert 2 == during
    assert 2 == after
    assert (640, 360) == (message.head["jpeg_width"], message.head["jpeg_height"])
    assert (1280, 720) == (message.head["width"], message.head["height"])
    assert (360, 640) == simplejpeg.decode_jpeg_header(message.jpeg)[:2]


async def test_viewers_of_a_rendition_share_one_encoding(start: Callable[..., Any]) -> None:
    running: Running = await start(width=1280, height=720)
    engine, counters = running.engine, running.gateway.counters
    await running.seen(engine.push_frame())
    async with running.viewer("?width=640") as one, running.viewer("?width=320") as two:
        await asyncio.gather(one.receive(), two.receive())
        before = counters.encoded
        await running.seen(engine.push_frame())
        first, second = await asyncio.gather(one.receive(), two.receive())

    assert 1 == counters.encoded - before
    assert first.jpeg == second.jpeg


async def test_a_raw_camera_is_encoded_only_while_somebody_watches(start: Callable[..., Any]) -> None:
    running: Running = await start(pixel_format=PixelFormat.YUYV)
    engine, counters = running.engine, running.gateway.counters
    gray = bytes([128]) * (320 * 240 * 2)
    for _ in range(3):
        await running.seen(engine.push_frame(gray))
    idle = (counters.encoded, counters.frames_copied)
    async with running.viewer() as viewer:
        message = await viewer.receive()

    assert (0, 0) == idle
    assert 1 == counters.encoded
    assert (240, 320) == simplejpeg.decode_jpeg_header(message.jpeg)[:2]


async def test_nothing_is_copied_while_nobody_watches(running: Running) -> None:
    before = running.gateway.counters.frames_copied
    for _ in range(5):
        await running.seen(running.engine.push_frame())

    assert 0 == running.gateway.counters.frames_copied - before


async def test_the_wished_rate_is_kept(running: Running) -> None:
    engine = running.engine
    async with running.viewer("?fps=10") as viewer:
        await viewer.acknowledge(await viewer.receive())
        loop = asyncio.get_running_loop()
        began = loop.time()
        with engine.feeding(60):
            for _ in range(6):
                await viewer.acknowledge(await viewer.receive())
            took = loop.time() - began

    assert took >= 0.5


async def test_a_closed_viewer_leaves_nothing_behind(running: Running) -> None:
    async with running.viewer() as viewer:
        await viewer.receive()
    feed = running.gateway.feeds["door"]
    await running.until(lambda: running.gateway.counters.viewers == 0)

    assert (set(), b"") == (feed.full.watchers, feed.full.packet)


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/api/v1/cameras/nobody/stream", 404, "unknown_camera"),
        ("/api/v1/cameras/door/stream?fps=0", 422, "invalid"),
        ("/api/v1/cameras/door/stream?fps=nan", 422, "invalid"),
        ("/api/v1/cameras/door/stream?width=1e3", 422, "invalid"),
        ("/api/v1/cameras/door/stream", 426, "upgrade_required"),
        ("/api/v1/live", 426, "upgrade_required"),
    ],
)
async def test_what_cannot_be_streamed_is_a_problem(running: Running, path: str, status: int, code: str) -> None:
    answer_status, body = await running.get(path)

    assert (status, code) == (answer_status, body["code"])


def test_pace_meets_the_rate_on_average_and_never_catches_up_a_pause() -> None:
    pace = Pace(10)
    sent = []
    now = 100.0
    for _ in range(200):
        if pace.wait_s(now) <= 0:
            pace.sent(now)
            sent.append(now)
        now += 1 / 24 if len(sent) != 10 else 3.0

    before, after = sent[:10], sent[10:]
    assert len(before) - 1 == pytest.approx((before[-1] - before[0]) * 10, abs=1)
    assert len(after) - 1 == pytest.approx((after[-1] - after[0]) * 10, abs=1.5)
    assert all(later - earlier > 0.04 for earlier, later in pairwise(sent))


def test_pace_without_a_rate_never_waits() -> None:
    pace = Pace(None)
    pace.sent(5.0)

    assert 0 == pace.wait_s(5.0)
