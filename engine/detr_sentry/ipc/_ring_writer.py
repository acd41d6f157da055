"""The writing side of a ring: see `RingWriter`."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from detr_sentry.errors import IpcError, ShmFullError, WriterBusyError

from . import _ring_format as fmt

if TYPE_CHECKING:
    from pathlib import Path

_CLEAR_GRACE_S = 0.25
"""How long `clear` waits for readers: a healthy lease takes milliseconds, a stopped reader never ends."""

Prepare = Callable[[memoryview], None]


class _Slot:
    """A mapped slot. `header` and `payload` are views of it, `header` as u64 words."""

    __slots__ = ("fd", "file", "header", "map", "payload")

    def __init__(self, path: Path, slot_bytes: int) -> None:
        size = fmt.slot_file_bytes(slot_bytes)
        self.file = fmt.OpenFile(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
        self.fd = self.file.fd
        os.posix_fallocate(self.fd, 0, size)
        self.map = mmap.mmap(self.fd, size, flags=mmap.MAP_SHARED | mmap.MAP_POPULATE)
        root = memoryview(self.map)
        self.header = root[: fmt.SLOT_HEADER_BYTES].cast("Q")
        self.payload = root[fmt.SLOT_HEADER_BYTES : fmt.SLOT_HEADER_BYTES + slot_bytes]

    def close(self) -> None:
        self.header.release()
        self.payload.release()
        with suppress(BufferError):  # the caller kept an array over a begun slot; the mapping goes with it
            self.map.close()
        self.file.close()


class _Epoch:
    """One generation of files of one geometry."""

    __slots__ = ("directory", "file_bytes", "head", "head_file", "number", "slots")

    def __init__(self, stream: Path, number: int, *, slots: int, slot_bytes: int, prepare: Prepare | None) -> None:
        self.number = number
        self.directory = stream / str(number)
        self.file_bytes = fmt.slot_file_bytes(slot_bytes)
        self.slots: list[_Slot] = []
        try:
            self.directory.mkdir(mode=0o700)
            self.head_file = fmt.OpenFile(self.directory / "head", os.O_RDWR | os.O_CREAT | os.O_EXCL)
            os.posix_fallocate(self.head_file.fd, 0, fmt.HEAD_BYTES)
            head = mmap.mmap(self.head_file.fd, fmt.HEAD_BYTES)
            for index in range(slots):
                self.slots.append(_Slot(self.directory / str(index), slot_bytes))
        except OSError as error:
            for slot in self.slots:
                slot.close()
            self._remove()
            raise _explain(error, stream, slots * self.file_bytes + fmt.HEAD_BYTES) from error
        fmt.HEAD.pack_into(head, 0, fmt.MAGIC, fmt.VERSION, number, slots, slot_bytes)
        self.head = memoryview(head).cast("Q")
        if prepare is not None:
            for slot in self.slots:
                prepare(slot.payload)

    def intact(self, slot: _Slot) -> bool:
        """Whether the files behind `slot` and the head still have their size; storing beyond it would be SIGBUS."""
        return slot.file.size() >= self.file_bytes and self.head_file.size() >= fmt.HEAD_BYTES

    def unpublish(self) -> None:
        if self.head_file.size() >= fmt.HEAD_BYTES:
            self.head[fmt.PUBLISH_WORD] = 0

    def close(self, *, unlink: bool) -> None:
        for slot in self.slots:
            slot.close()
        self.slots.clear()
        self.head_file.close()
        if unlink:
            self._remove()

    def _remove(self) -> None:
        shutil.rmtree(self.directory, ignore_errors=True)


class RingWriter:
    """The one writer of a stream: fills slots that no reader leases and publishes them.

    `prepare` is called with the payload of every slot before it can be seen, to write what never changes. The life of
    a slot is `begin` -> fill the view -> `publish` (or `abort`). `sequence` is that of the last published slot,
    from 1 in every epoch; `dropped` counts what found no free slot. A writer belongs to one thread.

    A writer that is killed leaves its slot with sequence 0, which no reader accepts; its successor starts a new epoch.
    The directory is looked after: where its files are truncated or removed, the writer starts a new epoch.

    Raises:
        WriterBusyError: another process writes this stream.
        ShmFullError: the file system has not enough room; the previous epoch of this object is still in use.
        IpcError: the files cannot be made.
    """

    def __init__(self, directory: Path, *, slot_bytes: int, slots: int, prepare: Prepare | None = None) -> None:
        if not 2 <= slots <= fmt.MAX_SLOTS:
            raise IpcError(f"{directory}: {slots} slots; a ring has 2 to {fmt.MAX_SLOTS}")
        self.dropped = 0
        self.sequence = 0
        self.slot_bytes = 0
        self._directory = directory
        self._slots = slots
        self._prepare = prepare
        self._busy: _Slot | None = None
        self._view: memoryview | None = None
        self._index = 0
        self._word = 0
        self._verify_at = 0.0
        self._epoch: _Epoch | None = None
        self._lock = _lock(directory)
        fmt.close_in_forked_child(self)
        try:
            self._previous = self._remove_strangers()
            self._start(slot_bytes)
        except BaseException:
            self._lock.close()
            raise

    @property
    def epoch(self) -> int:
        """The number of the epoch in use; it never repeats within a stream and fits a double."""
        return self._open().number

    def begin(self) -> memoryview | None:
        """The writable payload of a free slot, or None where readers lease every other one (counted in `dropped`).

        The view dies on `publish` and `abort`; a frame begun before and not published is aborted.
        """
        if self._busy is not None:
            self.abort()
        if time.monotonic() >= self._verify_at:
            self._verify()
        epoch = self._open()
        newest = self._word & fmt.SLOT_MASK if self._word else -1
        index = self._index
        for _ in range(self._slots):
            index = (index + 1) % self._slots
            if index == newest:
                continue
            slot = epoch.slots[index]
            try:
                fcntl.flock(slot.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            if not epoch.intact(slot):
                self._start(self.slot_bytes)
                return self.begin()
            slot.header[0] = 0
            self._index = index
            self._busy = slot
            self._view = slot.payload[:]
            return self._view
        self.dropped += 1
        return None

    def publish(self) -> int:
        """Makes the begun slot the newest and returns its sequence.

        Raises:
            IpcError: no frame was begun.
        """
        slot = self._end()
        sequence = self.sequence + 1
        slot.header[0] = sequence
        fcntl.flock(slot.fd, fcntl.LOCK_UN)
        self.sequence = sequence
        self._word = sequence << fmt.SLOT_BITS | self._index
        self._open().head[fmt.PUBLISH_WORD] = self._word
        return sequence

    def abort(self) -> None:
        """Gives the begun slot back unpublished; does nothing where none was begun."""
        if self._busy is not None:
            fcntl.flock(self._end().fd, fcntl.LOCK_UN)

    def resize(self, slot_bytes: int) -> None:
        """Starts a new epoch with payloads of `slot_bytes`; the old one is unlinked and readers move over."""
        self.abort()
        self._start(slot_bytes)

    def clear(self) -> None:
        """Unpublishes the newest slot and zeroes all of them; the ring stays usable.

        A slot that a reader still leases after 250 ms is left behind in an unlinked epoch: its memory goes when
        that reader releases it or ends.
        """
        self.abort()
        epoch = self._open()
        epoch.unpublish()
        self._word = 0
        zeros = bytes(self.slot_bytes)
        leased = epoch.slots
        deadline = time.monotonic() + _CLEAR_GRACE_S
        while leased := [slot for slot in leased if not self._zero(epoch, slot, zeros)]:
            if time.monotonic() >= deadline:
                self._start(self.slot_bytes)
                return
            time.sleep(0.005)

    def close(self, *, unlink: bool = False) -> None:
        """Ends the writing; `unlink` also removes the stream, else readers keep seeing its last slot."""
        if self._epoch is None:
            return
        self.abort()
        unlink = unlink and _same_file(self._directory / "writer", self._lock)  # else it is another writer's by now
        if unlink:
            self._epoch.unpublish()
            self._remove_strangers()
            for name in ("writer", "current"):
                (self._directory / name).unlink(missing_ok=True)
        self._epoch.close(unlink=unlink)
        self._epoch = None
        self._lock.close()
        if unlink:
            with suppress(OSError):  # a file of somebody else's, or already gone
                self._directory.rmdir()

    def forget(self) -> None:
        """In a forked child: this object is closed, the parent's ring and locks are untouched."""
        if self._epoch is not None:
            self._busy = self._view = None
            self._epoch.close(unlink=False)
            self._epoch = None
            self._lock.close()

    def _open(self) -> _Epoch:
        if self._epoch is None:
            raise IpcError(f"{self._directory}: this writer is closed (or was inherited by a forked process)")
        return self._epoch

    def _end(self) -> _Slot:
        slot, view = self._busy, self._view
        if slot is None or view is None:
            raise IpcError(f"{self._directory}: publish without begin")
        self._busy = self._view = None
        with suppress(BufferError):  # an array over the view survives; it is the caller's own slot, not a reader's
            view.release()
        return slot

    def _zero(self, epoch: _Epoch, slot: _Slot, zeros: bytes) -> bool:
        """Zeroes and prepares a slot; False where a reader leases it."""
        try:
            fcntl.flock(slot.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        if epoch.intact(slot):
            slot.header[0] = 0
            slot.payload[:] = zeros
            if self._prepare is not None:
                self._prepare(slot.payload)
        fcntl.flock(slot.fd, fcntl.LOCK_UN)
        return True

    def _start(self, slot_bytes: int) -> None:
        """Makes a new epoch, points `current` at it and unlinks the one before."""
        if not 0 < slot_bytes <= fmt.MAX_SLOT_BYTES:
            raise IpcError(f"{self._directory}: slots of {slot_bytes} bytes")
        number = max(time.time_ns() // 1000, self._previous + 1)
        new = _Epoch(self._directory, number, slots=self._slots, slot_bytes=slot_bytes, prepare=self._prepare)
        fresh = self._directory / "current.new"
        try:
            fresh.unlink(missing_ok=True)
            fresh.symlink_to(str(number))
            fresh.rename(self._directory / "current")
        except OSError as error:
            new.close(unlink=True)
            raise _explain(error, self._directory, self._slots * new.file_bytes) from error
        old, self._epoch = self._epoch, new
        self._previous = number
        self.slot_bytes = slot_bytes
        self.sequence = self._word = self._index = 0
        self._verify_at = time.monotonic() + fmt.RECHECK_S
        if old is not None:
            old.unpublish()
            old.close(unlink=True)

    def _verify(self) -> None:
        """Starts a new epoch where somebody removed the files under this writer."""
        self._verify_at = time.monotonic() + fmt.RECHECK_S
        epoch = self._open()
        if not _same_file(self._directory / "writer", self._lock):
            lost, self._lock = self._lock, _lock(self._directory)
            lost.close()
        elif _link(self._directory) == str(epoch.number) and epoch.directory.is_dir():
            return
        self._start(self.slot_bytes)

    def _remove_strangers(self) -> int:
        """Unpublishes and removes epochs of dead writers; returns the highest number found, 0 for none."""
        highest = 0
        for path in self._directory.iterdir():
            if fmt.EPOCH_NAME.fullmatch(path.name) and (self._epoch is None or path != self._epoch.directory):
                highest = max(highest, int(path.name))
                _unpublish(path / "head")
                shutil.rmtree(path, ignore_errors=True)
        return highest


def _lock(directory: Path) -> fmt.OpenFile:
    """The file that holds the stream's writer lock as long as it is open."""
    path = directory / "writer"
    while True:
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            file = fmt.OpenFile(path, os.O_RDWR | os.O_CREAT)
        except OSError as error:
            raise IpcError(f"{directory}: cannot make the stream: {error}") from error
        try:
            fcntl.flock(file.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            owner = os.pread(file.fd, 32, 0).decode("ascii", "replace").strip() or "unknown"
            raise WriterBusyError(f"{directory}: process {owner} already writes this stream") from error
        if _same_file(path, file):
            os.ftruncate(file.fd, 0)
            os.pwrite(file.fd, f"{os.getpid()}\n".encode(), 0)
            return file
        # else the previous writer unlinked it between our open and our lock


def _unpublish(path: Path) -> None:
    """Tells the readers of a dead writer's epoch at once that it has ended."""
    with suppress(OSError):
        file = fmt.OpenFile(path, os.O_RDWR)
        if file.size() >= fmt.HEAD_BYTES:
            memoryview(mmap.mmap(file.fd, fmt.HEAD_BYTES)).cast("Q")[fmt.PUBLISH_WORD] = 0


def _same_file(path: Path, file: fmt.OpenFile) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fd))
    except OSError:
        return False


def _link(directory: Path) -> str | None:
    try:
        return os.readlink(directory / "current")
    except OSError:
        return None


def _explain(error: OSError, stream: Path, needed: int) -> IpcError:
    """What a failure to make a ring means to people."""
    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
        return IpcError(f"{stream}: cannot make the ring: {error}")
    usage = os.statvfs(stream)
    free = usage.f_bavail * usage.f_frsize
    return ShmFullError(
        f"{stream}: the ring needs {needed} bytes of shared memory, {free} are free; "
        "enlarge /dev/shm (Docker: shm_size, Kubernetes: sizeLimit of the memory emptyDir) or lower the resolution"
    )
