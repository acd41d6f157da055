"""The commands on `mode/set`: a mode (`off`), or JSON `{"mode": "off", "duration": 900}` (seconds). Pure and strict."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, NoReturn

from detr_sentry.controller.modes import MAX_DURATION_S
from detr_sentry.errors import ControlError
from detr_sentry.sentry.events import Mode

MAX_BYTES = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class ModeCommand:
    """A mode, for `duration_s` or for good."""

    mode: Mode
    duration_s: float | None = None


def parse_command(payload: bytes) -> ModeCommand:
    """The command in a payload. Raises ControlError ("invalid") that repeats nothing of what was sent."""
    if len(payload) > MAX_BYTES:
        _refuse(f"{len(payload)} bytes are more than any command has")
    try:
        text = payload.decode()
    except UnicodeDecodeError:
        _refuse("it is not UTF-8 text")
    if not text.startswith("{"):
        return ModeCommand(mode=_mode(text))
    try:
        document = json.loads(text, object_pairs_hook=_once, parse_constant=_constant)
    except (ValueError, RecursionError):
        _refuse("it is not JSON")
    if not document.keys() <= {"mode", "duration"}:
        _refuse("it may hold mode and duration only")
    duration_s = document.get("duration")
    if duration_s is not None:
        is_number = isinstance(duration_s, int | float) and not isinstance(duration_s, bool)
        if not is_number or not 1 <= duration_s <= MAX_DURATION_S:
            _refuse(f"duration must be 1 to {MAX_DURATION_S:.0f} seconds")
    return ModeCommand(mode=_mode(document.get("mode")), duration_s=None if duration_s is None else float(duration_s))


def _mode(value: Any) -> Mode:
    if not isinstance(value, str) or value not in set(Mode):
        _refuse(f"mode must be one of {', '.join(Mode)}")
    return Mode(value)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) < len(pairs):
        raise ValueError
    return document


def _constant(_name: str) -> NoReturn:
    raise ValueError


def _refuse(reason: str) -> NoReturn:
    raise ControlError("invalid", reason)
