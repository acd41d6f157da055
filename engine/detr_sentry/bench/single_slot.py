"""The protocol that the ring replaces, as a model: one slot and a sequence that is raised after the copy.

So does the reference implementation (jordandelbar/detr-mmap, a Rust program; this is a model of its protocol and not
its code): a reader takes the sequence, uses the pixels, and accepts them if the sequence has not changed. A read that
falls inside one copy sees the same sequence before and after, and accepts a torn frame.
"""

from __future__ import annotations

import mmap
import os
import signal
import time

import numpy as np

_HEADER = 64


def torn_by_single_slot(*, seconds: float, slot_bytes: int = 1 << 18) -> dict[str, int]:
    """Reads one slot under a full-speed writer for `seconds`: `accepted` and `torn` frames, every byte compared.

    Forks: call it from a process without threads or event loop.
    """
    memory = mmap.mmap(-1, _HEADER + slot_bytes)
    header = memoryview(memory)[:_HEADER].cast("Q")
    words = np.frombuffer(memory, np.uint64, offset=_HEADER)
    writer = os.fork()
    if not writer:  # pragma: no cover -- the child is killed and never reports
        sequence, parent = 0, os.getppid()
        while os.getppid() == parent:
            sequence += 1
            words[:] = sequence
            header[0] = sequence
        os._exit(1)
    accepted = torn = 0
    try:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            before = header[0]
            whole = words.min() == words.max()
            if before and header[0] == before:
                accepted += 1
                torn += not whole
    finally:
        os.kill(writer, signal.SIGKILL)
        os.waitpid(writer, 0)
    return {"accepted": accepted, "torn": torn}


if __name__ == "__main__":
    import json
    import sys

    print(json.dumps(torn_by_single_slot(seconds=float(sys.argv[1]))))
