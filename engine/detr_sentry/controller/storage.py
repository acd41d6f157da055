"""Files in the state directory that are there whole or not at all. Everything here blocks: not for an event loop."""

from __future__ import annotations

import errno
import json
import os
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from detr_sentry.errors import StorageError

if TYPE_CHECKING:
    from pathlib import Path

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_READ_ONLY = {errno.EROFS, errno.EACCES, errno.EPERM}


def write_file(path: Path, data: bytes) -> None:
    """Replace `path` by `data`: temporary file, fsync, rename, fsync of the folder; mode 0600. Raises StorageError."""
    fresh = path.with_name(f".{path.name}.new")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            with memoryview(data) as rest:
                written = 0
                while written < len(rest):
                    written += os.write(fd, rest[written:])
            os.fsync(fd)
        finally:
            os.close(fd)
        fresh.rename(path)
        _sync_directory(path.parent)
    except OSError as error:
        with suppress(OSError):
            fresh.unlink()
        raise StorageError(f"{path}: cannot be stored: {error.strerror or error}") from error


def _sync_directory(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def remove_file(path: Path) -> None:
    """Remove `path` if it is there. Raises StorageError."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise StorageError(f"{path}: cannot be removed: {error.strerror or error}") from error


def write_json(path: Path, document: Any) -> None:
    """Replace `path` by a JSON document. Raises StorageError."""
    write_file(path, json.dumps(document, indent=2).encode() + b"\n")


def read_json(path: Path) -> Any:
    """The document in `path`, None where there is no file. Raises StorageError for one that is not JSON."""
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise StorageError(f"{path}: cannot be read: {error}") from error


def problem_of(error: BaseException) -> str:
    """What people are told: `disk_full`, `disk_readonly` or `disk_error`."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in _FULL:
            return "disk_full"
        if isinstance(cause, OSError) and cause.errno in _READ_ONLY:
            return "disk_readonly"
        name = getattr(cause, "sqlite_errorname", "")
        if name.startswith("SQLITE_FULL"):
            return "disk_full"
        if name.startswith(("SQLITE_READONLY", "SQLITE_CANTOPEN")):
            return "disk_readonly"
        cause = cause.__cause__
    return "disk_error"
