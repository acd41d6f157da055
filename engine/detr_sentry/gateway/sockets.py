"""The handlers that keep a connection open: the video stream, MJPEG and the live feed."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from contextlib import contextmanager
from typing import TYPE_CHECKING

from aiohttp import WSMsgType, web

from . import inputs
from .live import encode
from .mjpeg import serve_mjpeg
from .problems import ProblemError
from .stream import MAX_CLIENT_MESSAGE, StreamSession

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .gateway import Gateway
    from .live import Listener

log = logging.getLogger("detr_sentry.gateway")

MAX_VIEWERS = 256
MAX_LISTENERS = 256
PING_S = 15.0
# The kernel notices a peer that vanished: after 60 s without an answer to data or to three probes.
_KEEPALIVE = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 30),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
)
# Unsent bytes that the kernel takes from us: more would only grow old there (and count as memory).
_UNSENT = (socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, 256 * 1024)


class Sockets:
    """Handlers over one gateway; `close` ends every connection that they hold open."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._open: set[web.WebSocketResponse] = set()

    async def mjpeg(self, request: web.Request) -> web.StreamResponse:
        """Multipart JPEG until the client goes."""
        feed = self._gateway.open_feed(request.match_info["camera"])
        fps = inputs.number(request.query, "fps", 0.1, 240)
        width = inputs.whole(request.query, "width", 16, 16384)
        _tune(request.transport)
        with self._viewer():
            return await serve_mjpeg(
                request, feed, fps=fps, width=width, writes=self._gateway.writes, counters=self._gateway.counters
            )

    async def stream(self, request: web.Request) -> web.WebSocketResponse:
        """Video with detections, paced by acknowledgements. Open also while the camera is off."""
        feed = self._gateway.feed(request.match_info["camera"])
        fps = inputs.number(request.query, "fps", 0.1, 240)
        width = inputs.whole(request.query, "width", 16, 16384)
        with self._viewer():
            ws = await self._upgrade(request)
            session = StreamSession(ws, feed, feed.rendition(width), self._gateway.writes, self._gateway.counters)
            with self._held(ws):
                await session.run(request.transport, fps)
            return ws

    async def live(self, request: web.Request) -> web.WebSocketResponse:
        """The full state once, then every change."""
        detections = inputs.flag(request.query, "detections")
        counters = self._gateway.counters
        if counters.live >= MAX_LISTENERS:
            raise ProblemError(503, "too_many_clients", f"{MAX_LISTENERS} live listeners are connected already")
        counters.live += 1
        listener = self._gateway.live.join(detections=detections)
        try:
            ws = await self._upgrade(request)
            with self._held(ws):
                await self._tell(ws, request.transport, listener)
            return ws
        finally:
            self._gateway.live.leave(listener)
            counters.live -= 1

    async def close(self) -> None:
        """Say goodbye to everyone, for a moment."""
        closing = [asyncio.ensure_future(ws.close(code=1001, message=b"restarting")) for ws in self._open]
        if closing:
            _done, late = await asyncio.wait(closing, timeout=0.2)
            for task in late:
                task.cancel()

    async def _tell(self, ws: web.WebSocketResponse, transport: asyncio.Transport | None, listener: Listener) -> None:
        sender = asyncio.ensure_future(self._send(ws, transport, listener))
        sender.add_done_callback(lambda task: transport.abort() if transport and not task.cancelled() else None)
        try:
            async for message in ws:
                # The one thing to say here is that the listener lost count and wants the state anew.
                if message.type is not WSMsgType.TEXT or message.data != '{"type":"snapshot"}':
                    await ws.close(code=1003, message=b'send {"type":"snapshot"} or nothing')
                listener.resync()
        finally:
            sender.cancel()
            with contextlib.suppress(asyncio.CancelledError, ConnectionError):
                await sender

    async def _send(self, ws: web.WebSocketResponse, transport: asyncio.Transport | None, listener: Listener) -> None:
        loop = asyncio.get_running_loop()
        ping_at = loop.time() + PING_S
        while True:
            listener.event.clear()
            now = loop.time()
            message = listener.take(self._gateway.live.snapshot)
            if message is None and now >= ping_at:
                ping_at = now + PING_S
                message = encode({"type": "ping", "seq": self._gateway.live.seq})
            if message is not None:
                with self._gateway.writes.writing(transport, now):
                    await ws.send_str(message)
                continue
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.01, ping_at - now)):
                    await listener.event.wait()

    async def _upgrade(self, request: web.Request) -> web.WebSocketResponse:
        ws = web.WebSocketResponse(max_msg_size=MAX_CLIENT_MESSAGE, compress=False, timeout=1.0)
        if not ws.can_prepare(request).ok:
            raise ProblemError(
                426,
                "upgrade_required",
                "open a WebSocket here",
                headers={"Upgrade": "websocket", "Connection": "Upgrade"},
            )
        await ws.prepare(request)
        _tune(request.transport)
        return ws

    @contextmanager
    def _viewer(self) -> Iterator[None]:
        counters = self._gateway.counters
        if counters.viewers >= MAX_VIEWERS:
            raise ProblemError(503, "too_many_clients", f"{MAX_VIEWERS} viewers are connected already")
        counters.viewers += 1
        try:
            yield
        finally:
            counters.viewers -= 1

    @contextmanager
    def _held(self, ws: web.WebSocketResponse) -> Iterator[None]:
        """While a socket serves. The answer has begun, so a failure is logged and becomes no problem document."""
        self._open.add(ws)
        try:
            yield
        except ConnectionError as error:
            log.debug("a client has gone: %s", error)
        except Exception:
            log.exception("a stream failed")
        finally:
            self._open.discard(ws)


def _tune(transport: asyncio.Transport | None) -> None:
    raw = transport.get_extra_info("socket") if transport is not None else None
    if raw is None:
        return
    with contextlib.suppress(OSError):
        for option in (*_KEEPALIVE, _UNSENT):
            raw.setsockopt(*option)
