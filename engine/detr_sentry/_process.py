"""What every service process does first: die with its parent, name itself, show where it hangs."""

from __future__ import annotations

import ctypes
import faulthandler
import os
import signal

PR_SET_PDEATHSIG = 1  # linux/prctl.h
PR_SET_NAME = 15


def become_service(name: str, *, parent: int | None) -> None:
    """Name the process for `ps`, and ask the kernel to end it when its supervisor dies.

    `parent` is the supervisor's pid; a parent that died before the request was made ends this process at once. On
    SIGABRT, which the supervisor sends to a hung service, every thread's stack is printed.
    """
    faulthandler.enable()
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(PR_SET_NAME, f"ds-{name}".encode()[:15], 0, 0, 0)
    if parent is not None:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        if os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGTERM)
