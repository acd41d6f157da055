from __future__ import annotations

import errno
import os
import subprocess
from pathlib import Path

import pytest

from detr_sentry.capture.v4l2_failures import explain
from detr_sentry.errors import SourceError, SourceGoneError, SourceUnauthorizedError


@pytest.mark.parametrize(
    ("number", "kind", "words"),
    [
        (errno.ENODEV, SourceGoneError, "/dev/video7 was unplugged"),
        (errno.EIO, SourceGoneError, "/dev/video7 stopped with an input/output error"),
        (errno.ENOSPC, SourceGoneError, "not enough USB bandwidth: choose a smaller size"),
        (errno.EBUSY, SourceGoneError, "/dev/video7 is in use by another program"),
        (errno.EINVAL, SourceGoneError, "/dev/video7 failed: Invalid argument"),
        (
            errno.EACCES,
            SourceUnauthorizedError,
            "no permission for /dev/video7: .* group video .sudo usermod -aG video",
        ),
        (errno.EPERM, SourceUnauthorizedError, "no permission for /dev/video7"),
    ],
)
def test_errors_name_the_device_and_what_to_do(number: int, kind: type[SourceError], words: str) -> None:
    error = explain(OSError(number, os.strerror(number)), Path("/dev/video7"))

    assert type(error) is kind
    with pytest.raises(kind, match=words):
        raise error


def test_busy_device_names_its_user(tmp_path: Path) -> None:
    device = tmp_path / "video0"
    device.touch()
    with device.open() as held, subprocess.Popen(["sleep", "60"], stdin=held) as user:
        try:
            error = explain(OSError(errno.EBUSY, "busy"), device)
        finally:
            user.kill()

    assert str(error) == f"{device} is in use by sleep (pid {user.pid})"


def test_group_of_the_device_is_named(tmp_path: Path) -> None:
    device = tmp_path / "video0"
    device.touch()
    group = os.stat(device).st_gid

    error = explain(PermissionError(errno.EACCES, "denied"), device)

    assert ("group video" in str(error)) == (group == 0)
