"""What a camera is to the capture service: the `Source` protocol, its values, and how a source's URL is read.

Two kinds of source share the protocol. A *pushing* one (V4L2, network, files at their own pace) has a descriptor that
becomes readable when a frame is there. A *pulled* one (demo, replay) has none: each `grab` makes a frame at once, and
the service paces it.

The service drives a source so::

    info = source.open(keep_waiting)
    source.set_rate(3.0)                 # standby; FULL_RATE when alarmed
    at each tick:  source.discard()      # standby only: what waits is stale
                   wait for fileno()     # pushing sources only
                   frame = source.grab() # copied into the slot before the next call
    source.close()

A source is used from one thread; close() may be called at any time after construction, also twice.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol
from urllib.parse import parse_qsl, urlsplit

from detr_sentry.errors import SettingsError, SourceGoneError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from detr_sentry.ipc.messages import PixelFormat

FULL_RATE: Final = -1.0
"""The rate that means every frame the camera delivers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceInfo:
    """What an opened source delivers.

    `max_frame_bytes` is the size of a slot; a network JPEG may outgrow it (`RawFrame.data` is then longer). `fps` is
    the nominal full rate (0.0 if unknown). `identity` names the physical camera or the URL without credentials: equal
    identities mean the same camera, also after it was renumbered.
    """

    width: int
    height: int
    pixel_format: PixelFormat
    fps: float
    max_frame_bytes: int
    identity: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RawFrame:
    """One frame as the source has it.

    `data`: bytes of the frame (JPEG, or packed planes), C-contiguous, valid until the next grab(), discard() or
    close() of its source.
    `captured_monotonic_ns`: CLOCK_MONOTONIC; the driver's own stamp if it is on that clock, else the time of arrival.
    `pts_ns`: the stream's presentation time, 0 where there is none.
    `width`, `height`: of this frame, for the check against SourceInfo.
    `info`: set on the first frame after the source changed to another stream of the same camera.
    """

    data: memoryview
    captured_monotonic_ns: int
    pts_ns: int
    width: int
    height: int
    info: SourceInfo | None = None


class SourceEndedError(SourceGoneError):
    """A file that does not loop was played to its end: opening it again would show it twice, so nobody does."""


class Source(Protocol):
    """A camera, stream or file, built as `XxxSource(spec, camera_settings)` without touching the device.

    open, set_rate, discard and grab may raise a SourceError; the service then closes the source and later opens the
    same object anew.
    """

    def open(self, keep_waiting: Callable[[], bool]) -> SourceInfo:
        """Open and start streaming.

        `keep_waiting` is called at least every 100 ms while a slow device or network is waited for (the service beats
        and listens to its bell in it); when it returns False the source gives up with SourceGoneError. Quick sources
        need not call it.
        """
        ...

    def fileno(self) -> int | None:
        """Descriptor, readable while grab() may have something; None for a pulled source."""
        ...

    def set_rate(self, fps: float) -> None:
        """Hint at the wanted rate, FULL_RATE or frames a second: the service paces, the source may save work."""
        ...

    def discard(self) -> None:
        """Drop the frames that wait, so that the next grab() gives a fresh one. Never blocks or stops the stream."""
        ...

    def grab(self) -> RawFrame | None:
        """The oldest frame that waits, or None if there is none yet. Never blocks.

        Raises BadFrameError(reason) for a frame that the driver or demuxer marks as broken (dropped and counted; the
        stream goes on), SourceGoneError when unplugged or ended, SourceUnauthorizedError, SourceFormatError when the
        stream's geometry changed.
        """
        ...

    def close(self) -> None:
        """Release the device or connection. Never raises."""
        ...


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
                text = text.replace(secret, "***")
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
    """`url` without user, password and secret-looking query values.

    Everything up to the last `@` goes, so that a password with unescaped `/`, `?`, `#` or `@` never leaks a part of
    itself; a URL with a legitimate `@` in its path then shows without its host.
    """
    scheme, separator, rest = url.partition("://")
    if not separator:
        return url
    return _SECRET_QUERY.sub(r"\1***", f"{scheme}://{rest.rpartition('@')[2]}")


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
