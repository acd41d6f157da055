"""A web server on this machine that holds one file and can break in the ways that real ones do."""

from __future__ import annotations

import contextlib
import re
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Request(BaseHTTPRequestHandler):
    """One request; `server.answers` says what it gets, the last entry again and again."""

    server: Server
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        number = len(self.server.host.requests)
        self.server.host.requests.append((self.path, self.headers.get("Range")))
        answers = self.server.host.answers
        with contextlib.suppress(ConnectionError):
            answers[min(number, len(answers) - 1)](self)

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 - the base class calls it so
        """Keeps the output of the tests clean."""

    @property
    def data(self) -> bytes:
        return self.server.host.data

    def head(self, status: int, **headers: object) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()


class Server(ThreadingHTTPServer):
    daemon_threads = True
    host: Host


Answer = Callable[[Request], None]


@dataclass
class Host:
    """What the server holds (`data`), how it answers, and what it was asked: (path, Range)."""

    url: str
    data: bytes
    answers: list[Answer] = field(default_factory=lambda: [good])
    requests: list[tuple[str, str | None]] = field(default_factory=list)
    release: threading.Event = field(default_factory=threading.Event)


@contextlib.contextmanager
def serve(data: bytes, certificate: Path | None = None) -> Iterator[Host]:
    """The server, until the end of the block; with a certificate (and its key in the file) it speaks TLS."""
    server = Server(("127.0.0.1", 0), Request)
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    scheme = "http" if certificate is None else "https"
    server.host = Host(f"{scheme}://127.0.0.1:{server.server_port}", data)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server.host
    finally:
        server.host.release.set()
        server.shutdown()
        thread.join()
        server.server_close()


def start_of(request: Request) -> int:
    found = re.fullmatch(r"bytes=(\d+)-", request.headers.get("Range", "bytes=0-"))
    assert found is not None
    return int(found[1])


def head_of(request: Request, data: bytes) -> int:
    """The header of a right answer; returns the offset at which its body begins."""
    start = start_of(request)
    if start:
        span = f"bytes {start}-{len(data) - 1}/{len(data)}"
        request.head(206, Content_Length=len(data) - start, Content_Range=span)
    else:
        request.head(200, Content_Length=len(data))
    return start


def good(request: Request) -> None:
    """All that was asked for."""
    request.wfile.write(request.data[head_of(request, request.data) :])


def cut(most: int) -> Answer:
    """A connection that ends after `most` bytes of the body."""

    def answer(request: Request) -> None:
        start = head_of(request, request.data)
        request.wfile.write(request.data[start : start + most])
        request.close_connection = True

    return answer


def stall(most: int) -> Answer:
    """A connection that stays open and silent after `most` bytes of the body."""

    def answer(request: Request) -> None:
        start = head_of(request, request.data)
        request.wfile.write(request.data[start : start + most])
        request.wfile.flush()
        request.server.host.release.wait(20)
        request.close_connection = True

    return answer


def trickle(request: Request) -> None:
    """A byte now and then."""
    start = head_of(request, request.data)
    for byte in request.data[start:]:
        if request.server.host.release.wait(0.01):
            break
        request.wfile.write(bytes([byte]))
    request.close_connection = True


def slow(request: Request) -> None:
    """A quarter of the file now and then."""
    start, step = head_of(request, request.data), len(request.data) // 4
    for at in range(start, len(request.data), step):
        request.wfile.write(request.data[at : at + step])
        request.server.host.release.wait(0.1)


def silent(request: Request) -> None:
    """No answer at all."""
    request.server.host.release.wait(20)
    request.close_connection = True


def no_ranges(most: int | None = None) -> Answer:
    """A server that knows no ranges, and ends the connection after `most` bytes."""

    def answer(request: Request) -> None:
        request.head(200, Content_Length=len(request.data))
        request.wfile.write(request.data[:most])
        request.close_connection = True

    return answer


def other(data: bytes) -> Answer:
    """A right answer about another file."""

    def answer(request: Request) -> None:
        request.wfile.write(data[head_of(request, data) :])

    return answer


def endless(request: Request) -> None:
    """More than the file, of unknown length."""
    request.head(200)
    request.close_connection = True
    for _ in range(4):
        request.wfile.write(request.data)


def wrong_part(request: Request) -> None:
    """Another part than was asked for."""
    size = len(request.data)
    request.head(206, Content_Length=size, Content_Range=f"bytes 0-{size - 1}/{size}")
    request.wfile.write(request.data)


def status(code: int, **headers: object) -> Answer:
    """An empty answer."""

    def answer(request: Request) -> None:
        request.head(code, Content_Length=0, **headers)

    return answer
