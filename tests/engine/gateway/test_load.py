"""Many viewers, slow viewers, hostile connections: what one of them costs the others."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from aiohttp import ClientSession, DummyCookieJar, TCPConnector
from yarl import URL

from detr_sentry.gateway import app as app_module
from detr_sentry.gateway import inputs
from detr_sentry.gateway.counters import Counters
from detr_sentry.gateway.writes import STALL_S, WriteWatch

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from tests.engine.gateway.conftest import Running

STREAM = "/api/v1/cameras/door/stream"
MJPEG = "/api/v1/cameras/door/stream.mjpeg"


async def watch(http: ClientSession, frames: list[int], *, acknowledge: bool = True) -> None:
    """A viewer that takes and acknowledges everything until it is cancelled."""
    async with http.ws_connect(STREAM) as ws:
        async for message in ws:
            header = message.data[4 : 4 + int.from_bytes(message.data[:4], "little")]
            number = int(header.split(b'"frame_number":', 1)[1].split(b",", 1)[0])
            frames.append(number)
            if acknowledge:
                await ws.send_str(f'{{"ack":{number}}}')


@contextlib.asynccontextmanager
async def silent_client(running: Running, path: str) -> AsyncIterator[asyncio.StreamWriter]:
    """Asks for a stream and never reads a byte of it."""
    url = URL(running.url)
    # A limit of 1 byte stops the reader of this test from taking data off the socket.
    reader, writer = await asyncio.open_connection(url.host, url.port, limit=1)
    upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    upgrade += "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    head = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{upgrade if path == STREAM else ''}\r\n"
    writer.write(head.encode())
    try:
        yield writer
    finally:
        del reader
        writer.transport.abort()


@pytest.mark.timeout(60)
async def test_64_viewers_each_get_their_frames(start: Callable[..., Any], make_jpeg: Any) -> None:
    running: Running = await start(width=1280, height=720)
    running.engine.jpeg = make_jpeg(1280, 720, noise=12)
    running.engine.push_frame()
    http = ClientSession(running.url, connector=TCPConnector(limit=0), cookie_jar=DummyCookieJar())
    seen: list[list[int]] = [[] for _ in range(64)]
    viewers = [asyncio.create_task(watch(http, frames)) for frames in seen]
    await running.until(lambda: all(seen), timeout_s=20)
    before = [len(frames) for frames in seen]
    pushed = running.engine.frame_number
    with running.engine.feeding(10):
        await asyncio.sleep(3)
    pushed = running.engine.frame_number - pushed
    await running.until(lambda: min(frames[-1] for frames in seen) == running.engine.frame_number, timeout_s=10)
    for viewer in viewers:
        viewer.cancel()
    await asyncio.gather(*viewers, return_exceptions=True)
    await http.close()
    received = [len(frames) - count for frames, count in zip(seen, before, strict=True)]

    assert all(frames == sorted(set(frames)) for frames in seen)
    # The newest frame wins, so a busy machine may skip some; nobody may starve.
    assert min(received) >= 0.5 * pushed
    assert 0 == running.gateway.counters.encoded


@pytest.mark.timeout(60)
async def test_clients_that_do_not_read_cost_the_others_nothing_and_memory_stays_flat(
    start: Callable[..., Any], make_jpeg: Any
) -> None:
    running: Running = await start(width=1280, height=720)
    running.engine.jpeg = make_jpeg(1280, 720, noise=40)
    running.engine.push_frame()
    frames: list[int] = []
    process = await asyncio.to_thread(psutil.Process)
    good = asyncio.create_task(watch(running.http, frames))

    async def share(for_s: float) -> float:
        """How many of the frames pushed meanwhile the good viewer got."""
        got, pushed = len(frames), running.engine.frame_number
        await asyncio.sleep(for_s)
        return (len(frames) - got) / (running.engine.frame_number - pushed)

    async with contextlib.AsyncExitStack() as stack:
        stack.enter_context(running.engine.feeding(30))
        alone = await share(2)
        for path in [STREAM, MJPEG] * 5:
            await stack.enter_async_context(silent_client(running, path))
        await running.until(lambda: running.gateway.counters.viewers == 11)
        await asyncio.sleep(1.5)  # until every buffer between the gateway and the silent ones is full
        gc.collect()
        before = (await asyncio.to_thread(process.memory_info)).rss
        together = await share(4)
        gc.collect()
        grown = (await asyncio.to_thread(process.memory_info)).rss - before
        good.cancel()
        await asyncio.gather(good, return_exceptions=True)

    assert len(running.engine.jpeg) > 150_000
    assert together >= 0.8 * alone, f"{together:.0%} of the frames instead of {alone:.0%}"
    assert grown < 5 << 20, f"grew by {grown / (1 << 20):.1f} MiB"


class StuckTransport:
    """Only what WriteWatch looks at; a real socket takes minutes to be certainly stuck."""

    def __init__(self) -> None:
        self.buffered = 1000
        self.aborted = False

    def get_write_buffer_size(self) -> int:
        return self.buffered

    def is_closing(self) -> bool:
        return self.aborted

    def abort(self) -> None:
        self.aborted = True


def test_a_client_that_takes_nothing_is_let_go_and_a_slow_one_is_not() -> None:
    counters = Counters()
    watched = WriteWatch(counters)
    stuck, slow = StuckTransport(), StuckTransport()
    with watched.writing(stuck, 0.0), watched.writing(slow, 0.0):  # type: ignore[arg-type]
        for second in range(0, int(STALL_S) + 6, 5):
            slow.buffered -= 1
            watched.sweep(float(second))
        aborted = (stuck.aborted, slow.aborted)
    with pytest.raises(ConnectionResetError), watched.writing(stuck, 0.0):  # type: ignore[arg-type]
        pass
    watched.sweep(1e9)

    assert (True, False) == aborted
    assert (1, False) == (counters.stalled_clients, slow.aborted)


async def test_a_slow_body_is_given_up(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inputs, "BODY_TIMEOUT_S", 0.2)
    reader, writer = await asyncio.open_connection(URL(running.url).host, URL(running.url).port)
    writer.write(
        b"POST /api/v1/cameras/door/mode HTTP/1.1\r\nHost: 127.0.0.1\r\n"
        b"Content-Type: application/json\r\nContent-Length: 1000\r\n\r\n{"
    )
    answer = await asyncio.wait_for(reader.readline(), 5)
    writer.close()

    assert b"408" in answer


async def test_slow_headers_are_given_up(start: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app_module, "IDLE_S", 0.5)
    running: Running = await start()
    reader, writer = await asyncio.open_connection(URL(running.url).host, URL(running.url).port)
    ended = asyncio.ensure_future(reader.read())
    with contextlib.suppress(ConnectionError):
        for byte in b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: " + b"x" * 200:
            writer.write(bytes([byte]))
            await writer.drain()
            if ended.done():
                break
            await asyncio.sleep(0.05)
    closed = ended.done()
    with contextlib.suppress(ConnectionError):
        await ended
    writer.close()

    assert closed


@pytest.mark.parametrize("size", [20_000, 1_000_000])
async def test_large_headers_are_refused(running: Running, size: int) -> None:
    reader, writer = await asyncio.open_connection(URL(running.url).host, URL(running.url).port)
    with contextlib.suppress(ConnectionError):
        writer.write(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Large: " + b"x" * size + b"\r\n\r\n")
        await writer.drain()
    try:
        answer = await asyncio.wait_for(reader.readline(), 5)
    except ConnectionError:
        answer = b""  # closed before it was read to the end: refused as well
    writer.close()

    assert answer == b"" or b" 400 " in answer
