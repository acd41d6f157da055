"""Live video over a WebSocket, paced by the viewer's acknowledgements."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import deque
from typing import TYPE_CHECKING

from aiohttp import WSMsgType

if TYPE_CHECKING:
    from aiohttp import web

    from .counters import Counters
    from .feed import CameraFeed
    from .rendition import Rendition, Watcher
    from .writes import WriteWatch

# Two on the way hide one round trip at 30 fps; a third would only be older when it is shown.
CREDITS = 2
# An acknowledgement is a few bytes.
MAX_CLIENT_MESSAGE = 1024
# How often a viewer without pictures is looked after.
_IDLE_S = 1.0


class Pace:
    """When the next frame may go to a viewer who asked for `fps`; None or 0 means every frame."""

    def __init__(self, fps: float | None) -> None:
        self._period_s = 1 / fps if fps else 0.0
        self._next_at = 0.0

    def wait_s(self, now: float) -> float:
        """Seconds until the next frame is due; 0 if it is."""
        return max(0.0, self._next_at - now)

    def sent(self, now: float) -> None:
        """Count from when the frame was due, so that the rate is met on average, but never catch up a pause."""
        self._next_at = max(self._next_at, now - self._period_s) + self._period_s


class StreamSession:
    """One viewer: at most CREDITS unacknowledged frames, then the newest there is.

    Frames that came meanwhile are skipped and counted; nothing is queued for the viewer. Changes of state that no frame
    carries go out as messages without a picture, which take no credit.
    """

    def __init__(
        self, ws: web.WebSocketResponse, feed: CameraFeed, rendition: Rendition, writes: WriteWatch, counters: Counters
    ) -> None:
        self._ws = ws
        self._feed = feed
        self._rendition = rendition
        self._writes = writes
        self._counters = counters
        self._unacknowledged: deque[int] = deque()
        self._sent: tuple[int, int] | None = None
        self._said: object = None

    async def run(self, transport: asyncio.Transport | None, fps: float | None) -> None:
        """Serve until the viewer goes, or breaks the protocol."""
        with self._rendition.watch() as watcher:
            sender = asyncio.ensure_future(self._send(transport, watcher, Pace(fps)))
            sender.add_done_callback(lambda task: _hang_up(task, transport))
            try:
                async for message in self._ws:
                    if message.type is not WSMsgType.TEXT or not self._acknowledge(message.data):
                        await self._ws.close(code=1003, message=b'send {"ack": frame_number}')
                    watcher.event.set()
            finally:
                sender.cancel()
                with contextlib.suppress(asyncio.CancelledError, ConnectionError):
                    await sender

    def _acknowledge(self, text: str) -> bool:
        try:
            frame = json.loads(text)["ack"]
        except (ValueError, TypeError, KeyError, RecursionError):
            return False
        if not isinstance(frame, int):
            return False
        if frame in self._unacknowledged:
            while self._unacknowledged.popleft() != frame:
                pass
        return True

    async def _send(self, transport: asyncio.Transport | None, watcher: Watcher, pace: Pace) -> None:
        loop = asyncio.get_running_loop()
        while True:
            watcher.event.clear()
            now = loop.time()
            wait_s = pace.wait_s(now)
            packet = self._next_packet(watcher, due=wait_s <= 0)
            if packet is not None:
                with self._writes.writing(transport, now):
                    await self._ws.send_bytes(packet)
                self._counters.bytes_sent += len(packet)
                if self._unacknowledged:
                    pace.sent(now)
                continue
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s or _IDLE_S):
                    await watcher.event.wait()

    def _next_packet(self, watcher: Watcher, *, due: bool) -> bytes | None:
        info = None
        if due and len(self._unacknowledged) < CREDITS:
            info = self._rendition.newest(watcher, self._sent, self._feed.now_ns())
        if info is not None:
            if self._sent is not None and self._sent[0] == info.key[0]:
                self._counters.frames_skipped += info.key[1] - self._sent[1] - 1
            self._sent = info.key
            self._unacknowledged.append(info.frame_number)
            self._counters.frames_sent += 1
            self._said = self._feed.situation()
            return self._rendition.packet
        # A frame that only waits for its turn will carry the news by itself.
        if self._feed.frame is None and self._feed.situation() != self._said:
            self._said = self._feed.situation()
            return self._feed.status_packet()
        return None


def _hang_up(sender: asyncio.Task[None], transport: asyncio.Transport | None) -> None:
    """A sender that failed ends the connection, so that the receiving half ends too."""
    if not sender.cancelled() and transport is not None:
        transport.abort()
