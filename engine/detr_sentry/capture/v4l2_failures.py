"""What went wrong with a V4L2 device, in words that say what to do."""

from __future__ import annotations

import errno
import grp
import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from detr_sentry.errors import SourceError, SourceGoneError, SourceUnauthorizedError

if TYPE_CHECKING:
    from collections.abc import Iterator

_GONE: Final = {
    errno.ENODEV: "was unplugged",
    errno.ENXIO: "was unplugged",
    errno.ENOENT: "is not there",
    errno.EIO: "stopped with an input/output error",
    errno.EPIPE: "ended its stream",
    errno.EPROTO: "does not answer on its bus",
    errno.ETIMEDOUT: "does not answer on its bus",
    errno.ENOSPC: "finds not enough USB bandwidth: choose a smaller size or rate, or move a camera to another USB port",
    errno.ENOMEM: "finds not enough memory for its buffers",
}


def explain(error: OSError, path: Path | None) -> SourceError:
    """The error of ours for a driver's: permissions are SourceUnauthorizedError, everything else has gone."""
    if error.errno in {errno.EACCES, errno.EPERM}:
        return SourceUnauthorizedError(f"no permission for {path}: {_mend(path)}")
    if error.errno == errno.EBUSY:
        users = ", ".join(sorted(set(_users(path)))) or "another program"
        return SourceGoneError(f"{path} is in use by {users}")
    reason = _GONE.get(error.errno or 0)
    return SourceGoneError(f"{path} {reason}" if reason else f"{path} failed: {error.strerror or error}")


def _mend(path: Path | None) -> str:
    """How to get access to a device file: almost always by its group."""
    try:
        status = os.stat(path or "")
        group = grp.getgrgid(status.st_gid).gr_name
    except (OSError, KeyError):
        group = "video"
    if group == "root":  # no udev rule gave it away, as in many containers
        group = "video"
    return (
        f"the engine's user must be in the group {group} (sudo usermod -aG {group} USER, then log in again; "
        f"in a container, add the group and pass the device)"
    )


def _users(path: Path | None) -> Iterator[str]:
    """Programs that hold a device open, as far as we may see them."""
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if path is None or os.readlink(link) != str(path.resolve()):
                continue
            pid = link.parts[2]
            name = (link.parents[1] / "comm").read_text().strip()
        except OSError:
            continue
        if int(pid) != os.getpid():
            yield f"{name} (pid {pid})"
