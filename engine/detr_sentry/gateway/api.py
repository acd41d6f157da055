"""The HTTP handlers of /api/v1: thin; they check what came in, ask the gateway, and say it in JSON."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any

from aiohttp import web

from detr_sentry.settings import change_settings, describe

from . import inputs
from .cameras import public_event
from .hidden import keep_secrets
from .metrics import CONTENT_TYPE as METRICS_TYPE
from .metrics import render_metrics
from .problems import ProblemError
from .snapshots import Snapshots

if TYPE_CHECKING:
    from pathlib import Path

    from .gateway import Gateway

_NO_STORE = {"Cache-Control": "no-store"}
MAX_EVENTS = 500
# An alarm's picture is a camera JPEG; anything beyond this was not written by us.
MAX_SNAPSHOT_BYTES = 32 << 20


class Api:
    """Handlers over one gateway."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._snapshots = Snapshots(gateway)
        self._stored = gateway.settings
        self._described = describe(gateway.settings)
        self._changing = asyncio.Lock()

    async def healthz(self, _request: web.Request) -> web.Response:
        """Alive."""
        return web.Response(text="ok", headers=_NO_STORE)

    async def readyz(self, _request: web.Request) -> web.Response:
        """Ready once the rings of every camera are attached."""
        if not self._gateway.ready:
            waiting = [camera for camera, feed in self._gateway.feeds.items() if not feed.attached]
            raise ProblemError(503, "not_ready", f"waiting for the rings of {', '.join(waiting)}")
        return web.Response(text="ok", headers=_NO_STORE)

    async def metrics(self, _request: web.Request) -> web.Response:
        """Counters for Prometheus."""
        text = render_metrics(self._gateway)
        return web.Response(body=text.encode(), headers={**_NO_STORE, "Content-Type": METRICS_TYPE})

    async def info(self, _request: web.Request) -> web.Response:
        """What runs here."""
        return _json({**self._gateway.info(), "companion": self._gateway.link.companion})

    async def cameras(self, _request: web.Request) -> web.Response:
        """Every camera."""
        return _json({"cameras": self._gateway.cameras()})

    async def set_mode(self, request: web.Request) -> web.Response:
        """Change a camera's mode; answers with the camera as it then is."""
        camera = request.match_info["camera"]
        feed = self._gateway.feed(camera)
        body = await inputs.read_json(request, {"mode": str, "duration": (int, float, type(None))})
        mode, duration_s = inputs.mode(body)
        said = await self._gateway.link.call("set_mode", camera=camera, mode=mode, duration_s=duration_s)
        # The ring may be a wake-up behind the answer.
        feed.poll()
        return _json(
            {**self._gateway.camera(camera), **{key: said[key] for key in ("mode", "mode_until") if key in said}}
        )

    async def snapshot(self, request: web.Request) -> web.Response:
        """The newest picture, with boxes if asked."""
        feed = self._gateway.open_feed(request.match_info["camera"])
        if inputs.flag(request.query, "boxes"):
            return _jpeg(await self._snapshots.boxed(feed))
        return _jpeg(await self._snapshots.plain(feed))

    async def events(self, request: web.Request) -> web.Response:
        """Events, newest first, from before an id."""
        before = request.query.get("before")
        if before is not None and not inputs.EVENT_ID.fullmatch(before):
            raise ProblemError(422, "invalid", "before must be the id of an event")
        limit = inputs.whole(request.query, "limit", 1, MAX_EVENTS) or 50
        camera = request.query.get("camera")
        if camera is not None:
            self._gateway.feed(camera)
        result = await self._gateway.link.call("list_events", before=before, limit=limit, camera=camera)
        return _json({"events": [public_event(event) for event in result["events"]]})

    async def event_snapshot(self, request: web.Request) -> web.Response:
        """The picture of an event. Served from disk, so that it is there while the controller is not."""
        event = inputs.event_id(request.match_info["event"])
        path = self._gateway.settings.state_dir / "events" / f"{event}.jpg"
        found = await asyncio.to_thread(_read_jpeg, path)
        if found is None:
            raise ProblemError(404, "unknown_event", "there is no picture of such an event")
        # While an alarm lasts, a better picture replaces the one before.
        jpeg, etag = found
        headers = {"ETag": f'"{etag}"', "Cache-Control": "private, no-cache"}
        if any(tag.value == etag for tag in request.if_none_match or ()):
            return web.Response(status=304, headers=headers)
        return web.Response(body=jpeg, content_type="image/jpeg", headers=headers)

    async def claim(self, request: web.Request) -> web.Response:
        """A Home Assistant takes this engine as its own."""
        body = await inputs.read_json(request, {"ha_instance": str, "replace_mqtt_entities": bool})
        if not 0 < len(body["ha_instance"]) <= 128 or not body["ha_instance"].isprintable():
            raise ProblemError(422, "invalid", "ha_instance must be 1 to 128 printable characters")
        return _json(await self._gateway.link.call("set_companion", **body) or body)

    async def release(self, _request: web.Request) -> web.Response:
        """The claim ends; releasing what nobody claimed is no error."""
        await self._gateway.link.call("clear_companion")
        return web.Response(status=204)

    async def settings(self, _request: web.Request) -> web.Response:
        """Every setting with its origin."""
        return _json({"settings": self._described, "file": _text(self._gateway.settings.file)})

    async def change_settings(self, request: web.Request) -> web.Response:
        """Store changes in the settings file."""
        changes = await inputs.read_json(request)
        settings = self._gateway.settings
        if settings.file is None:
            raise ProblemError(409, "no_settings_file", "started without a settings file: use --config FILE")
        async with self._changing:
            changes = keep_secrets(changes, self._stored)
            self._stored = await asyncio.to_thread(change_settings, settings, changes)
            stored = describe(self._stored)
            stronger = {key: entry for key, entry in self._described.items() if _beats_file(entry["origin"])}
            self._described = {**stored, **stronger}
        supervised = await asyncio.to_thread(self._gateway.layout.heartbeat("supervisor").exists)
        applied = (
            "the services concerned restart within a second" if supervised else "at the next start of the services"
        )
        return _json({"settings": self._described, "file": _text(settings.file), "applied": applied})


def _json(value: Any, status: int = 200) -> web.Response:
    return web.json_response(value, status=status, headers=_NO_STORE)


def _jpeg(jpeg: bytes) -> web.Response:
    return web.Response(body=jpeg, content_type="image/jpeg", headers=_NO_STORE)


def _read_jpeg(path: Path) -> tuple[bytes, str] | None:
    """A picture and its tag, which changes with the file."""
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            return file.read(MAX_SNAPSHOT_BYTES), f"{status.st_mtime_ns:x}-{status.st_size:x}"
    except FileNotFoundError:
        return None


def _beats_file(origin: str) -> bool:
    return origin.startswith("environment") or origin in {"app options", "command line"}


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)
