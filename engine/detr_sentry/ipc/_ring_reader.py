"""The reading side of a ring: see `RingReader`."""

from __future__ import annotations

import mmap
import os
import struct
from contextlib import suppress
from fcntl import LOCK_NB, LOCK_SH, LOCK_UN, flock
from os import SEEK_END, lseek
from sys import getrefcount
from threading import get_ident
from time import monotonic
from typing import TYPE_CHECKING, Self

from detr_sentry.errors import CorruptMessageError, LeaseError

from . import _ring_format as fmt

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

_ATTEMPTS = 16
"""Looks at the head before a reader gives up for now; each lost race means that a newer slot was published."""

_WORD = struct.Struct("@Q").unpack_from  # native: one aligned load; the standard sizes are read byte by byte
_PUBLISH_OFFSET = fmt.PUBLISH_WORD * 8
_HEAD_BYTES = fmt.HEAD_BYTES
_SHARED = LOCK_SH | LOCK_NB


def _map(file: fmt.OpenFile, size: int, what: Path) -> mmap.mmap:
    found = file.size()
    if found < size:
        raise CorruptMessageError(f"{what}: {found} bytes, expected {size}")
    return mmap.mmap(file.fd, size, flags=mmap.MAP_SHARED | mmap.MAP_POPULATE, prot=mmap.PROT_READ)


class _Slot:
    """A slot, opened by this reader itself: a file lock belongs to the open file."""

    __slots__ = ("fd", "file", "idle_references", "map")

    def __init__(self, path: Path, size: int) -> None:
        self.file = fmt.OpenFile(path, os.O_RDONLY)
        self.fd = self.file.fd
        self.map = _map(self.file, size, path)
        self.idle_references = getrefcount(self.map)
        """What a release must find again: every buffer over the mapping, however it was derived, keeps the map."""

    def close(self) -> None:
        """Closes it; where a buffer is still alive, mapping and lock last as long as that buffer."""
        self.file.close()
        with suppress(BufferError):
            self.map.close()


def _geometry(head: mmap.mmap, expected_epoch: int, path: Path) -> tuple[int, int]:
    """Slots and slot bytes of a head that can be believed."""
    magic, version, epoch, slots, slot_bytes = fmt.HEAD.unpack_from(head)
    if magic != fmt.MAGIC:
        raise CorruptMessageError(f"{path}: not the head of a ring")
    if version != fmt.VERSION:
        raise CorruptMessageError(f"{path}: layout version {version}, expected {fmt.VERSION}")
    if epoch != expected_epoch or not 2 <= slots <= fmt.MAX_SLOTS or not 0 < slot_bytes <= fmt.MAX_SLOT_BYTES:
        raise CorruptMessageError(f"{path}: epoch {epoch}, {slots} slots of {slot_bytes} bytes")
    return slots, slot_bytes


class _Attachment:
    """One epoch as a reader sees it: a checked head, and slots opened at their first lease."""

    __slots__ = ("directory", "end", "epoch", "file_bytes", "head", "head_fd", "head_file", "name", "slots")

    def __init__(self, directory: Path, name: str) -> None:
        if fmt.EPOCH_NAME.fullmatch(name) is None:
            raise CorruptMessageError(f"{directory}: current names {name!r}, which is not an epoch")
        self.name = name
        self.epoch = int(name)
        self.directory = directory / name
        path = self.directory / "head"
        self.head_file = fmt.OpenFile(path, os.O_RDONLY)
        self.head_fd = self.head_file.fd
        self.head = _map(self.head_file, fmt.HEAD_BYTES, path)
        slots, slot_bytes = _geometry(self.head, self.epoch, path)
        self.end = fmt.SLOT_HEADER_BYTES + slot_bytes
        self.file_bytes = fmt.slot_file_bytes(slot_bytes)
        self.slots: list[_Slot | None] = [None] * slots

    def intact(self) -> bool:
        """Whether the head still has its size; reading beyond it would be SIGBUS."""
        return lseek(self.head_fd, 0, SEEK_END) >= _HEAD_BYTES

    def word(self) -> int:
        """The publish word; 0 where nothing is published or the head was truncated."""
        if lseek(self.head_fd, 0, SEEK_END) < _HEAD_BYTES:
            return 0
        word: int = _WORD(self.head, _PUBLISH_OFFSET)[0]
        return word

    def slot(self, index: int) -> _Slot | None:
        """The opened slot, or None where it cannot be used: no such index, gone or truncated."""
        if index >= len(self.slots):
            return None
        slot = self.slots[index]
        if slot is None:
            try:
                slot = self.slots[index] = _Slot(self.directory / str(index), self.file_bytes)
            except (OSError, CorruptMessageError):
                return None
        elif lseek(slot.fd, 0, SEEK_END) < self.file_bytes:
            return None
        return slot

    def close(self) -> None:
        self.head_file.close()
        self.head.close()
        for slot in self.slots:
            if slot is not None:
                slot.close()


class Lease:
    """The right to read one slot: `view` (read-only) is its payload, and the writer leaves it alone until `release`.

    Use it as a context manager, for milliseconds, and never across an `await`. `key` is `(epoch, sequence)`.
    """

    __slots__ = ("_children", "_reader", "_slot", "epoch", "sequence", "view")

    def __init__(self, reader: RingReader, slot: _Slot, view: memoryview, epoch: int, sequence: int) -> None:
        self._reader = reader
        self._slot: _Slot | None = slot
        self._children: list[memoryview] | None = None
        self.view = view
        self.epoch = epoch
        self.sequence = sequence

    @property
    def key(self) -> tuple[int, int]:
        """The identity of what the slot holds."""
        return (self.epoch, self.sequence)

    def part(self, start: int, end: int) -> memoryview:
        """`view[start:end]`, which dies with the lease, whoever still holds it."""
        part = self.view[start:end]
        if self._children is None:
            self._children = []
        self._children.append(part)
        return part

    def release(self) -> None:
        """Gives the slot back and kills `view` and its parts; a second call does nothing.

        Raises:
            LeaseError: an array or view over the slot is still alive: a defect of the caller, who must copy what is to
                last. The slot stays locked until that array dies, so its bytes stay true, and the reader goes on.
        """
        slot = self._slot
        if slot is None:
            return
        self._slot = None
        try:
            if self._children is not None:
                for part in self._children:
                    part.release()
            self.view.release()
            whole = getrefcount(slot.map) == slot.idle_references
        except BufferError:
            whole = False
        self._reader.lease = None
        if whole:
            flock(slot.fd, LOCK_UN)
            return
        self._reader.lose(slot)
        raise LeaseError(f"slot {self.key} was released while an array or view over it is in use: copy it instead")

    def void(self) -> None:
        """Kills the lease without unlocking: the reader or the process it belonged to is gone."""
        self._slot = None
        with suppress(BufferError):
            for part in self._children or ():
                part.release()
            self.view.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.release()
        except LeaseError:
            if error is None:  # else the traceback in flight may hold the array, and its error matters more
                raise


class RingReader:
    """A reader of a stream that need not exist yet: attaches by itself, and again whenever the writer starts an epoch.

    Readers and writers restart in any order: a reader looks at `current` where nothing is published (a new writer
    unpublishes what is left of the old one), on every mismatch, and where nothing new came for 250 ms. It holds at most
    one lease and belongs to the thread that uses it first. In a forked child it is detached and attaches anew.
    `problem` says why it is not attached, for people.
    """

    def __init__(self, directory: Path) -> None:
        self.problem: str | None = "not looked yet"
        self._directory = directory
        self._current = os.fspath(directory / "current")
        self._attachment: _Attachment | None = None
        self.lease: Lease | None = None
        self._thread = 0
        self._seen = 0
        self._leased = 0
        self._look_at = 0.0
        fmt.close_in_forked_child(self)

    @property
    def attached(self) -> bool:
        """Whether the reader maps an epoch."""
        return self._attachment is not None

    @property
    def epoch(self) -> int:
        """The number of the epoch that the reader maps; 0 for none."""
        return 0 if self._attachment is None else self._attachment.epoch

    def latest(self) -> tuple[int, int] | None:
        """`(epoch, sequence)` of the newest slot without leasing it; None where there is none."""
        if self._thread != get_ident():
            self._bind()
        attachment = self._attachment
        word = 0 if attachment is None else attachment.word()
        if self.lease is None and (not word or (word == self._seen and monotonic() >= self._look_at)):
            attachment = self._look()
            word = 0 if attachment is None else attachment.word()
        self._seen = word
        return (attachment.epoch, word >> fmt.SLOT_BITS) if attachment is not None and word else None

    def acquire(self, *, newer_than: tuple[int, int] | None = None) -> Lease | None:
        """A lease of the newest slot, or None where there is none, or none newer than the key `newer_than`.

        A slot of another epoch than that of `newer_than` is newer. None also comes where the reader lost every race
        for the head's slot; the next bell brings a newer one.

        Raises:
            LeaseError: the last lease is not released, or another thread calls.
        """
        if self.lease is not None:
            raise LeaseError(f"{self._directory}: one lease at a time; release slot {self.lease.key} first")
        if self._thread != get_ident():
            self._bind()
        for _ in range(_ATTEMPTS):
            attachment = self._attachment
            word = 0 if attachment is None else attachment.word()
            if not word or (word == self._leased and monotonic() >= self._look_at):
                attachment = self._look()
                word = 0 if attachment is None else attachment.word()
            if attachment is None or not word:
                return None
            if newer_than is not None and attachment.epoch == newer_than[0] and word >> fmt.SLOT_BITS <= newer_than[1]:
                if monotonic() < self._look_at or self._look() is attachment:
                    return None
            elif self._take(attachment, word):
                return self.lease
        return None

    def acquire_sequence(self, sequence: int) -> Lease | None:
        """A lease of the slot that still holds `sequence` of the epoch in use; None if it was overwritten or never was.

        A ring keeps its last few slots until the writer comes round, so what was published a moment ago can be found.

        Raises:
            LeaseError: the last lease is not released, or another thread calls.
        """
        if self.lease is not None:
            raise LeaseError(f"{self._directory}: one lease at a time; release slot {self.lease.key} first")
        if self._thread != get_ident():
            self._bind()
        attachment = self._attachment or self._look()
        if attachment is None or sequence < 1:
            return None
        for index in range(len(attachment.slots)):
            slot = attachment.slot(index)
            if slot is not None and _WORD(slot.map)[0] == sequence:
                return self.lease if self._take(attachment, sequence << fmt.SLOT_BITS | index) else None
        return None

    def lose(self, slot: _Slot) -> None:
        """For the lease: the slot stays locked by a buffer that outlives it, so that the reader must open it anew."""
        attachment = self._attachment
        assert attachment is not None  # a reader detaches only without a lease
        attachment.slots[attachment.slots.index(slot)] = None
        slot.close()

    def close(self) -> None:
        """Gives up lease, mapping and thread; a later call attaches anew."""
        lease, self.lease = self.lease, None
        if lease is not None:
            lease.void()
        self._detach("closed")
        self._thread = 0

    def forget(self) -> None:
        """In a forked child: lets go of the parent's descriptors without touching the parent's lease."""
        self.close()

    def _bind(self) -> None:
        if self._thread:
            raise LeaseError(f"{self._directory}: this reader belongs to another thread")
        self._thread = get_ident()

    def _take(self, attachment: _Attachment, word: int) -> bool:
        """Leases the slot that the head named by `word`, if it still holds that sequence."""
        slot = attachment.slot(word & fmt.SLOT_MASK)
        if slot is None:
            self._detach(f"{attachment.directory}: slot {word & fmt.SLOT_MASK} is missing or truncated")
            return False
        try:
            flock(slot.fd, _SHARED)
        except BlockingIOError:
            return False
        sequence = word >> fmt.SLOT_BITS
        if _WORD(slot.map)[0] != sequence:
            flock(slot.fd, LOCK_UN)
            self._look()
            return False
        view = memoryview(slot.map)[fmt.SLOT_HEADER_BYTES : attachment.end]
        self.lease = Lease(self, slot, view, attachment.epoch, sequence)
        self._leased = word
        return True

    def _look(self) -> _Attachment | None:
        """The attachment to the epoch that `current` names now: the same one, a new one, or None."""
        self._look_at = monotonic() + fmt.RECHECK_S
        attachment = self._attachment
        try:
            name = os.readlink(self._current)
            if attachment is not None:
                if name == attachment.name and attachment.intact():
                    return attachment
                self._detach(f"{self._directory}: epoch {attachment.name} has ended")
            self._attachment = _Attachment(self._directory, name)
        except FileNotFoundError:
            self._detach(f"{self._directory}: nobody writes this stream")
        except (OSError, CorruptMessageError) as error:
            self._detach(str(error))
        else:
            self.problem = None
        return self._attachment

    def _detach(self, problem: str) -> None:
        attachment, self._attachment = self._attachment, None
        self._seen = self._leased = 0
        self.problem = problem
        if attachment is not None:
            attachment.close()
