"""How a browser or a player gets a credential that is not the token."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from aiohttp import web

from . import inputs
from .auth import COOKIE, SESSION_S, TICKET_S
from .problems import ProblemError

if TYPE_CHECKING:
    from .auth import Authenticator
    from .policy import ListenerPolicy

# A wrong token costs the asker this long; the token itself is far beyond guessing, so this only quietens the log.
_WRONG_DELAY_S = 0.25


class Sessions:
    """Handlers for sessions and tickets of one listener."""

    def __init__(self, auth: Authenticator, policy: ListenerPolicy) -> None:
        self._auth = auth
        self._policy = policy

    async def open(self, request: web.Request) -> web.Response:
        """Trade the token for a cookie."""
        body = await inputs.read_json(request, {"token": str})
        response = web.Response(status=204, headers={"Cache-Control": "no-store"})
        if not self._policy.token_required:
            return response
        if not self._auth.is_token(body["token"]):
            await asyncio.sleep(_WRONG_DELAY_S)
            raise ProblemError(401, "unauthorized", "this is not the token", headers={"WWW-Authenticate": "Bearer"})
        secure = request.secure or request.headers.get("Origin", "").startswith("https://")
        response.set_cookie(
            COOKIE,
            self._auth.open_session(),
            max_age=SESSION_S,
            path="/",
            httponly=True,
            samesite="Strict",
            secure=secure,
        )
        return response

    async def close(self, request: web.Request) -> web.Response:
        """Forget the session."""
        self._auth.close_session(request.cookies.get(COOKIE, ""))
        response = web.Response(status=204, headers={"Cache-Control": "no-store"})
        response.del_cookie(COOKIE, path="/", httponly=True, samesite="Strict")
        return response

    async def ticket(self, request: web.Request) -> web.Response:
        """A ticket for one GET, for players that cannot send headers."""
        await inputs.read_json(request, {})
        return web.json_response(
            {"ticket": self._auth.issue_ticket(), "expires_in": TICKET_S},
            status=201,
            headers={"Cache-Control": "no-store"},
        )
