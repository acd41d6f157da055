"""How a source is written: `/dev/video0`, `rtsp://`, a file, `replay:file.mjpeg?fps=30`, `demo:?seed=1`. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qsl, urlsplit

from detr_sentry.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceSpec:
    """A parsed source URL.

    `scheme`: v4l2, demo, replay, file, rtsp, rtsps, http or https. `location`: device path, file path, or for network
    schemes the whole URL with credentials (its repr is hidden). `options`: the query of demo, replay, file and v4l2
    sources. `redacted`: for people and logs.
    """

    scheme: str
    location: str = field(repr=False)
    options: Mapping[str, str]
    redacted: str

    def scrub(self, text: str) -> str:
        """`text` (an error message of a library) without this source's credentials."""
        text = text.replace(self.location, self.redacted)
        if self.scheme in _NETWORK:
            login = self.location.partition("://")[2].rpartition("@")[0]
            secrets = {login, login.partition(":")[2], *(match[2] for match in _SECRET_QUERY.finditer(self.location))}
            for secret in sorted(secrets - {""}, key=len, reverse=True):
                text = text.replace(secret, HIDDEN)
        return text

    def number(self, name: str, default: float, low: float, high: float) -> float:
        """Option `name` as a number within low..high. Raises SettingsError."""
        value = self.options.get(name)
        if value is None:
            return default
        try:
            number = float(value)
        except ValueError:
            number = float("nan")
        if not low <= number <= high:
            raise SettingsError(
                "source", f"option {name} of {self.redacted} must be a number from {low:g} to {high:g}, not {value!r}"
            )
        return number

    def choice(self, name: str, default: str, allowed: tuple[str, ...]) -> str:
        """Option `name` as one of `allowed`. Raises SettingsError."""
        value = self.options.get(name, default)
        if value not in allowed:
            raise SettingsError(
                "source", f"option {name} of {self.redacted} must be one of {', '.join(allowed)}, not {value!r}"
            )
        return value


HIDDEN: Final = "********"
"""Stands for a secret wherever a URL is shown; a changed setting that contains it is not stored."""

_NETWORK: Final = frozenset({"rtsp", "rtsps", "http", "https"})
_OPTIONS: Final[Mapping[str, frozenset[str]]] = {
    "demo": frozenset({"period", "seed", "width", "height", "fps"}),
    "replay": frozenset({"fps", "loop"}),
    "file": frozenset({"pace", "loop"}),
    "v4l2": frozenset(),
}
_SECRET_QUERY: Final = re.compile(
    r"(?i)([?&](?:user|usr|username|login|pass|passwd|password|pwd|psw|token|access_token|auth|key|api_?key|secret|sid)=)"
    r"([^&#]*)"
)


def redact(url: str) -> str:
    """`url` with `HIDDEN` for user, password and secret-looking query values.

    Everything up to the last `@` goes, so that a password with unescaped `/`, `?`, `#` or `@` never leaks a part of
    itself; a URL with a legitimate `@` in its path then shows without its host.
    """
    scheme, separator, rest = url.partition("://")
    if not separator:
        return url
    _, login, place = rest.rpartition("@")
    return _SECRET_QUERY.sub(rf"\1{HIDDEN}", f"{scheme}://{HIDDEN + login if login else ''}{place}")


def parse_source(url: str) -> SourceSpec:
    """Read a source as people write it: `/dev/video0`, `rtsp://`, a file, `replay:file.mjpeg?fps=30`, `demo:?seed=1`.

    Pure: does not look at devices or files. Raises SettingsError(key "source") without repeating credentials.
    """
    url = url.strip()
    if not url or "\0" in url or "\n" in url:
        raise SettingsError("source", "is empty or holds control characters; give a device, a URL or a file")
    scheme, colon, rest = url.partition(":")
    scheme = scheme.lower()
    if colon and scheme in _NETWORK:
        return _network(scheme, url)
    if colon and scheme in _OPTIONS:
        location = rest
    elif url.startswith("/dev/"):
        scheme, location = "v4l2", url
    elif colon and rest.startswith("//"):
        raise SettingsError(
            "source", f"{scheme}:// is not supported; use v4l2:, rtsp://, http://, a file, replay: or demo:"
        )
    else:
        scheme, location = "file", url
    return _local(scheme, location, url)


def _network(scheme: str, url: str) -> SourceSpec:
    redacted = redact(url)
    try:
        parts = urlsplit(url)
        usable = bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        usable = False
    if not usable:
        raise SettingsError(
            "source", f"{redacted} is not a usable URL; escape special characters of the password as %XX"
        )
    return SourceSpec(scheme=scheme, location=url, options={}, redacted=redacted)


def _local(scheme: str, location: str, url: str) -> SourceSpec:
    path, _, query = location.partition("?")
    path = path.removeprefix("//") if scheme == "file" and path.startswith("///") else path
    options = dict(parse_qsl(query, keep_blank_values=True))
    unknown = sorted(set(options) - _OPTIONS[scheme])
    if unknown:
        known = ", ".join(sorted(_OPTIONS[scheme])) or "none"
        raise SettingsError("source", f"unknown option {unknown[0]!r} in {url}; known: {known}")
    if scheme != "demo" and not path:
        raise SettingsError("source", f"{url} names no {'device' if scheme == 'v4l2' else 'file'}")
    return SourceSpec(scheme=scheme, location=path, options=options, redacted=url)
