"""A stream of slots in shared memory: one writer, leased readers, never a torn read.

Slots are files and a lease is a kernel file lock (flock(2)): the writer fills only slots that it can lock exclusively;
a reader takes a shared lock on the slot that the head names and then checks the slot's own sequence. The head is a
hint; the check under the lock is the proof. The kernel drops the locks of a dead process and orders memory on every
processor, so there are no atomics and no recovery code.

The size of every file is checked (`lseek`, 0.2 us) before each use, because a page beyond the end of a truncated file
is SIGBUS and not an exception. What remains is a process of our own user that truncates a file in the milliseconds in
which a slot is leased or filled: no check from user space closes that window.
"""

from __future__ import annotations

from ._ring_reader import Lease, RingReader
from ._ring_writer import RingWriter

__all__ = ["Lease", "RingReader", "RingWriter"]
