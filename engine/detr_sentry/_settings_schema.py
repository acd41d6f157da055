"""The voluptuous schema of `sentry.yaml`: which keys exist, and which values each takes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import voluptuous as vol

from detr_sentry._settings_values import Zone

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

ID_PATTERN = re.compile(r"[a-z0-9_]{1,32}")
LOG_LEVELS = ("debug", "info", "warning", "error")
MAX_ZONES = 16  # bits of a detection's zone mask

PRESETS: Mapping[str, Mapping[str, Any]] = {
    "default": {},
    "reference": {"hits": 3, "window": 3, "exit_frames": 40, "hold_s": 0.0},
}


def _number(low: float, high: float, kind: Callable[[Any], Any] = float) -> Callable[[Any], Any]:
    """A number of `kind` from `low` to `high`; numeric text is taken, because the environment has only text."""

    def check(value: Any) -> Any:
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            raise vol.Invalid(f"must be a number from {low:g} to {high:g}")
        try:
            number = kind(value)
        except ValueError:
            raise vol.Invalid(f"must be a number from {low:g} to {high:g}, not {value!r}") from None
        if not low <= number <= high or (kind is int and float(value) != number):
            raise vol.Invalid(
                f"must be {'a whole' if kind is int else 'a'} number from {low:g} to {high:g}, not {value!r}"
            )
        return number

    return check


def _whole(low: int, high: int) -> Callable[[Any], Any]:
    return _number(low, high, int)


def _flag(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    known = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
    try:
        return known[str(value).lower()]
    except KeyError:
        raise vol.Invalid(f"must be true or false, not {value!r}") from None


def _choice(*allowed: str) -> Callable[[Any], str]:
    def check(value: Any) -> str:
        if value is False and "off" in allowed:  # YAML reads a bare `off` as false
            value = "off"
        if value not in allowed:
            raise vol.Invalid(f"must be one of {', '.join(allowed)}, not {value!r}")
        return str(value)

    return check


def _identifier(value: Any) -> str:
    if not isinstance(value, str) or not ID_PATTERN.fullmatch(value):
        raise vol.Invalid(f"must be 1 to 32 of a-z, 0-9 and _, not {value!r}")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise vol.Invalid(f"must be text, not {value!r}")
    if any(ord(character) < 32 for character in value):
        raise vol.Invalid("must not hold control characters")
    return value


def _path(value: Any) -> Path:
    return Path(_text(value)).expanduser()


def _texts(value: Any) -> tuple[str, ...]:
    items = [item.strip() for item in value.split(",")] if isinstance(value, str) else value
    if not isinstance(items, list | tuple):
        raise vol.Invalid(f"must be a list of texts, not {value!r}")
    return tuple(_text(item) for item in items if item != "")


def _zone(value: Any) -> Zone:
    point = vol.All(
        [_number(0, 1)], vol.Length(min=2, max=2, msg="each point is [x, y]"), lambda pair: (pair[0], pair[1])
    )
    shape = vol.Schema(
        {
            vol.Required("name"): _text,
            vol.Required("points"): vol.All([point], vol.Length(min=3, msg="a zone needs at least 3 points"), tuple),
        }
    )
    return Zone(**shape(value))


_SENTRY = {
    "preset": _choice(*PRESETS),
    "hits": _whole(1, 100),
    "window": _whole(1, 100),
    "enter_threshold": _number(0.01, 1),
    "stay_threshold": _number(0.01, 1),
    "min_area": _number(0, 1),
    "dwell_s": _number(0, 3600),
    "hold_s": _number(0, 3600),
    "exit_frames": _whole(1, 1000),
    "validating_timeout_s": _number(0.1, 60),
    "blind_after_s": _number(1, 600),
    "zones": vol.All([_zone], vol.Length(max=MAX_ZONES, msg=f"at most {MAX_ZONES} zones"), tuple),
}
_MOTION = {"enabled": _flag, "sensitivity": _number(0, 1), "keep_alive_s": _number(0.5, 30)}
_CAMERA = {
    "source": _text,
    "name": _text,
    "standby_source": _text,
    "width": _whole(16, 16384),
    "height": _whole(16, 16384),
    "fps": _number(0.1, 240),
    "standby_fps": _number(0.1, 60),
    "exposure": {"mode": _choice("camera", "limited"), "limit_ms": _number(0.1, 1000)},
    "motion": _MOTION,
    "sentry": _SENTRY,
}
SCHEMA = {
    "instance": _identifier,
    "name": _text,
    "state_dir": _path,
    "shm_root": _path,
    "log": {
        "level": _choice(*LOG_LEVELS),
        "format": _choice("human", "json"),
        "services": {str: _choice(*LOG_LEVELS)},
    },
    "telemetry": {"endpoint": _text, "sampling": _number(0, 1)},
    "gateway": {
        "host": _text,
        "port": _whole(0, 65535),
        "public_url": vol.All(_text, vol.Match(r"https?://", msg="must start with http:// or https://")),
        "allowed_hosts": _texts,
        "metrics_public": _flag,
        "ingress_port": _whole(1, 65535),
        "ingress_peer": _text,
    },
    "model": {
        "name": _text,
        "backend": _choice("auto", "onnxruntime", "openvino", "tensorrt"),
        "threads": _whole(1, 256),
        "labels": _texts,
        "cache_dir": _path,
    },
    "history": {
        "max_events": _whole(1, 1_000_000),
        "max_age_days": _number(0.01, 36500),
        "max_snapshot_mb": _number(1, 1_000_000),
    },
    "sentry": _SENTRY,
    "motion": _MOTION,
    "cameras": {_identifier: _CAMERA},
}
VALIDATE = vol.Schema(SCHEMA)
