"""The wall that every request passes: peer, host, origin, credential, content type; and the headers of every answer."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from aiohttp import web

from .auth import COOKIE
from .problems import ProblemError, to_problem

if TYPE_CHECKING:
    from aiohttp.typedefs import Handler, Middleware

    from .auth import Authenticator
    from .counters import Counters
    from .policy import ListenerPolicy

log = logging.getLogger("detr_sentry.gateway")

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_UNKNOWN_CREDENTIAL = "this needs the API token: send it as `Authorization: Bearer`, or open a session"


def guard(policy: ListenerPolicy, auth: Authenticator, counters: Counters, *, public: frozenset[str]) -> Middleware:
    """The middleware of one listener. `public` are the route names that need no credential."""

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        response: web.StreamResponse
        try:
            _check(request, policy, auth, public)
            response = await handler(request)
        except asyncio.CancelledError:
            raise
        except Exception as error:
            problem = to_problem(error)
            if problem is None:
                log.exception("%s %s failed", request.method, request.rel_url.path)
                problem = ProblemError(500, "internal", "the gateway failed; its log says more")
            if problem.status in {401, 403, 415, 421}:
                counters.count_refused(problem.code)
            response = problem.response()
        counters.count_request(response.status)
        return response

    return middleware


async def harden(_request: web.Request, response: web.StreamResponse) -> None:
    """Set the security headers that are not set yet, on streams as on everything else (a signal of the app)."""
    for name, value in _HEADERS.items():
        response.headers.setdefault(name, value)
    # Versions of what we are built on are nobody's business.
    response.headers["Server"] = "detr-sentry"


def _check(request: web.Request, policy: ListenerPolicy, auth: Authenticator, public: frozenset[str]) -> None:
    if not policy.allows_peer(request.remote):
        raise ProblemError(403, "peer_not_allowed", "this port answers Home Assistant's ingress only")
    if not policy.allows_host(request.headers.get("Host")):
        raise ProblemError(
            403, "host_not_allowed", "the Host header names an unknown host: add it to gateway.allowed_hosts"
        )
    upgrade = request.headers.get("Upgrade", "").lower() == "websocket"
    changes = request.method not in SAFE_METHODS
    _check_origin(request, policy, strict=upgrade or changes)
    if request.match_info.route.name not in public and policy.token_required:
        _check_credential(request, auth, changes=changes)
    # A plain form of another page can be sent without asking first; JSON cannot, and neither can DELETE.
    has_body = changes and (request.method != "DELETE" or request.body_exists)
    if has_body and request.content_type != "application/json":
        raise ProblemError(415, "unsupported_media_type", "send application/json")


def _check_origin(request: web.Request, policy: ListenerPolicy, *, strict: bool) -> None:
    origin = request.headers.get("Origin")
    site = request.headers.get("Sec-Fetch-Site")
    if origin is not None and strict:
        hosts = [request.headers.get("Host", "")]
        if policy.hosts is None and "X-Forwarded-Host" in request.headers:
            hosts.append(request.headers["X-Forwarded-Host"])
        if not policy.allows_origin(origin, scheme=request.scheme, hosts=tuple(hosts)):
            raise ProblemError(403, "origin_not_allowed", "a page of another origin may not do this")
        return
    # Browsers add Sec-Fetch-Site by themselves: another site may link to the page, but neither embed nor call the API.
    navigates = request.headers.get("Sec-Fetch-Mode") == "navigate" and not strict
    if site in {"cross-site", "same-site"} and not navigates:
        raise ProblemError(403, "origin_not_allowed", "a page of another origin may not do this")


def _check_credential(request: web.Request, auth: Authenticator, *, changes: bool) -> None:
    scheme, _space, secret = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer" and auth.is_token(secret.strip()):
        return
    ticket = request.query.get("ticket")
    if ticket is not None and not changes and auth.use_ticket(ticket):
        return
    session = request.cookies.get(COOKIE)
    if session is not None and auth.is_session(session):
        if changes and "Origin" not in request.headers and request.headers.get("Sec-Fetch-Site") != "same-origin":
            raise ProblemError(403, "origin_not_allowed", "a session may change things only from its own page")
        return
    raise ProblemError(401, "unauthorized", _UNKNOWN_CREDENTIAL, headers={"WWW-Authenticate": "Bearer"})
