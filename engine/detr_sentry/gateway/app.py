"""The web application of one listener: routes, the guard in front of them, limits."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from . import inputs
from .api import Api
from .guard import guard, harden
from .sessions import Sessions
from .sockets import Sockets
from .static import INDEX, load_page, load_schema, serve

if TYPE_CHECKING:
    from .auth import Authenticator
    from .gateway import Gateway
    from .policy import ListenerPolicy

OPENAPI = "openapi.yaml"
CAMERA = "/api/v1/cameras/{camera}"
# Limits of a request line and of a header, and how long a connection may be silent or slow with its next request.
MAX_LINE = 4096
MAX_FIELD = 8190
IDLE_S = 30.0


def build_app(gateway: Gateway, policy: ListenerPolicy, auth: Authenticator) -> web.Application:
    """The app of a listener with this policy. It reads the page from disk, so call it outside a busy loop."""
    api, sockets, sessions = Api(gateway), Sockets(gateway), Sessions(auth, policy)
    page, description = load_page(), load_schema(OPENAPI)

    async def index(request: web.Request) -> web.Response:
        return serve(page, INDEX, request)

    async def asset(request: web.Request) -> web.Response:
        return serve(page, request.match_info["file"], request)

    async def openapi(_request: web.Request) -> web.Response:
        return web.Response(body=description, content_type="application/yaml", headers={"Cache-Control": "no-cache"})

    public = {"index", "asset", "openapi", "healthz", "readyz", "session"}
    if gateway.settings.gateway.metrics_public:
        public.add("metrics")
    app = web.Application(
        middlewares=[guard(policy, auth, gateway.counters, public=frozenset(public))], client_max_size=inputs.MAX_BODY
    )
    app.on_response_prepare.append(harden)

    async def say_goodbye(_app: web.Application) -> None:
        await sockets.close()

    app.on_shutdown.append(say_goodbye)
    app.add_routes(
        [
            web.get("/", index, name="index"),
            web.get("/healthz", api.healthz, name="healthz"),
            web.get("/readyz", api.readyz, name="readyz"),
            web.get("/metrics", api.metrics, name="metrics"),
            web.get(f"/api/v1/{OPENAPI}", openapi, name="openapi"),
            web.post("/api/v1/session", sessions.open, name="session"),
            web.delete("/api/v1/session", sessions.close),
            web.post("/api/v1/tickets", sessions.ticket),
            web.get("/api/v1/info", api.info),
            web.get("/api/v1/cameras", api.cameras),
            web.post(f"{CAMERA}/mode", api.set_mode),
            web.get(f"{CAMERA}/snapshot.jpg", api.snapshot),
            web.get(f"{CAMERA}/stream.mjpeg", sockets.mjpeg, allow_head=False),
            web.get(f"{CAMERA}/stream", sockets.stream, allow_head=False),
            web.get("/api/v1/live", sockets.live, allow_head=False),
            web.get("/api/v1/events", api.events),
            web.get("/api/v1/events/{event}/snapshot.jpg", api.event_snapshot),
            web.put("/api/v1/companion", api.claim),
            web.delete("/api/v1/companion", api.release),
            web.get("/api/v1/settings", api.settings),
            web.patch("/api/v1/settings", api.change_settings),
            web.get("/{file}", asset, name="asset"),
        ]
    )
    return app


class _NoProtocolErrors(logging.Filter):
    """What is not HTTP is answered with 400 and is no news: anyone who can connect could fill the log with it."""

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        return not isinstance(error, HttpProcessingError)


def make_runner(app: web.Application) -> web.AppRunner:
    """A runner with the limits that keep a hostile client from costing more than a connection."""
    logger = logging.getLogger("detr_sentry.gateway.http")
    if not logger.filters:
        logger.addFilter(_NoProtocolErrors())
    return web.AppRunner(
        app,
        logger=logger,
        access_log=None,
        handler_cancellation=True,
        keepalive_timeout=IDLE_S,
        max_line_size=MAX_LINE,
        max_field_size=MAX_FIELD,
        shutdown_timeout=0.2,
    )
