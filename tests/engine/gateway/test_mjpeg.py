from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import simplejpeg

if TYPE_CHECKING:
    from aiohttp import ClientResponse

    from tests.engine.gateway.conftest import Running

PATH = "/api/v1/cameras/door/stream.mjpeg"


async def read_part(response: ClientResponse) -> bytes:
    """The JPEG of the next part."""
    async with asyncio.timeout(5):
        length = 0
        while (line := await response.content.readline()) != b"\r\n":
            assert line, "the stream ended"
            name, _, value = line.partition(b":")
            if name.lower() == b"content-length":
                length = int(value)
        jpeg = await response.content.readexactly(length)
        assert await response.content.readexactly(2) == b"\r\n"
        return jpeg


async def test_each_part_is_the_cameras_own_jpeg(running: Running) -> None:
    async with running.http.get(PATH) as response:
        first = await read_part(response)
        running.engine.push_frame(running.engine.jpeg)
        second = await read_part(response)

    assert "multipart/x-mixed-replace" == response.content_type
    assert [running.engine.jpeg] * 2 == [first, second]


async def test_a_narrow_player_gets_the_small_rendition(running: Running) -> None:
    running.engine.width, running.engine.height = 320, 240
    async with running.http.get(f"{PATH}?width=160") as response:
        jpeg = await read_part(response)

    assert (240, 320) == simplejpeg.decode_jpeg_header(jpeg)[:2]  # never enlarged


async def test_the_wished_rate_is_kept(running: Running) -> None:
    loop = asyncio.get_running_loop()
    async with running.http.get(f"{PATH}?fps=10") as response:
        await read_part(response)
        began = loop.time()
        with running.engine.feeding(60):
            for _ in range(5):
                await read_part(response)
            took = loop.time() - began

    assert took >= 0.4


async def test_the_stream_ends_when_the_camera_is_switched_off(running: Running) -> None:
    async with running.http.get(PATH) as response:
        await read_part(response)
        running.engine.switch_off()
        async with asyncio.timeout(5):
            rest = await response.content.read()

    assert b"" == rest


async def test_a_player_that_goes_leaves_nothing_behind(running: Running) -> None:
    async with running.http.get(PATH) as response:
        await read_part(response)
    feed = running.gateway.feeds["door"]
    with running.engine.feeding(30):
        await running.until(lambda: running.gateway.counters.viewers == 0)

    assert (set(), b"") == (feed.full.watchers, feed.full.jpeg)
