"""Places in shared memory and names of queues that no other test uses."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from detr_sentry.ipc.bells import Bell


@pytest.fixture
def stream() -> Iterator[Path]:
    """A stream directory that does not exist yet, in shared memory."""
    base = Path(tempfile.mkdtemp(prefix="detr-sentry-test-", dir="/dev/shm"))
    yield base / "door" / "frames"
    shutil.rmtree(base)


@pytest.fixture
def bell_name() -> Iterator[str]:
    """The name of a queue that does not exist yet."""
    name = f"/ds.test{os.getpid()}.inference"
    Bell.unlink(name)
    yield name
    Bell.unlink(name)


def _exit_status(work: Callable[[], bool]) -> int:
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    status = 2
    try:
        status = 0 if work() else 1
    finally:
        os._exit(status)


@pytest.fixture
def forked() -> Callable[[Callable[[], bool]], int]:
    """Runs a function in a forked child: 0 for True, 1 for False, 2 for an exception, below 0 for a signal."""
    return _exit_status
