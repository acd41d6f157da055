"""One GET of a part of a file: time-outs for connecting and for each read, few redirects, none from https to http."""

from __future__ import annotations

import contextlib
import http.client
import re
import ssl
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin, urlsplit

from detr_sentry import __version__
from detr_sentry.errors import ModelError, ModelRefusedError

if TYPE_CHECKING:
    from collections.abc import Iterator

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})
"""Answers that a later attempt may not get again."""
MEND = "set model.mirror to another place, or fetch the file yourself and `detr-sentry models import` it"
_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")


class BrokenLinkError(Exception):
    """The link failed in a way that another attempt may mend."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpLimits:
    """Seconds to connect (with TLS) and for each read, and how many redirects are followed.

    In `window_s` more must come than a trickle, or the link counts as broken.
    """

    connect_s: float = 10.0
    read_s: float = 30.0
    window_s: float = 60.0
    redirects: int = 5


class Body:
    """The bytes of an answer, which begin at offset `start` of the file."""

    def __init__(self, response: http.client.HTTPResponse, start: int) -> None:
        self._response = response
        self.start = start

    def read(self, most: int) -> bytes:
        """Some bytes, at most `most`; none at the end. Raises BrokenLinkError."""
        try:
            return self._response.read1(most)
        except (OSError, http.client.HTTPException) as error:
            raise BrokenLinkError(_reason(error)) from error


@contextlib.contextmanager
def open_range(address: str, start: int, size: int, limits: HttpLimits) -> Iterator[Body]:
    """The bytes of `address`, a file of `size` bytes, from `start` on, or all of them where the server cannot do that.

    Raises BrokenLinkError (try again), ModelError (refused for good), ModelRefusedError (not a file of that size).
    """
    response = _follow(address, {"Range": f"bytes={start}-"} if start else {}, limits)
    with contextlib.closing(response):
        yield Body(response, _start_of(response, address, start, size))


def _start_of(response: http.client.HTTPResponse, address: str, start: int, size: int) -> int:
    """The offset at which the answer begins."""
    if response.status == http.client.PARTIAL_CONTENT:
        found = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
        if found is None or int(found[1]) != start:
            raise BrokenLinkError("the server sent another part than was asked for")
        total = None if found[2] == "*" else int(found[2])
    else:
        start, total = 0, response.length
    if total not in {None, size}:
        raise ModelRefusedError(f"{address}: is a file of {total} bytes; the catalogue names one of {size}")
    return start


def _follow(address: str, headers: dict[str, str], limits: HttpLimits) -> http.client.HTTPResponse:
    """The answer with a body, after redirects."""
    current = address
    for _ in range(limits.redirects + 1):
        try:
            return _open(current, headers, limits)
        except urllib.error.HTTPError as error:
            with error:
                target = error.headers.get("Location")
                if error.code not in _REDIRECTS or not target:
                    raise _answer(error, address) from error
        except ssl.SSLCertVerificationError as error:
            raise ModelError(f"{current}: its certificate is not trusted: {error.verify_message}") from error
        except (OSError, http.client.HTTPException) as error:
            raise BrokenLinkError(_reason(error)) from error
        current = _target(current, target)
    raise ModelError(f"{address}: more than {limits.redirects} redirects")


def _open(address: str, headers: dict[str, str], limits: HttpLimits) -> http.client.HTTPResponse:
    request = urllib.request.Request(address, headers={"User-Agent": f"detr-sentry/{__version__}", **headers})  # noqa: S310 - the callers check the scheme
    try:
        response: http.client.HTTPResponse = _opener(limits.read_s).open(request, timeout=limits.connect_s)
    except urllib.error.HTTPError:
        raise
    except urllib.error.URLError as error:
        raise (error.reason if isinstance(error.reason, OSError) else OSError(str(error.reason))) from error
    return response


def _target(current: str, location: str) -> str:
    """Where a redirect leads."""
    target = urljoin(current, location)
    scheme = urlsplit(target).scheme
    if scheme not in {"http", "https"} or (scheme == "http" and urlsplit(current).scheme == "https"):
        raise ModelError(f"{current}: redirects to {scheme}://, which is refused")
    return target


def _answer(error: urllib.error.HTTPError, address: str) -> Exception:
    """What an error status means for us."""
    if error.code in _PASSING:
        return BrokenLinkError(f"the server answered {error.code} {error.reason}")
    if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
        return ModelRefusedError(f"{address}: is shorter than the catalogue says")
    return ModelError(f"{address}: the server answered {error.code} {error.reason}; {MEND}")


def _reason(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "the server stalled"
    return str(getattr(error, "strerror", None) or error) or type(error).__name__


def _opener(read_s: float) -> urllib.request.OpenerDirector:
    """An opener of http and https by the proxies of the environment; redirects and error answers are HTTPError."""

    class Plain(http.client.HTTPConnection):
        def connect(self) -> None:
            super().connect()
            self.sock.settimeout(read_s)

    class Secure(http.client.HTTPSConnection):
        def connect(self) -> None:
            super().connect()
            self.sock.settimeout(read_s)

    class PlainHandler(urllib.request.HTTPHandler):
        def http_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
            return self.do_open(Plain, request)

    class SecureHandler(urllib.request.HTTPSHandler):
        def https_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
            return self.do_open(_with_context(Secure), request)

    opener = urllib.request.OpenerDirector()
    handlers: tuple[Any, ...] = (
        urllib.request.ProxyHandler,
        urllib.request.UnknownHandler,
        urllib.request.HTTPDefaultErrorHandler,
        urllib.request.HTTPErrorProcessor,
        PlainHandler,
        SecureHandler,
    )
    for handler in handlers:
        opener.add_handler(handler())
    return opener


def _with_context(connection: type[http.client.HTTPSConnection]) -> Any:
    """A maker of connections that check certificates against the system's authorities."""
    context = ssl.create_default_context()

    def make(host: str, **options: Any) -> http.client.HTTPSConnection:
        return connection(host, context=context, **options)

    return make
