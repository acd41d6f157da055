"""The files of a ring, as writer and readers agree on them.

::

    <stream>/writer           locked (LOCK_EX) by the one writer for its life; holds its pid as text
    <stream>/current          symbolic link to the epoch in use, replaced by rename
    <stream>/<epoch>/head     one page: magic, layout version, epoch, slots, slot bytes;
                              at byte 64 the publish word `sequence << 8 | slot`, 0 while nothing is published
    <stream>/<epoch>/<slot>   64 bytes of header (the slot's own sequence, 0 while it is written), then the payload

All words are native u64. Files never change their size; new sizes are a new epoch.
"""

from __future__ import annotations

import os
import re
import struct
import weakref
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from pathlib import Path

HEAD = struct.Struct("=8s4Q")
HEAD_BYTES = 4096
MAGIC = b"DETRRING"
VERSION = 1

PUBLISH_WORD = 8
"""Index of the publish word in the head, as u64: a cache line of its own."""

SLOT_HEADER_BYTES = 64
"""Keeps payloads aligned to a cache line, which is also what a frame's pixels are aligned to."""

SLOT_BITS = 8
SLOT_MASK = (1 << SLOT_BITS) - 1
MAX_SLOTS = SLOT_MASK
MAX_SLOT_BYTES = 1 << 32

EPOCH_NAME = re.compile(r"[0-9]{1,19}")

RECHECK_S = 0.25
"""How stale a look at `current` may get."""


def slot_file_bytes(slot_bytes: int) -> int:
    """Size of a slot's file for a payload of `slot_bytes`: whole pages."""
    return -(-(SLOT_HEADER_BYTES + slot_bytes) // 4096) * 4096


class OpenFile:
    """A descriptor that is closed, at the latest, with the last reference to this object.

    Locks and mappings outlive it where the file is mapped: a mapping keeps a descriptor of its own.
    """

    __slots__ = ("fd",)

    def __init__(self, path: Path | str, flags: int) -> None:
        self.fd = -1
        self.fd = os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)

    def size(self) -> int:
        """The size of the file now."""
        return os.lseek(self.fd, 0, os.SEEK_END)

    def close(self) -> None:
        """Closes it; a second call does nothing."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    def __del__(self) -> None:
        self.close()


class Forgetful(Protocol):
    """Something whose descriptors a forked child must not keep: they would prolong the parent's locks."""

    def forget(self) -> None:
        """Closes inherited descriptors without unlocking what the parent holds."""


_inherited: weakref.WeakSet[Forgetful] = weakref.WeakSet()


def close_in_forked_child(member: Forgetful) -> None:
    """Calls `member.forget()` in every child that is forked while `member` lives."""
    _inherited.add(member)


def _after_fork() -> None:
    for member in list(_inherited):
        member.forget()


os.register_at_fork(after_in_child=_after_fork)
