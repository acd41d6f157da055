"""The reading side of a ring: see `RingReader`."""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
from contextlib import suppress
from sys import getrefcount
from threading import get_ident
from typing import TYPE_CHECKING, Self

from detr_sentry.errors import CorruptMessageError, LeaseError

from . import _ring_format as fmt

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

_ATTEMPTS = 16
"""Looks at the head before a reader gives up for now; each lost race means that a newer slot was published."""

_WORD = struct.Struct("=Q").unpack_from
_PUBLISH_OFFSET = fmt.PUBLISH_WORD * 8


def _map(fd: int, size: int, what: str) -> mmap.mmap:
    found = os.fstat(fd).st_size
    if found < size:
        raise CorruptMessageError(f"{what}: {found} bytes, expected {size}")
    return mmap.mmap(fd, size, flags=mmap.MAP_SHARED | mmap.MAP_POPULATE, prot=mmap.PROT_READ)


class _Slot:
    """A slot, opened by this reader itself: a file lock belongs to the open file."""

    __slots__ = ("fd", "idle_references", "map")

    def __init__(self, path: Path, size: int) -> None:
        self.fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            self.map = _map(self.fd, size, str(path))
        except BaseException:
            os.close(self.fd)
            raise
        self.idle_references = getrefcount(self.map)

    def leaked(self) -> bool:
        """Whether a buffer over the mapping is still alive: each keeps the map, however it was derived."""
        return getrefcount(self.map) > self.idle_references

    def close(self) -> None:
        """Closes it; where a buffer is still alive, mapping and lock last as long as that buffer."""
        os.close(self.fd)
        with suppress(BufferError):
            self.map.close()


class _Attachment:
    """One epoch as a reader sees it: a checked head, and slots opened at their first lease."""

    __slots__ = ("directory", "end", "epoch", "file_bytes", "head", "head_fd", "name", "slots")

    def __init__(self, directory: Path, name: str) -> None:
        self.name = name
        self.epoch = int(name)
        self.directory = directory / name
        path = self.directory / "head"
        self.head_fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            self.head = _map(self.head_fd, fmt.HEAD_BYTES, str(path))
            magic, version, epoch, slots, slot_bytes = fmt.HEAD.unpack_from(self.head)
            if magic != fmt.MAGIC:
                raise CorruptMessageError(f"{path}: not the head of a ring")
            if version != fmt.VERSION:
                raise CorruptMessageError(f"{path}: layout version {version}, expected {fmt.VERSION}")
            if epoch != self.epoch or not 2 <= slots <= fmt.MAX_SLOTS or not 0 < slot_bytes <= fmt.MAX_SLOT_BYTES:
                raise CorruptMessageError(f"{path}: epoch {epoch}, {slots} slots of {slot_bytes} bytes")
        except BaseException:
            os.close(self.head_fd)
            raise
        self.end = fmt.SLOT_HEADER_BYTES + slot_bytes
        self.file_bytes = fmt.slot_file_bytes(slot_bytes)
        self.slots: list[_Slot | None] = [None] * slots

    def word(self) -> int:
        """The publish word; 0 where nothing is published or the head was truncated."""
        if os.lseek(self.head_fd, 0, os.SEEK_END) < fmt.HEAD_BYTES:
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
        elif os.lseek(slot.fd, 0, os.SEEK_END) < self.file_bytes:
            return None
        return slot

    def close(self) -> None:
        os.close(self.head_fd)
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
            LeaseError: an array or view over the slot is still alive. The slot then stays locked until that dies, so its bytes
                stay true, and the reader goes on with the other slots; but it is a defect of the caller: copy what must last.
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
            leaked = slot.leaked()
        except BufferError:
            leaked = True
        if not leaked:
            fcntl.flock(slot.fd, fcntl.LOCK_UN)
            self._reader.ended(self)
            return
        self._reader.ended(self, lost=slot)
        raise LeaseError(
            f"slot {self.key} was released while an array or view over it is still in use: copy it instead"
        )

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
    """A reader of a stream that need not exist yet: attaches by itself, and again whenever the writer starts a new epoch.

    A reader holds at most one lease and belongs to the thread that takes its first one. In a forked child it is
    detached and attaches anew. `problem` says why it is not attached, for people.
    """

    def __init__(self, directory: Path) -> None:
        self.problem: str | None = "not looked yet"
        self._directory = directory
        self._current = os.fspath(directory / "current")
        self._attachment: _Attachment | None = None
        self._lease: Lease | None = None
        self._thread = 0
        self._seen = 0
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
        attachment = self._attachment
        if attachment is not None:
            word = attachment.word()
            if word not in (0, self._seen):
                self._seen = word
                return (attachment.epoch, word >> fmt.SLOT_BITS)
            if self._lease is not None or not self._stale(attachment):
                return (attachment.epoch, word >> fmt.SLOT_BITS) if word else None
        attachment = self._attach()
        if attachment is None:
            return None
        self._seen = word = attachment.word()
        return (attachment.epoch, word >> fmt.SLOT_BITS) if word else None

    def acquire(self, *, newer_than: tuple[int, int] | None = None) -> Lease | None:
        """A lease of the newest slot, or None where there is none, or none other than up to `newer_than` of its epoch.

        Raises:
            LeaseError: the last lease is not released, or another thread calls.
        """
        if self._lease is not None:
            raise LeaseError(
                f"{self._directory}: a reader holds one lease at a time; release slot {self._lease.key} first"
            )
        if self._thread != get_ident():
            self._bind()
        for _ in range(_ATTEMPTS):
            attachment = self._attachment
            if attachment is None:
                attachment = self._attach()
                if attachment is None:
                    return None
            word = attachment.word()
            sequence = word >> fmt.SLOT_BITS
            if not word or (newer_than is not None and newer_than[0] == attachment.epoch and sequence <= newer_than[1]):
                if not self._stale(attachment):
                    return None
                continue
            slot = attachment.slot(word & fmt.SLOT_MASK)
            if slot is None:
                self._detach()
                continue
            try:
                fcntl.flock(slot.fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            if _WORD(slot.map)[0] == sequence:
                view = memoryview(slot.map)[fmt.SLOT_HEADER_BYTES : attachment.end]
                self._lease = lease = Lease(self, slot, view, attachment.epoch, sequence)
                return lease
            fcntl.flock(slot.fd, fcntl.LOCK_UN)
            self._stale(attachment)
        return None

    def ended(self, lease: Lease, *, lost: _Slot | None = None) -> None:
        """Called by the lease: it is over; a `lost` slot stays locked by a buffer that outlives it and is opened anew."""
        if self._lease is lease:
            self._lease = None
        attachment = self._attachment
        if lost is not None and attachment is not None:
            attachment.slots[attachment.slots.index(lost)] = None
            lost.close()

    def close(self) -> None:
        """Gives up lease, mapping and thread; a later call attaches anew."""
        lease, self._lease = self._lease, None
        if lease is not None:
            lease.void()
        self._detach()
        self._thread = 0
        self.problem = "closed"

    def forget(self) -> None:
        """In a forked child: lets go of the parent's descriptors without touching the parent's lease."""
        self.close()

    def _bind(self) -> None:
        if self._thread:
            raise LeaseError(f"{self._directory}: this reader belongs to another thread")
        self._thread = get_ident()

    def _stale(self, attachment: _Attachment) -> bool:
        """Detaches and says True where `current` names another epoch, or none."""
        try:
            name = os.readlink(self._current)
        except OSError:
            name = ""
        if name == attachment.name and os.lseek(attachment.head_fd, 0, os.SEEK_END) >= fmt.HEAD_BYTES:
            return False
        self._detach()
        return True

    def _attach(self) -> _Attachment | None:
        try:
            name = os.readlink(self._current)
            if fmt.EPOCH_NAME.fullmatch(name) is None:
                raise CorruptMessageError(f"{self._current}: names {name!r}, which is not an epoch")  # noqa: TRY301 -- one exit
            self._attachment = _Attachment(self._directory, name)
        except FileNotFoundError:
            self.problem = f"{self._directory}: nobody has written this stream yet"
        except (OSError, CorruptMessageError) as error:
            self.problem = str(error)
        else:
            self.problem = None
        return self._attachment

    def _detach(self) -> None:
        attachment, self._attachment = self._attachment, None
        self._seen = 0
        if attachment is not None:
            self.problem = f"{self._directory}: detached from epoch {attachment.name}"
            attachment.close()
