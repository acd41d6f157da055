"""Live video as multipart JPEG, for players that know nothing better. The connection's own back-pressure paces it."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from aiohttp import web

from .stream import Pace

if TYPE_CHECKING:
    from .counters import Counters
    from .feed import CameraFeed
    from .writes import WriteWatch

_BOUNDARY = "detr-sentry-frame"
_IDLE_S = 1.0


async def serve_mjpeg(
    request: web.Request,
    feed: CameraFeed,
    *,
    fps: float | None,
    width: int | None,
    writes: WriteWatch,
    counters: Counters,
) -> web.StreamResponse:
    """Send frames until the client goes or the camera is switched off."""
    response = web.StreamResponse(
        headers={"Content-Type": f"multipart/x-mixed-replace; boundary={_BOUNDARY}", "Cache-Control": "no-store"}
    )
    # No length is known and no part may be delayed: the end of the connection is the end of the body.
    response.force_close()
    await response.prepare(request)
    loop = asyncio.get_running_loop()
    rendition, pace = feed.rendition(width), Pace(fps)
    sent: tuple[int, int] | None = None
    with rendition.watch() as watcher, contextlib.suppress(ConnectionError):
        while not feed.off and request.transport is not None:
            watcher.event.clear()
            now = loop.time()
            wait_s = pace.wait_s(now)
            info = rendition.newest(watcher, sent, feed.now_ns()) if wait_s <= 0 else None
            if info is not None:
                part = _part(rendition.jpeg, info.timestamp_ns)
                if sent is not None and sent[0] == info.key[0]:
                    counters.frames_skipped += info.key[1] - sent[1] - 1
                sent = info.key
                with writes.writing(request.transport, now):
                    await response.write(part)
                counters.frames_sent += 1
                counters.bytes_sent += len(part)
                pace.sent(now)
                continue
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s or _IDLE_S):
                    await watcher.event.wait()
    return response


def _part(jpeg: bytes, timestamp_ns: int) -> bytes:
    head = (
        f"--{_BOUNDARY}\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n"
        f"X-Timestamp: {timestamp_ns / 1e9:.6f}\r\n\r\n"
    )
    return b"".join((head.encode(), jpeg, b"\r\n"))
