from __future__ import annotations

import fcntl
import hashlib
import io
import resource
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detr_sentry.errors import ModelError, ModelRefusedError, StorageError
from detr_sentry.models.fetch import FetchLimits, copy, fetch
from detr_sentry.models.progress import Progress
from detr_sentry.models.web import HttpLimits
from tests.engine.models.model_host import (
    Answer,
    Host,
    cut,
    endless,
    good,
    no_ranges,
    other,
    serve,
    silent,
    slow,
    stall,
    status,
    trickle,
    wrong_part,
)

DATA = np.random.default_rng(5).bytes(400_000)
SHA256 = hashlib.sha256(DATA).hexdigest()
PATIENT = HttpLimits(connect_s=10.0, read_s=10.0)
HASTY = HttpLimits(connect_s=10.0, read_s=0.3)


@pytest.fixture
def host() -> Iterator[Host]:
    with serve(DATA) as running:
        yield running


@pytest.fixture
def part(tmp_path: Path) -> Path:
    return tmp_path / "models" / ".file.part"


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTPS_PROXY", "ALL_PROXY", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)


def get(url: str, part: Path, *, http: HttpLimits = PATIENT, attempts: int = 3, **changes: Any) -> str:
    """Fetches; returns what was said on the way."""
    stream = io.StringIO()
    limits = FetchLimits(http=http, attempts=attempts, back_off_s=0.01)
    known = {"size": len(DATA), "sha256": SHA256, **changes}
    fetch(url, part, progress=Progress("file", len(DATA), stream), limits=limits, **known)
    return stream.getvalue()


def test_a_file_is_fetched_whole_and_readable_by_its_owner_alone(host: Host, part: Path) -> None:
    said = get(f"{host.url}/file.onnx", part)

    assert part.read_bytes() == DATA
    assert part.stat().st_mode & 0o777 == 0o600
    assert host.requests == [("/file.onnx", None)]
    assert "100%  0.4 of 0.4 MB" in said


def test_a_cut_connection_is_resumed_where_it_ended(host: Host, part: Path) -> None:
    host.answers = [cut(150_000), cut(100_000), good]

    said = get(host.url, part)

    assert part.read_bytes() == DATA
    assert [span for _, span in host.requests] == [None, "bytes=150000-", "bytes=250000-"]
    assert "the connection ended after 150000 of 400000 bytes; going on at 0.1 MB" in said


@pytest.mark.parametrize("answer", [stall(150_000), silent], ids=["in the body", "before the header"])
def test_a_server_that_stalls_is_asked_again(answer: Answer, host: Host, part: Path) -> None:
    host.answers = [answer, good]

    said = get(host.url, part, http=HASTY)

    assert part.read_bytes() == DATA
    assert len(host.requests) == 2
    assert "the server stalled" in said


def test_a_server_that_only_trickles_is_given_up(host: Host, part: Path) -> None:
    host.answers = [trickle]

    with pytest.raises(ModelError, match="sends next to nothing"):
        get(host.url, part, http=HttpLimits(window_s=0.2))

    assert len(host.requests) == 3


def test_a_slow_link_is_not_a_trickle(host: Host, part: Path) -> None:
    host.answers = [slow]

    get(host.url, part, http=HttpLimits(window_s=0.05))

    assert part.read_bytes() == DATA


def test_a_server_without_ranges_begins_anew(host: Host, part: Path) -> None:
    host.answers = [no_ranges(300_000), no_ranges()]

    get(host.url, part)

    assert part.read_bytes() == DATA
    assert [span for _, span in host.requests] == [None, "bytes=300000-"]


def test_a_server_that_never_gets_further_is_given_up(host: Host, part: Path) -> None:
    host.answers = [no_ranges(300_000)]

    with pytest.raises(ModelError, match="300000 of 400000 bytes are kept, the same command goes on from there"):
        get(host.url, part)

    assert len(host.requests) == 4
    assert part.read_bytes() == DATA[:300_000]


def test_a_later_fetch_goes_on_from_what_an_earlier_one_left(host: Host, part: Path) -> None:
    part.parent.mkdir()
    part.write_bytes(DATA[:123_456])

    get(host.url, part)

    assert part.read_bytes() == DATA
    assert host.requests == [("/", "bytes=123456-")]


def test_a_whole_file_of_an_earlier_fetch_needs_no_server(part: Path) -> None:
    part.parent.mkdir()
    part.write_bytes(DATA)

    get("http://127.0.0.1:9/", part)

    assert part.read_bytes() == DATA


def test_a_spoiled_beginning_is_fetched_anew(host: Host, part: Path) -> None:
    part.parent.mkdir()
    part.write_bytes(bytes(100_000))

    said = get(host.url, part)

    assert part.read_bytes() == DATA
    assert [span for _, span in host.requests] == ["bytes=100000-", None]
    assert "does not fit" in said


def test_a_beginning_that_is_too_long_is_dropped(host: Host, part: Path) -> None:
    part.parent.mkdir()
    part.write_bytes(DATA + b"more")

    get(host.url, part)

    assert part.read_bytes() == DATA
    assert host.requests == [("/", None)]


def test_wrong_bytes_are_removed(host: Host, part: Path) -> None:
    host.answers = [other(bytes(len(DATA)))]

    with pytest.raises(ModelRefusedError, match="other bytes than the catalogue names"):
        get(host.url, part)

    assert not part.exists()
    assert len(host.requests) == 1


def test_a_file_of_another_size_is_refused_before_it_is_read(host: Host, part: Path) -> None:
    host.answers = [other(b"<html>log in first</html>")]

    with pytest.raises(ModelRefusedError, match="is a file of 25 bytes; the catalogue names one of 400000"):
        get(host.url, part)

    assert not part.exists()


def test_a_server_that_sends_without_end_is_stopped(host: Host, part: Path) -> None:
    host.answers = [endless]

    with pytest.raises(ModelRefusedError, match="sends more than the 400000 bytes"):
        get(host.url, part)

    assert not part.exists()


def test_another_part_than_was_asked_for_is_not_taken(host: Host, part: Path) -> None:
    host.answers = [cut(100_000), wrong_part, good]

    get(host.url, part)

    assert part.read_bytes() == DATA
    assert [span for _, span in host.requests] == [None, "bytes=100000-", "bytes=100000-"]


def test_a_file_that_ends_before_the_resumed_part_is_refused(host: Host, part: Path) -> None:
    host.answers = [cut(100_000), status(416)]

    with pytest.raises(ModelRefusedError, match="is shorter than the catalogue says"):
        get(host.url, part)


@pytest.mark.parametrize("code", [401, 403, 404, 410])
def test_a_refusal_is_final_and_says_what_to_do(code: int, host: Host, part: Path) -> None:
    host.answers = [status(code)]

    with pytest.raises(ModelError, match=rf"answered {code} .*; set model.mirror .* models import"):
        get(host.url, part)

    assert len(host.requests) == 1


def test_a_busy_server_is_asked_again(host: Host, part: Path) -> None:
    host.answers = [status(503), status(429), good]

    said = get(host.url, part)

    assert part.read_bytes() == DATA
    assert "answered 503 Service Unavailable" in said


def test_nobody_there_is_an_error_after_a_few_attempts(part: Path) -> None:
    with pytest.raises(ModelError, match="http://127.0.0.1:9/x: Connection refused; set model.mirror"):
        get("http://127.0.0.1:9/x", part)


def test_redirects_are_followed_also_when_resuming(host: Host, part: Path) -> None:
    with serve(DATA) as store:
        store.answers = [cut(100_000), good]
        host.answers = [status(302, Location=f"{store.url}/blob?signature=1")]

        get(f"{host.url}/resolve/model.onnx", part)

        assert part.read_bytes() == DATA
        assert store.requests == [("/blob?signature=1", None), ("/blob?signature=1", "bytes=100000-")]


def test_a_relative_redirect_stays_with_its_server(host: Host, part: Path) -> None:
    host.answers = [status(307, Location="../real.onnx"), good]

    get(f"{host.url}/a/b/file.onnx", part)

    assert [path for path, _ in host.requests] == ["/a/b/file.onnx", "/a/real.onnx"]


def test_redirects_in_a_circle_end(host: Host, part: Path) -> None:
    host.answers = [status(302, Location="/again")]

    with pytest.raises(ModelError, match="more than 5 redirects"):
        get(host.url, part)

    assert len(host.requests) == 6


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://127.0.0.1/x", "data:,x"])
def test_a_redirect_out_of_the_web_is_refused(target: str, host: Host, part: Path) -> None:
    host.answers = [status(302, Location=target)]

    with pytest.raises(ModelError, match="redirects to (file|ftp|data)://, which is refused"):
        get(host.url, part)


def test_an_error_without_a_target_is_no_redirect(host: Host, part: Path) -> None:
    host.answers = [status(302)]

    with pytest.raises(ModelError, match="answered 302"):
        get(host.url, part)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for 127.0.0.1 with its key, signed by itself."""
    if shutil.which("openssl") is None:
        pytest.skip("needs the openssl command")
    folder = tmp_path_factory.mktemp("tls")
    words = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=127.0.0.1"
    files = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", f"{folder}/key.pem", "-out", f"{folder}/cert.pem"]
    subprocess.run(["openssl", *words.split(), *files], check=True, capture_output=True)
    both = folder / "both.pem"
    both.write_bytes((folder / "key.pem").read_bytes() + (folder / "cert.pem").read_bytes())
    return both


@pytest.fixture
def secure(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    """A TLS server whose certificate this process trusts."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate.with_name("cert.pem")))
    with serve(DATA, certificate) as running:
        yield running


def test_a_tls_server_with_a_trusted_certificate_serves(secure: Host, part: Path) -> None:
    secure.answers = [cut(100_000), good]

    get(secure.url, part)

    assert part.read_bytes() == DATA


def test_a_tls_server_that_stalls_is_asked_again(secure: Host, part: Path) -> None:
    secure.answers = [stall(150_000), good]

    assert "the server stalled" in get(secure.url, part, http=HASTY)
    assert part.read_bytes() == DATA


def test_an_untrusted_certificate_is_refused_at_once(secure: Host, part: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SSL_CERT_FILE")

    with pytest.raises(ModelError, match="its certificate is not trusted: self"):
        get(secure.url, part)

    assert secure.requests == []


def test_a_redirect_from_https_to_http_is_refused(secure: Host, host: Host, part: Path) -> None:
    secure.answers = [status(302, Location=f"{host.url}/file")]

    with pytest.raises(ModelError, match="redirects to http://, which is refused"):
        get(secure.url, part)

    assert host.requests == []


def test_a_redirect_from_http_to_https_is_followed(secure: Host, host: Host, part: Path) -> None:
    host.answers = [status(301, Location=f"{secure.url}/file")]

    get(host.url, part)

    assert part.read_bytes() == DATA


def test_the_proxy_of_the_environment_is_asked(host: Host, part: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", host.url)

    get("http://models.invalid/nano.onnx", part)

    assert part.read_bytes() == DATA
    assert host.requests == [("http://models.invalid/nano.onnx", None)]


def test_two_pulls_of_one_file_do_not_mix(host: Host, part: Path) -> None:
    part.parent.mkdir()
    with part.open("wb") as other_pull:
        fcntl.flock(other_pull, fcntl.LOCK_EX)

        with pytest.raises(ModelError, match="another pull of this model is running"):
            get(host.url, part)

    assert host.requests == []


def test_a_link_in_the_place_of_the_file_is_not_followed(host: Host, part: Path, tmp_path: Path) -> None:
    part.parent.mkdir()
    part.symlink_to(tmp_path / "elsewhere")

    with pytest.raises(StorageError, match="cannot be written"):
        get(host.url, part)

    assert not (tmp_path / "elsewhere").exists()


def test_a_full_disk_names_the_file_and_keeps_what_is_there(host: Host, part: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
    try:
        with pytest.raises(StorageError, match=r"\.file\.part: cannot be written: File too large"):
            get(host.url, part)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    get(host.url, part)
    assert part.read_bytes() == DATA
    assert host.requests[-1] == ("/", "bytes=200000-")


def test_a_file_that_cannot_fit_is_not_begun(host: Host, part: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    part.parent.mkdir()
    free = shutil.disk_usage(part.parent)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: free)

    with pytest.raises(StorageError, match="400000 bytes are needed, 1000 are free"):
        get(host.url, part)

    assert host.requests == []


def test_a_copy_from_a_folder_is_checked_like_a_download(tmp_path: Path, part: Path) -> None:
    source = tmp_path / "nano.onnx"
    progress = Progress("nano", len(DATA), io.StringIO())
    source.write_bytes(DATA)
    copy(source, part, size=len(DATA), sha256=SHA256, progress=progress)
    assert part.read_bytes() == DATA

    source.write_bytes(bytes(len(DATA)))
    with pytest.raises(ModelRefusedError, match="other bytes than the catalogue names"):
        copy(source, part, size=len(DATA), sha256=SHA256, progress=progress)
    assert not part.exists()

    source.write_bytes(b"short")
    with pytest.raises(ModelRefusedError, match="not the 400000 bytes"):
        copy(source, part, size=len(DATA), sha256=SHA256, progress=progress)

    source.unlink()
    with pytest.raises(ModelError, match="cannot be read: No such file"):
        copy(source, part, size=len(DATA), sha256=SHA256, progress=progress)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_sees_a_bar_with_rate_and_time_left() -> None:
    stream, clock = Terminal(), iter([0.0, 1.0, 1.01, 2.0])
    with Progress("nano", 100_000_000, stream, clock=lambda: next(clock)) as progress:
        for done in (0, 25_000_000, 26_000_000, 100_000_000):
            progress.update(done)

    lines = [line.removesuffix("\x1b[K") for line in stream.getvalue().rstrip("\n").split("\r")]
    assert lines == [
        "",
        "nano  [............................]   0%  0.0 of 100.0 MB",
        "nano  [#######.....................]  25%  25.0 of 100.0 MB  25.0 MB/s  0:03 left",
        "nano  [############################] 100%  100.0 of 100.0 MB  50.0 MB/s  0:00 left",
    ]
    assert stream.getvalue().endswith("\n")


def test_elsewhere_there_is_a_line_now_and_then() -> None:
    stream, clock = io.StringIO(), iter([0.0, 5.0, 11.0, 12.0])
    with Progress("nano", 10_000_000, stream, clock=lambda: next(clock)) as progress:
        for done in (0, 4_000_000, 5_500_000, 10_000_000):
            progress.update(done)

    assert stream.getvalue().splitlines() == [
        "nano    0%  0.0 of 10.0 MB",
        "nano   55%  5.5 of 10.0 MB  0.5 MB/s  0:09 left",
        "nano  100%  10.0 of 10.0 MB  0.8 MB/s  0:00 left",
    ]
