"""What clients may send: queries and JSON bodies, checked by hand-sized rules that name the field at fault."""

from __future__ import annotations

import asyncio
import json
import math
import re
from typing import TYPE_CHECKING, Any

from .problems import ProblemError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aiohttp import web

MAX_BODY = 64 * 1024
# A body of this size takes a healthy client milliseconds; one that trickles holds a connection for no longer than this.
BODY_TIMEOUT_S = 10.0
EVENT_ID = re.compile(r"[0-9A-HJKMNP-TV-Z]{26}")
MODES = ("auto", "standby", "alarmed", "off")
MAX_DURATION_S = 30 * 86400.0
_DEPTH = 16


async def read_json(request: web.Request, known: Mapping[str, type | tuple[type, ...]] | None = None) -> dict[str, Any]:
    """The body as a JSON object; with `known`, its keys and types are checked. Raises ProblemError 400, 408, 422."""
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            raw = await request.read()
    except TimeoutError:
        raise ProblemError(408, "timeout", "the body did not arrive in time") from None
    try:
        body = json.loads(raw, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise ProblemError(400, "bad_json", "the body is not JSON") from error
    if not isinstance(body, dict):
        raise ProblemError(422, "invalid", "the body must be a JSON object")
    if _too_deep(body, _DEPTH):
        raise ProblemError(422, "invalid", f"the body is nested more than {_DEPTH} deep")
    if known is not None:
        _check_keys(body, known)
    return body


def number(query: Mapping[str, str], name: str, low: float, high: float) -> float | None:
    """A number of the query from `low` to `high`, None if it is absent. Raises ProblemError 422."""
    text = query.get(name)
    if text is None:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    # Python reads "1_000" and Arabic digits as numbers; the wire does not.
    if not low <= value <= high or not text.isascii() or "_" in text:
        raise ProblemError(422, "invalid", f"{name} must be a number from {low:g} to {high:g}")
    return value


def whole(query: Mapping[str, str], name: str, low: int, high: int) -> int | None:
    """A whole number of the query from `low` to `high`, None if it is absent. Raises ProblemError 422."""
    text = query.get(name)
    if text is None:
        return None
    if not re.fullmatch(r"[0-9]{1,9}", text) or not low <= int(text) <= high:
        raise ProblemError(422, "invalid", f"{name} must be a whole number from {low} to {high}")
    return int(text)


def flag(query: Mapping[str, str], name: str) -> bool:
    """A yes or no of the query, no if it is absent. Raises ProblemError 422."""
    text = query.get(name, "0")
    if text not in {"0", "1", "true", "false"}:
        raise ProblemError(422, "invalid", f"{name} must be 0 or 1")
    return text in {"1", "true"}


def event_id(text: str) -> str:
    """An event's ULID. Raises ProblemError 404: anything else never was one."""
    if not EVENT_ID.fullmatch(text):
        raise ProblemError(404, "unknown_event", "there is no such event")
    return text


def mode(body: Mapping[str, Any]) -> tuple[str, float | None]:
    """Mode and duration in seconds of a mode request. Raises ProblemError 422."""
    wanted, duration_s = body["mode"], body.get("duration")
    if wanted not in MODES:
        raise ProblemError(422, "invalid", f"mode must be one of {', '.join(MODES)}")
    if duration_s is not None and not 1 <= duration_s <= MAX_DURATION_S:
        raise ProblemError(422, "invalid", f"duration must be 1 to {MAX_DURATION_S:.0f} seconds, or absent")
    return wanted, None if duration_s is None else float(duration_s)


def _check_keys(body: Mapping[str, Any], known: Mapping[str, type | tuple[type, ...]]) -> None:
    for key in body:
        if key not in known:
            raise ProblemError(422, "invalid", f"{key[:64]!r} is not known here; known: {', '.join(known)}")
    for key, types in known.items():
        optional = isinstance(types, tuple) and type(None) in types
        if key not in body and not optional:
            raise ProblemError(422, "invalid", f"{key} is missing")
        value = body.get(key)
        allowed = types if isinstance(types, tuple) else (types,)
        if type(value) not in allowed and not (key not in body and optional):
            raise ProblemError(422, "invalid", f"{key} is of the wrong type")


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _too_deep(value: Any, levels: int) -> bool:
    if not isinstance(value, dict | list):
        return False
    below = value.values() if isinstance(value, dict) else value
    return levels == 0 or any(_too_deep(item, levels - 1) for item in below)
