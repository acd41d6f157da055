"""What the gateway does when others fail it: services, messages, pictures, its own handlers."""

from __future__ import annotations

import asyncio
import logging
import threading
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web

from detr_sentry.errors import BadFrameError, ControlError, SettingsError, StorageError
from detr_sentry.gateway import sockets
from detr_sentry.gateway.cameras import rfc3339
from detr_sentry.gateway.problems import to_problem
from detr_sentry.ipc.bells import Bell
from detr_sentry.ipc.messages import PixelFormat

if TYPE_CHECKING:
    from collections.abc import Callable

    from detr_sentry.gateway.pictures import Picture
    from tests.engine.gateway.conftest import Running

GRAY = bytes([128]) * (320 * 240)


@pytest.mark.parametrize(("service", "problem"), [("capture.door", "capture_dead"), ("inference", "inference_dead")])
async def test_a_dead_service_is_the_cameras_problem(running: Running, service: str, problem: str) -> None:
    before = running.gateway.camera("door")["problem"]
    await asyncio.to_thread((running.engine.layout.base / "heartbeat" / service).unlink)
    await running.gateway.beats.refresh()
    dead = running.gateway.camera("door")["problem"]
    running.engine.switch_off()
    await running.until(lambda: running.gateway.feeds["door"].off)

    assert (None, problem, None) == (before, dead, running.gateway.camera("door")["problem"])


async def test_the_controllers_word_on_a_problem_is_passed_on(running: Running) -> None:
    server = running.engine.server
    assert server is not None
    server.push("state", {"camera": {**running.engine.said(), "problem": "disk_full"}})
    await running.until(lambda: running.gateway.camera("door")["problem"] == "disk_full")
    async with running.viewer() as viewer:
        message = await viewer.receive()

    assert "disk_full" == message.head["problem"]


@pytest.mark.parametrize("stream", ["frames", "detections", "sentry"])
async def test_a_corrupt_message_is_counted_and_nothing_else(running: Running, stream: str) -> None:
    engine, counters, feed = running.engine, running.gateway.counters, running.gateway.feeds["door"]

    def scribble() -> None:
        folder = (engine.layout.stream("door", stream) / "current").resolve()  # type: ignore[arg-type]
        for slot in folder.glob("[0-9]*"):
            with slot.open("r+b") as file:
                file.seek(64)
                file.write(b"\xa5" * 64)

    await asyncio.to_thread(scribble)
    feed._sentry_key = feed._detections_key = None
    feed.frame = None
    feed.poll()
    counted = counters.corrupt_messages
    status, _ = await running.get("/api/v1/cameras")
    running.gateway.check()

    assert (1, 200) == (counted, status)


async def test_no_picture_is_shown_that_was_in_the_encoder_when_the_camera_was_switched_off(
    start: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    running: Running = await start(pixel_format=PixelFormat.GRAY8)
    rendition = running.gateway.feeds["door"].full
    encoding, go_on = threading.Event(), threading.Event()

    def slowly(_picture: Picture) -> bytes:
        encoding.set()
        assert go_on.wait(10)
        return b"a picture from before"

    monkeypatch.setattr(rendition, "_convert", slowly)
    await running.seen(running.engine.push_frame(GRAY))
    async with running.viewer() as viewer:
        await running.until(encoding.is_set)
        running.engine.switch_off()
        off = await viewer.receive()
        go_on.set()
        await rendition.close()
        nothing_more = await viewer.nothing_comes()

    assert ("off", b"", True) == (off.head["state"], off.jpeg, nothing_more)
    assert (1, b"", None) == (running.gateway.counters.encoded, rendition.jpeg, rendition.info)


async def test_a_picture_that_cannot_be_encoded_is_counted_and_the_next_one_shown(
    start: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    running: Running = await start(pixel_format=PixelFormat.GRAY8)
    rendition = running.gateway.feeds["door"].full
    convert = rendition._convert

    def fail_once(picture: Picture) -> bytes:
        monkeypatch.setattr(rendition, "_convert", convert)
        raise BadFrameError("test")

    monkeypatch.setattr(rendition, "_convert", fail_once)
    await running.seen(running.engine.push_frame(GRAY))
    async with running.viewer() as viewer:
        await running.until(lambda: running.gateway.counters.bad_frames == 1)
        number = running.engine.push_frame(GRAY)
        message = await viewer.receive()

    assert number == message.head["frame_number"]


async def test_a_broken_jpeg_without_tables_is_counted_and_the_next_one_shown(running: Running) -> None:
    broken = b"\xff\xd8\xff\xda\x00\x02" + bytes(50)
    await running.seen(running.engine.push_frame(broken))
    async with running.viewer() as viewer:
        await running.until(lambda: running.gateway.counters.bad_frames == 1)
        number = running.engine.push_frame()
        message = await viewer.receive()

    assert number == message.head["frame_number"]


@pytest.mark.parametrize(
    ("limit", "path"),
    [
        ("MAX_VIEWERS", "/api/v1/cameras/door/stream"),
        ("MAX_VIEWERS", "/api/v1/cameras/door/stream.mjpeg"),
        ("MAX_LISTENERS", "/api/v1/live"),
    ],
)
async def test_one_client_too_many_is_told_so(
    running: Running, monkeypatch: pytest.MonkeyPatch, limit: str, path: str
) -> None:
    monkeypatch.setattr(sockets, limit, 0)
    status, body = await running.get(path)

    assert (503, "too_many_clients") == (status, body["code"])


async def test_a_defect_is_a_problem_document_and_in_the_log(
    running: Running, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise RuntimeError("a secret detail")

    monkeypatch.setattr(running.gateway, "info", fail)
    with caplog.at_level(logging.ERROR):
        status, body = await running.get("/api/v1/info")

    assert (500, "internal") == (status, body["code"])
    assert "secret" not in str(body)
    assert "a secret detail" in caplog.text


async def test_a_bell_that_was_unlinked_is_made_anew(running: Running) -> None:
    engine = running.engine
    await asyncio.to_thread(Bell.unlink, engine.layout.bell("gateway"))
    engine.bell.refresh()
    await asyncio.sleep(0.3)
    frame = engine.push_frame()
    await running.seen(frame)
    async with running.viewer() as viewer:
        message = await viewer.receive()

    assert frame == message.head["frame_number"]


async def test_frames_come_even_if_no_bell_rings(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running.engine.bell, "ring", lambda: None)
    async with running.viewer() as viewer:
        await viewer.receive()
        number = running.engine.push_frame()
        message = await viewer.receive(timeout_s=1.5)

    assert number == message.head["frame_number"]


async def test_a_task_of_the_gateway_that_ends_is_no_secret(running: Running) -> None:
    async def fail() -> None:
        raise RuntimeError("broken")

    task = asyncio.create_task(fail())
    await asyncio.wait([task])
    running.gateway._tasks.append(task)
    with pytest.raises(RuntimeError, match="broken"):
        running.gateway.check()
    running.gateway._tasks.remove(task)


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (SettingsError("a.b", "is wrong"), 422, "bad_setting"),
        (StorageError("disk"), 507, "storage"),
        (ControlError("something_new", "?"), 502, "something_new"),
        (web.HTTPNotFound(), 404, "not_found"),
        (web.HTTPTeapot() if hasattr(web, "HTTPTeapot") else web.HTTPGone(), None, "error"),
    ],
)
def test_known_errors_have_a_meaning(error: Exception, status: int | None, code: str) -> None:
    problem = to_problem(error)

    assert problem is not None
    assert (status or problem.status, code) == (problem.status, problem.code)


def test_an_unknown_error_has_none() -> None:
    assert to_problem(RuntimeError("?")) is None


@pytest.mark.parametrize(
    ("unix_ns", "text"),
    [
        (1_700_000_000_123_456_789, "2023-11-14T22:13:20.123Z"),
        (0, None),
        (None, None),
        (2**63, "2262-04-11T23:47:16.854Z"),
        (2**80, None),
    ],
)
def test_times_are_rfc_3339(unix_ns: int | None, text: str | None) -> None:
    assert text == rfc3339(unix_ns)
