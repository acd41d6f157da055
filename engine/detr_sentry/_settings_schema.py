"""The voluptuous schema of `sentry.yaml`: which keys exist, and which values each takes."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import voluptuous as vol

from detr_sentry._settings_values import Zone

if TYPE_CHECKING:
    from collections.abc import Mapping

ID_PATTERN = re.compile(r"[a-z0-9_]{1,32}")
LOG_LEVELS = ("debug", "info", "warning", "error")
MAX_ZONES = 16  # bits of a detection's zone mask
MAX_PREFIX = 128

PRESETS: Mapping[str, Mapping[str, Any]] = {
    "default": {},
    "reference": {"hits": 3, "window": 3, "exit_frames": 40, "hold_s": 0.0},
}


@dataclass(frozen=True, slots=True)
class Number:
    """A number from `low` to `high`; numeric text is taken, because the environment has only text."""

    low: float
    high: float
    whole: bool = False

    def __call__(self, value: Any) -> float | int:
        """The number. Raises vol.Invalid naming the range."""
        wanted = f"must be {'a whole' if self.whole else 'a'} number from {self.low:g} to {self.high:g}, not {value!r}"
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            raise vol.Invalid(wanted)
        try:
            number = float(value)
        except (ValueError, OverflowError):
            raise vol.Invalid(wanted) from None
        if not self.low <= number <= self.high or (self.whole and number != int(number)):
            raise vol.Invalid(wanted)
        return int(number) if self.whole else number


@dataclass(frozen=True, slots=True)
class Choice:
    """One of a few words."""

    allowed: tuple[str, ...]

    def __call__(self, value: Any) -> str:
        """The word. Raises vol.Invalid naming the allowed ones."""
        if value not in self.allowed:
            raise vol.Invalid(f"must be one of {', '.join(self.allowed)}, not {value!r}")
        return str(value)


def flag(value: Any) -> bool:
    """True or false, also in the words of YAML and shells. Raises vol.Invalid."""
    if isinstance(value, bool):
        return value
    known = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
    try:
        return known[str(value).lower()]
    except KeyError:
        raise vol.Invalid(f"must be true or false, not {value!r}") from None


def identifier(value: Any) -> str:
    """An id that fits paths, queues and topics. Raises vol.Invalid."""
    if not isinstance(value, str) or not ID_PATTERN.fullmatch(value):
        raise vol.Invalid(f"must be 1 to 32 of a-z, 0-9 and _, not {value!r}")
    return value


def text(value: Any) -> str:
    """Text of one line. Raises vol.Invalid."""
    if not isinstance(value, str) or not value.strip():
        raise vol.Invalid(f"must be text, not {value!r}")
    if any(ord(character) < 32 for character in value):
        raise vol.Invalid("must not hold control characters")
    return value


def web_address(value: Any) -> str:
    """An http or https URL. Raises vol.Invalid."""
    if not text(value).startswith(("http://", "https://")):
        raise vol.Invalid(f"must start with http:// or https://, not {value!r}")
    return str(value)


def mirror(value: Any) -> str:
    """An http or https URL without credentials, or a folder; `~` is the home folder. Raises vol.Invalid."""
    if "://" not in text(value):
        return str(Path(value).expanduser())
    try:
        parts = urlsplit(value)
    except ValueError as error:
        raise vol.Invalid(f"is not a URL: {error}") from None
    if parts.scheme not in {"http", "https"} or "@" in parts.netloc or not parts.hostname:
        raise vol.Invalid("must be a folder, or an http or https URL with a host and without user name and password")
    return str(value).rstrip("/")


def secret(value: Any) -> str:
    """Text that no message repeats. Raises vol.Invalid."""
    if not isinstance(value, str) or not value:
        raise vol.Invalid("must be text: put it in quotes")
    if any(ord(character) < 32 for character in value):
        raise vol.Invalid("must not hold control characters")
    return value


def topic_prefix(value: Any) -> str:
    """The first levels of MQTT topics. Raises vol.Invalid."""
    levels = text(value).split("/")
    if not all(levels) or set(value) & set("+#") or value.startswith("$") or len(value) > MAX_PREFIX:
        raise vol.Invalid(f"must be an MQTT topic of up to {MAX_PREFIX} characters without +, #, $, not {value!r}")
    return str(value)


def path(value: Any) -> Path:
    """A path; `~` is the home folder. Raises vol.Invalid."""
    return Path(text(value)).expanduser()


def texts(value: Any) -> tuple[str, ...]:
    """A list of texts, or one text with commas. Raises vol.Invalid."""
    items = [item.strip() for item in value.split(",")] if isinstance(value, str) else value
    if not isinstance(items, list | tuple):
        raise vol.Invalid(f"must be a list of texts, not {value!r}")
    return tuple(text(item) for item in items if item != "")


def point(value: Any) -> tuple[float, float]:
    """A point as [x, y], shares of the picture. Raises vol.Invalid."""
    x, y = vol.Schema(vol.All([Number(0, 1)], vol.Length(min=2, max=2, msg="each point is [x, y]")))(value)
    return x, y


def zone(value: Any) -> Zone:
    """A zone from its name and at least three points. Raises vol.Invalid."""
    corners = vol.All([point], vol.Length(min=3, msg="a zone needs at least 3 points"))
    shape = vol.Schema({vol.Required("name"): text, vol.Required("points"): corners})(value)
    return Zone(name=shape["name"], points=tuple(shape["points"]))


def zones(value: Any) -> tuple[Zone, ...]:
    """As many zones as a detection's zone mask has bits. Raises vol.Invalid."""
    return tuple(vol.Schema(vol.All([zone], vol.Length(max=MAX_ZONES, msg=f"at most {MAX_ZONES} zones")))(value))


_SENTRY = {
    "preset": Choice(tuple(PRESETS)),
    "hits": Number(1, 100, whole=True),
    "window": Number(1, 100, whole=True),
    "enter_threshold": Number(0.01, 1),
    "stay_threshold": Number(0.01, 1),
    "min_area": Number(0, 1),
    "dwell_s": Number(0, 3600),
    "hold_s": Number(0, 3600),
    "exit_frames": Number(1, 1000, whole=True),
    "validating_timeout_s": Number(0.1, 60),
    "blind_after_s": Number(1, 600),
    "zones": zones,
}
_MOTION = {"enabled": flag, "sensitivity": Number(0, 1), "keep_alive_s": Number(0.5, 30)}
_CAMERA = {
    "source": text,
    "name": text,
    "standby_source": text,
    "width": Number(16, 16384, whole=True),
    "height": Number(16, 16384, whole=True),
    "fps": Number(0.1, 240),
    "standby_fps": Number(0.1, 60),
    "exposure": {
        "mode": Choice(
            (
                "camera",
                "limited",
            )
        ),
        "limit_ms": Number(0.1, 1000),
    },
    "motion": _MOTION,
    "sentry": _SENTRY,
}
SCHEMA = {
    "instance": identifier,
    "name": text,
    "state_dir": path,
    "shm_root": path,
    "log": {
        "level": Choice(LOG_LEVELS),
        "format": Choice(
            (
                "human",
                "json",
            )
        ),
        "services": {str: Choice(LOG_LEVELS)},
    },
    "telemetry": {"endpoint": text, "sampling": Number(0, 1)},
    "gateway": {
        "host": text,
        "port": Number(0, 65535, whole=True),
        "public_url": web_address,
        "allowed_hosts": texts,
        "metrics_public": flag,
        "ingress_port": Number(1, 65535, whole=True),
        "ingress_peer": text,
    },
    "model": {
        "name": text,
        "backend": Choice(
            (
                "auto",
                "onnxruntime",
                "openvino",
                "tensorrt",
            )
        ),
        "threads": Number(1, 256, whole=True),
        "labels": texts,
        "cache_dir": path,
        "mirror": mirror,
    },
    "mqtt": {
        "host": text,
        "port": Number(1, 65535, whole=True),
        "username": text,
        "password": secret,
        "tls": {"enabled": flag, "ca_file": path, "insecure": flag},
        "protocol": Choice(("5", "3.1.1")),
        "discovery": Choice(("auto", "always", "never")),
        "discovery_prefix": topic_prefix,
        "detections": flag,
    },
    "history": {
        "max_events": Number(1, 1_000_000, whole=True),
        "max_age_days": Number(0.01, 36500),
        "max_snapshot_mb": Number(1, 1_000_000),
    },
    "sentry": _SENTRY,
    "motion": _MOTION,
    "cameras": {identifier: _CAMERA},
}
VALIDATE = vol.Schema(SCHEMA)
