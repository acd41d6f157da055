"""Processes come and go in any order, by exit, kill and fork."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from detr_sentry.errors import IpcError, WriterBusyError
from detr_sentry.ipc import _ring_format, _ring_writer
from detr_sentry.ipc.ring import RingReader, RingWriter

WRITER = """
import sys, time
from pathlib import Path
from detr_sentry.ipc.ring import RingWriter
writer = RingWriter(Path(sys.argv[1]), slot_bytes=4096, slots=3)
view = writer.begin()
view[:] = b"\\1" * 4096
writer.publish()
view = writer.begin()
view[:2048] = b"\\2" * 2048
print(writer.epoch, flush=True)
time.sleep(60)
"""


def put(writer: RingWriter, content: bytes) -> int:
    view = writer.begin()
    assert view is not None
    view[: len(content)] = content
    return writer.publish()


def read(reader: RingReader, size: int = 5) -> bytes | None:
    lease = reader.acquire()
    if lease is None:
        return None
    with lease:
        return bytes(lease.view[:size])


def test_a_writer_killed_inside_a_frame_leaves_only_the_frame_before(stream: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", WRITER, str(stream)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        epoch = int(process.stdout.readline())
        process.send_signal(signal.SIGKILL)
    late, reader = RingReader(stream), RingReader(stream)

    half_written = [path for path in stream.glob("[0-9]*/[0-9]*") if b"\2" in path.read_bytes()]

    assert 1 == len(half_written)
    assert (epoch, 1) == reader.latest() == late.latest()
    assert b"\1" * 4096 == read(reader, 4096)

    successor = RingWriter(stream, slot_bytes=4096, slots=3)

    assert read(reader) is None
    assert not half_written[0].exists()

    put(successor, b"fresh")

    assert b"fresh" == read(reader) == read(late)
    assert epoch < reader.epoch


def test_a_reader_moves_on_at_once_though_it_never_asks_for_newer(stream: Path) -> None:
    writer = RingWriter(stream, slot_bytes=100, slots=3)
    reader = RingReader(stream)
    put(writer, b"first")

    assert b"first" == read(reader)

    writer.close()
    successor = RingWriter(stream, slot_bytes=100, slots=3)
    put(successor, b"after")

    assert b"after" == read(reader)


@pytest.mark.parametrize("call", ["acquire", "latest", "newer"])
def test_a_reader_notices_within_the_recheck_time_that_its_epoch_has_no_name(stream: Path, call: str) -> None:
    writer = RingWriter(stream, slot_bytes=100, slots=3)
    reader = RingReader(stream)
    put(writer, b"first")
    key = reader.latest()

    assert b"first" == read(reader)

    (stream / "current").unlink()  # as if the directory had been removed under both of them
    deadline = time.monotonic() + 5
    asks: dict[str, Callable[[], object]] = {
        "acquire": lambda: read(reader),
        "latest": reader.latest,
        "newer": lambda: reader.acquire(newer_than=key),
    }
    while reader.attached and time.monotonic() < deadline:
        asks[call]()
        time.sleep(0.01)

    assert not reader.attached


@pytest.mark.parametrize("leased_before", [True, False])
def test_a_writer_that_dies_before_it_unpublishes_the_old_epoch(
    *, stream: Path, monkeypatch: pytest.MonkeyPatch, leased_before: bool
) -> None:
    writer = RingWriter(stream, slot_bytes=100, slots=3)
    reader = RingReader(stream)
    put(writer, b"first")
    key = reader.latest()

    assert not leased_before or b"first" == read(reader)

    monkeypatch.setattr(_ring_writer._Epoch, "unpublish", lambda _: None)
    writer.resize(100)
    put(writer, b"after")
    deadline = time.monotonic() + 5
    while (lease := reader.acquire(newer_than=key)) is None and time.monotonic() < deadline:
        time.sleep(0.01)

    assert lease is not None
    assert b"after" == bytes(lease.view[:5])


def test_epochs_never_repeat(stream: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time_ns", lambda: 1_000_000)
    first = RingWriter(stream, slot_bytes=100, slots=3)
    numbers = [first.epoch]
    first.resize(200)
    numbers.append(first.epoch)
    first.close()
    numbers.append(RingWriter(stream, slot_bytes=100, slots=3).epoch)

    assert [1000, 1001, 1002] == numbers
    assert float(time.time_ns() // 1000) < 2**53


def test_what_a_dead_writer_left_is_removed(stream: Path) -> None:
    for name in ("1", "2"):
        (stream / name).mkdir(parents=True)
    (stream / "1" / "head").write_bytes(b"short")
    (stream / "current.new").symlink_to("1")
    (stream / "current").symlink_to("7")
    reader = RingReader(stream)

    assert reader.latest() is None

    writer = RingWriter(stream, slot_bytes=100, slots=3)

    assert {"writer", "current", str(writer.epoch)} == {path.name for path in stream.iterdir()}


def test_a_forked_child_cannot_disturb_the_lease_of_its_parent(
    stream: Path, forked: Callable[[Callable[[], bool]], int]
) -> None:
    writer = RingWriter(stream, slot_bytes=100, slots=2)
    reader = RingReader(stream)
    put(writer, b"hello")
    lease = reader.acquire()
    assert lease is not None

    def child() -> bool:
        lease.release()
        own = reader.acquire()
        if own is None or bytes(own.view[:5]) != b"hello":
            return False
        own.release()
        reader.close()
        return True

    assert 0 == forked(child)

    put(writer, b"newer")

    assert writer.begin() is None
    assert b"hello" == bytes(lease.view[:5])

    lease.release()

    assert writer.begin() is not None


def test_a_forked_child_cannot_write_nor_keep_the_writer_lock(
    stream: Path, forked: Callable[[Callable[[], bool]], int]
) -> None:
    writer = RingWriter(stream, slot_bytes=100, slots=2)
    writer.begin()
    ready, release = os.pipe(), os.pipe()

    def child() -> bool:
        try:
            writer.begin()
        except IpcError:
            os.write(ready[1], b".")
            return os.read(release[0], 1) == b"."
        return False

    pid = os.fork()
    if pid == 0:
        os._exit(0 if child() else 1)
    assert b"." == os.read(ready[0], 1)
    writer.close()

    RingWriter(stream, slot_bytes=100, slots=2)  # the living child does not hold the lock

    os.write(release[1], b".")

    assert 0 == os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    for fd in (*ready, *release):
        os.close(fd)


def test_every_ring_of_a_process_is_forgotten_after_a_fork(stream: Path) -> None:
    writer = RingWriter(stream, slot_bytes=100, slots=2)
    reader = RingReader(stream)
    put(writer, b"hello")

    assert b"hello" == read(reader)

    _ring_format._after_fork()
    _ring_format._after_fork()

    assert not reader.attached
    with pytest.raises(IpcError, match="inherited"):
        writer.begin()


def test_the_writer_lock_survives_a_race_with_an_unlinking_writer(
    stream: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between our open and our lock, the previous writer removes the file: the lock on it is worth nothing."""
    previous = RingWriter(stream, slot_bytes=100, slots=2)
    opened = os.open
    raced: list[Path] = []

    def open_late(path: Path, flags: int, mode: int = 0o777) -> int:
        fd = opened(path, flags, mode)
        if Path(path).name == "writer" and not raced:
            raced.append(path)
            previous.close(unlink=True)
        return fd

    monkeypatch.setattr(os, "open", open_late)
    writer = RingWriter(stream, slot_bytes=100, slots=2)

    assert raced
    with pytest.raises(WriterBusyError):
        RingWriter(stream, slot_bytes=100, slots=2)
    assert 1 == put(writer, b"hello")
