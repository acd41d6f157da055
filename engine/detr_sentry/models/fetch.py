"""Fetching one file whose size and sha256 are known: resumed, bounded in time and size, checked before it is used.

Proxies come from the environment (`https_proxy`, `http_proxy`, `no_proxy`), certificates from the system
(`SSL_CERT_FILE`). A server is never trusted for the size, the place or the content of what it sends.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import FileIO
from typing import TYPE_CHECKING

from detr_sentry.errors import ModelError, ModelRefusedError, StorageError
from detr_sentry.models.web import MEND, BrokenLinkError, HttpLimits, open_range

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from detr_sentry.models.progress import Progress

_CHUNK = 1 << 16
_MAKE = os.O_CREAT | os.O_NOFOLLOW
_FRUITFUL = 1 << 16
"""An attempt that brings fewer new bytes than this counts as failed, so that no server can keep us for ever."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchLimits:
    """How patient a fetch is: `attempts` in a row that bring nothing, waits doubling from `back_off_s`."""

    http: HttpLimits = field(default_factory=HttpLimits)
    attempts: int = 5
    back_off_s: float = 1.0


def fetch(
    address: str, part: Path, *, size: int, sha256: str, progress: Progress, limits: FetchLimits | None = None
) -> None:
    """Fetches http(s) `address` into `part`, which is whole and checked then, and goes on from what `part` holds.

    `part` stays when the link fails for good, and is removed when the bytes are wrong. Raises ModelError (unreachable,
    refused, another fetch is running), ModelRefusedError (other bytes than `sha256`), StorageError (disk).
    """
    with _locked(part) as file:
        had = _size(file, size)
        _check_room(part, size - had)
        _collect(address, file, size, progress, limits or FetchLimits())
        if _sha256(file) != sha256 and had:
            progress.note("What an earlier pull left does not fit; fetching everything anew")
            file.truncate(0)
            _collect(address, file, size, progress, limits or FetchLimits())
        _finish(file, part, sha256, address)


def copy(source: Path, part: Path, *, size: int, sha256: str, progress: Progress) -> None:
    """As `fetch`, from a file of a mirror folder."""
    with _locked(part) as file:
        file.truncate(0)
        _check_room(part, size)
        try:
            with source.open("rb") as original:
                if os.fstat(original.fileno()).st_size != size:
                    raise ModelRefusedError(f"{source}: not the {size} bytes that the catalogue names")
                done = 0
                while chunk := original.read(_CHUNK):
                    done += _write(file, done, chunk)
                    progress.update(done)
        except OSError as error:
            raise ModelError(f"{source}: cannot be read: {error.strerror}") from error
        _finish(file, part, sha256, str(source))


def sha256_of(path: Path) -> str:
    """The sha256 of a file in hexadecimal. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _locked(part: Path) -> Iterator[FileIO]:
    """The file at `part`, opened or made, held by this process alone."""
    try:
        part.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        opened = FileIO(str(part), "r+", opener=lambda path, flags: os.open(path, flags | _MAKE, 0o600))
    except OSError as error:
        raise StorageError(f"{part}: cannot be written: {error.strerror}") from error
    with opened as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            ours = os.path.samestat(os.fstat(file.fileno()), part.stat())
        except (BlockingIOError, FileNotFoundError):
            ours = False
        if not ours:
            raise ModelError(f"{part.name}: another pull of this model is running")
        try:
            yield file
        finally:
            if os.fstat(file.fileno()).st_size == 0:
                part.unlink(missing_ok=True)


def _size(file: FileIO, most: int) -> int:
    """How many bytes the file holds; what cannot be a beginning is dropped."""
    had = os.fstat(file.fileno()).st_size
    if had > most:
        file.truncate(0)
        return 0
    return had


def _check_room(part: Path, needed: int) -> None:
    free = shutil.disk_usage(part.parent).free
    if free < needed:
        raise StorageError(f"{part.parent}: {needed} bytes are needed, {free} are free")


def _collect(address: str, file: FileIO, size: int, progress: Progress, limits: FetchLimits) -> None:
    """Attempts until the file has `size` bytes. Raises ModelError."""
    done = best = os.fstat(file.fileno()).st_size
    failed = 0
    progress.update(done)
    while done < size:
        try:
            done = _attempt(address, file, size, progress, limits.http)
        except BrokenLinkError as error:
            done = os.fstat(file.fileno()).st_size
            failed = 0 if done >= best + _FRUITFUL else failed + 1
            best = max(best, done)
            if failed >= limits.attempts:
                mend = f"{done} of {size} bytes are kept, the same command goes on from there" if done else MEND
                raise ModelError(f"{address}: {error}; {mend}") from error
            wait_s = limits.back_off_s * 2 ** max(0, failed - 1)
            where = f"going on at {done / 1e6:.1f} MB" if done else "trying again"
            progress.note(f"{error}; {where} in {wait_s:g} s")
            time.sleep(wait_s)


def _attempt(address: str, file: FileIO, size: int, progress: Progress, limits: HttpLimits) -> int:
    """One request for what is missing. Returns how many bytes the file has then; it may have begun anew."""
    done = os.fstat(file.fileno()).st_size
    with open_range(address, done, size, limits) as body:
        if body.start != done:
            file.truncate(body.start)
            done = body.start
        since_s, had = time.monotonic(), done
        while chunk := body.read(_CHUNK):
            if time.monotonic() - since_s >= limits.window_s:
                if done - had < _FRUITFUL:
                    raise BrokenLinkError("the server sends next to nothing")
                since_s, had = time.monotonic(), done
            if done + len(chunk) > size:
                file.truncate(0)
                raise ModelRefusedError(f"{address}: sends more than the {size} bytes that the catalogue names")
            done += _write(file, done, chunk)
            progress.update(done)
    if done < size:
        raise BrokenLinkError(f"the connection ended after {done} of {size} bytes")
    return done


def _write(file: FileIO, at: int, chunk: bytes) -> int:
    """Writes all of `chunk` at offset `at`; returns its length."""
    try:
        written = 0
        while written < len(chunk):
            written += os.pwrite(file.fileno(), chunk[written:], at + written)
    except OSError as error:
        raise StorageError(f"{file.name}: cannot be written: {error.strerror}") from error
    return len(chunk)


def _sha256(file: FileIO) -> str:
    file.seek(0)
    return hashlib.file_digest(file, "sha256").hexdigest()


def _finish(file: FileIO, part: Path, sha256: str, address: str) -> None:
    """Removes wrong bytes, and puts right ones on the disk for good."""
    found = _sha256(file)
    if found != sha256:
        part.unlink(missing_ok=True)
        raise ModelRefusedError(
            f"{address}: these are other bytes than the catalogue names (sha256 {found}, not {sha256}); removed"
        )
    try:
        os.fsync(file.fileno())
    except OSError as error:
        raise StorageError(f"{part}: cannot be written: {error.strerror}") from error
