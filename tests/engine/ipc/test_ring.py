"""What a ring promises while all is well."""

from __future__ import annotations

import ctypes
import os
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from pickle import PickleBuffer
from typing import SupportsBytes

import numpy as np
import pytest

from detr_sentry.errors import IpcError, LeaseError, WriterBusyError
from detr_sentry.ipc.ring import Lease, RingReader, RingWriter


def put(writer: RingWriter, content: bytes) -> int:
    view = writer.begin()
    assert view is not None
    view[: len(content)] = content
    return writer.publish()


def take(reader: RingReader, newer_than: tuple[int, int] | None = None) -> Lease:
    lease = reader.acquire(newer_than=newer_than)
    assert lease is not None
    return lease


def read(reader: RingReader, size: int = 5) -> bytes | None:
    lease = reader.acquire()
    if lease is None:
        return None
    with lease:
        return bytes(lease.view[:size])


def test_reader_gets_what_the_writer_published(stream: Path) -> None:
    reader = RingReader(stream)

    assert reader.latest() is None
    assert not reader.attached
    assert "nobody writes" in str(reader.problem)

    writer = RingWriter(stream, slot_bytes=1000, slots=3)

    assert read(reader) is None
    assert (True, None, writer.epoch) == (reader.attached, reader.problem, reader.epoch)

    put(writer, b"hello")
    with take(reader) as lease:
        assert b"hello" == bytes(lease.view[:5])
        assert 1000 == lease.view.nbytes
        assert lease.view.readonly
        assert (writer.epoch, 1) == lease.key == reader.latest() == (lease.epoch, lease.sequence)


def test_files_are_private_and_payloads_aligned(stream: Path) -> None:
    writer = RingWriter(stream, slot_bytes=1000, slots=3)
    reader = RingReader(stream)
    put(writer, b"hello")
    lease = take(reader)
    address = np.frombuffer(lease.view, np.uint8).ctypes.data
    lease.release()

    assert 0 == address % 64
    for path in [stream, *stream.rglob("*")]:
        mode = stat.S_IMODE(path.lstat().st_mode)
        assert mode & 0o077 == 0 or path.is_symlink(), path
    assert all(4096 == path.stat().st_size for path in stream.glob("[0-9]*/*"))
    assert all(not os.get_inheritable(int(fd)) for fd in os.listdir("/proc/self/fd") if _names(fd, stream))


def _names(fd: str, stream: Path) -> bool:
    try:
        return str(stream) in os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        return False


def test_newest_wins_and_newer_than_asks_for_more(stream: Path) -> None:
    writer = RingWriter(stream, slot_bytes=100, slots=3)
    reader = RingReader(stream)
    for sequence in range(1, 8):
        assert sequence == put(writer, b"%05d" % sequence)
    with take(reader) as lease:
        key = lease.key

        assert b"00007" == bytes(lease.view[:5])

    assert reader.acquire(newer_than=key) is None

    put(writer, b"00008")
    with take(reader, newer_than=key) as lease:
        assert b"00008" == bytes(lease.view[:5])
    with take(reader, newer_than=(key[0] - 1, 99)) as lease:
        assert 8 == lease.sequence


def test_a_sequence_can_be_found_until_the_writer_comes_round(stream: Path) -> None:
    writer = RingWriter(stream, slot_bytes=64, slots=4)
    reader = RingReader(stream)

    assert reader.acquire_sequence(1) is None

    for content in (b"one  ", b"two  ", b"three"):
        put(writer, content)
    lease = reader.acquire_sequence(2)

    assert lease is not None
    assert (2, b"two  ") == (lease.sequence, bytes(lease.view[:5]))
    with pytest.raises(LeaseError):
        reader.acquire_sequence(3)

    for content in (b"four ", b"five ", b"six  ", b"seven"):
        put(writer, content)

    assert bytes(lease.view[:5]) == b"two  "

    lease.release()

    assert [None] * 3 == [reader.acquire_sequence(gone) for gone in (0, 1, 99)]
    assert read(reader) == b"seven"

    reader.close()
    writer.close()


def test_writer_never_touches_a_leased_slot(stream: Path) -> None:
    writer = RingWriter(stream, slot_bytes=100, slots=4)
    readers = [RingReader(stream), RingReader(stream)]
    held = []
    for number, reader in enumerate(readers):
        put(writer, b"held%d" % number)
        held.append(take(reader))
    for number in range(20):
        put(writer, b"%05d" % number)

    assert [b"held0", b"held1"] == [bytes(lease.view[:5]) for lease in held]
    assert 0 == writer.dropped


def test_counts_what_finds_no_free_slot(stream: Path) -> None:
    writer = RingWriter(stream, slot_bytes=100, slots=2)
    reader = RingReader(stream)
    put(writer, b"first")
    lease = take(reader)
    put(writer, b"newer")

    assert writer.begin() is None
    assert 1 == writer.dropped

    lease.release()
    put(writer, b"third")

    assert b"third" == read(reader)


def test_a_lease_of_a_dead_process_is_no_lease(stream: Path) -> None:
    writer = RingWriter(stream, slot_bytes=100, slots=2)
    put(writer, b"first")
    code = (
        "import sys; from pathlib import Path; from detr_sentry.ipc.ring import RingReader\n"
        "lease = RingReader(Path(sys.argv[1])).acquire(); print(lease.sequence, flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(stream)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert b"1\n" == process.stdout.readline()
        put(writer, b"newer")

        assert writer.begin() is None

        process.kill()
        process.wait()

    assert writer.begin() is not None


def test_second_writer_is_told_the_pid_of_the_first(stream: Path) -> None:
    writer = RingWriter(stream, slot_bytes=100, slots=2)
    code = (
        "import sys; from pathlib import Path; from detr_sentry.ipc.ring import RingWriter\n"
        "RingWriter(Path(sys.argv[1]), slot_bytes=100, slots=2)"
    )

    with pytest.raises(WriterBusyError, match=rf"process {os.getpid()} already writes"):
        RingWriter(stream, slot_bytes=100, slots=2)
    done = subprocess.run([sys.executable, "-c", code, str(stream)], capture_output=True, text=True, check=False)

    assert f"process {os.getpid()} already writes" in done.stderr
    assert 1 == put(writer, b"hello")


def test_what_is_dropped_is_closed(stream: Path) -> None:
    before = set(os.listdir("/proc/self/fd"))
    writer = RingWriter(stream, slot_bytes=100, slots=2)
    reader = RingReader(stream)
    put(writer, b"hello")

    assert b"hello" == read(reader)

    del reader, writer

    assert before == set(os.listdir("/proc/self/fd"))
    RingWriter(stream, slot_bytes=100, slots=2)


def test_unpublished_frames_are_invisible(stream: Path) -> None:
    writer = RingWriter(stream, slot_bytes=100, slots=3)
    reader = RingReader(stream)
    put(writer, b"first")
    view = writer.begin()
    assert view is not None
    view[:5] = b"wrong"

    assert b"first" == read(reader)

    writer.abort()
    writer.abort()

    assert b"first" == read(reader)
    with pytest.raises(ValueError, match="released"):
        view[0] = 1
    with pytest.raises(IpcError, match="without begin"):
        writer.publish()


def test_begin_gives_up_a_frame_that_was_forgotten(stream: Path) -> None:
    writer = RingWriter(stream, slot_bytes=100, slots=2)
    first = writer.begin()
    second = writer.begin()

    assert first is not None
    assert second is not None
    with pytest.raises(ValueError, match="released"):
        first[0] = 1


def test_an_array_over_the_begun_slot_does_no_harm(stream: Path) -> None:
    writer = RingWriter(stream, slot_bytes=96, slots=2)
    view = writer.begin()
    assert view is not None
    pinned = (ctypes.c_char * 96).from_buffer(view)
    writer.publish()
    writer.close()

    assert 96 == len(pinned)


def test_lease_view_and_parts_die_on_release(stream: Path) -> None:
    writer = RingWriter(stream, slot_bytes=100, slots=2)
    reader = RingReader(stream)
    put(writer, b"hello")
    with take(reader) as lease:
        view = lease.view
        parts = [lease.part(0, 5), lease.part(1, 2)]

        assert b"hello" == bytes(parts[0])

    for dead in (view, *parts):
        with pytest.raises(ValueError, match="released"):
            bytes(dead)
    lease.release()  # again: nothing happens


@pytest.mark.parametrize(
    "derive",
    [
        lambda view: np.frombuffer(view, np.uint8),
        lambda view: view[:3],
        lambda view: memoryview(view).cast("B"),
        PickleBuffer,  # exports the view itself, where the others export what lies below
    ],
)
def test_release_refuses_while_an_array_lives_and_its_bytes_stay_true(
    stream: Path, derive: Callable[[memoryview], SupportsBytes]
) -> None:
    writer = RingWriter(stream, slot_bytes=100, slots=2)
    reader = RingReader(stream)
    put(writer, b"hello")
    lease = take(reader)
    kept = derive(lease.view)
    with pytest.raises(LeaseError, match="copy it"):
        lease.release()
    put(writer, b"newer")

    assert b"newer" == read(reader)
    assert writer.begin() is None
    assert b"hel" == bytes(kept)[:3]

    del kept, lease

    assert writer.begin() is not None


def test_an_error_inside_the_lease_is_not_hidden_by_the_array_it_holds(stream: Path) -> None:
    writer = RingWriter(stream, slot_bytes=100, slots=3)
    reader = RingReader(stream)
    put(writer, b"hello")
    with pytest.raises(LeaseError, match="copy it"), take(reader) as lease:
        kept = lease.view[:1]

    assert b"h" == bytes(kept)

    def fail() -> None:
        with take(reader) as lease:
            pixels = np.frombuffer(lease.view, np.uint8)
            raise RuntimeError(str(pixels[0]))

    with pytest.raises(RuntimeError, match="104"):
        fail()

    assert b"hello" == read(reader)


def test_one_lease_at_a_time(stream: Path) -> None:
    writer = RingWriter(stream, slot_bytes=100, slots=3)
    reader = RingReader(stream)
    put(writer, b"hello")
    with take(reader), pytest.raises(LeaseError, match="one lease at a time"):
        reader.acquire()

    assert b"hello" == read(reader)


def test_a_reader_belongs_to_one_thread_until_it_is_closed(stream: Path) -> None:
    writer = RingWriter(stream, slot_bytes=100, slots=3)
    reader = RingReader(stream)
    put(writer, b"hello")
    seen: list[object] = []

    def other() -> None:
        for call in (reader.acquire, reader.latest):
            try:
                call()
            except LeaseError as error:
                seen.append(str(error))
        reader_of_its_own = RingReader(stream)
        seen.append(read(reader_of_its_own))
        reader_of_its_own.close()

    def run() -> None:
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()

    assert b"hello" == read(reader)

    run()

    assert 2 == sum("another thread" in str(entry) for entry in seen)
    assert b"hello" == seen[-1]

    reader.close()
    seen.clear()
    thread = threading.Thread(target=lambda: seen.append(read(reader)))
    thread.start()
    thread.join()

    assert [b"hello"] == seen


def test_close_kills_the_lease(stream: Path) -> None:
    writer = RingWriter(stream, slot_bytes=100, slots=2)
    reader = RingReader(stream)
    put(writer, b"hello")
    lease = take(reader)
    part = lease.part(0, 2)
    put(writer, b"newer")
    reader.close()

    with pytest.raises(ValueError, match="released"):
        bytes(part)
    assert writer.begin() is not None

    lease.release()


def test_prepare_writes_into_every_slot(stream: Path) -> None:
    def prepare(payload: memoryview) -> None:
        payload[:8] = b"template"

    writer = RingWriter(stream, slot_bytes=100, slots=4, prepare=prepare)
    seen = []
    for _ in range(8):
        view = writer.begin()
        assert view is not None
        seen.append(bytes(view[:8]))
        writer.publish()

    assert [b"template"] * 8 == seen


def test_clear_zeroes_every_slot_and_unpublishes(stream: Path) -> None:
    def prepare(payload: memoryview) -> None:
        payload[:8] = b"template"

    writer = RingWriter(stream, slot_bytes=100, slots=3, prepare=prepare)
    reader = RingReader(stream)
    for _ in range(5):
        put(writer, b"template" + b"secret" * 10)
    epoch = writer.epoch
    writer.clear()

    assert reader.latest() is None
    assert reader.acquire() is None
    assert not any(b"secret" in path.read_bytes() for path in stream.rglob("*") if path.is_file())
    assert (epoch, 6) == (writer.epoch, put(writer, b"template again"))
    assert b"template again" == read(reader, 14)


def test_clear_leaves_a_slot_that_a_stopped_reader_holds_behind(stream: Path) -> None:
    writer = RingWriter(stream, slot_bytes=100, slots=3)
    reader = RingReader(stream)
    put(writer, b"secret")
    epoch = writer.epoch
    lease = take(reader)
    started = time.monotonic()
    writer.clear()

    assert time.monotonic() - started < 5
    assert b"secret" == bytes(lease.view[:6])
    assert writer.epoch > epoch
    assert not any(b"secret" in path.read_bytes() for path in stream.rglob("*") if path.is_file())

    lease.release()

    assert read(reader) is None
    assert writer.epoch == reader.epoch


def test_resize_starts_an_epoch_and_unlinks_the_old_one(stream: Path) -> None:
    writer = RingWriter(stream, slot_bytes=100, slots=3)
    reader = RingReader(stream)
    put(writer, b"small")
    old = writer.epoch
    with take(reader) as lease:
        writer.resize(10_000)

        assert b"small" == bytes(lease.view[:5])
        assert reader.latest() is None

    assert read(reader) is None
    assert old < writer.epoch == reader.epoch
    assert [str(writer.epoch)] == [path.name for path in stream.glob("[0-9]*")]
    assert str(writer.epoch) == os.readlink(stream / "current")
    assert 1 == put(writer, b"large" * 1000)
    assert b"large" * 1000 == read(reader, 5000)
    assert 10_000 == writer.slot_bytes


def test_close_keeps_the_last_slot_and_unlink_removes_the_stream(stream: Path) -> None:
    writer = RingWriter(stream, slot_bytes=100, slots=3)
    reader = RingReader(stream)
    put(writer, b"hello")
    writer.close()
    writer.close()

    assert b"hello" == read(reader)
    with pytest.raises(IpcError, match="closed"):
        writer.begin()

    successor = RingWriter(stream, slot_bytes=100, slots=3)
    put(successor, b"again")

    assert b"again" == read(reader)

    successor.close(unlink=True)

    assert read(reader) is None
    assert not stream.exists()


def test_unlink_spares_what_is_not_ours(stream: Path) -> None:
    writer = RingWriter(stream, slot_bytes=100, slots=3)
    (stream / "note").write_text("keep")
    writer.close(unlink=True)

    assert ["note"] == [path.name for path in stream.iterdir()]


@pytest.mark.parametrize(("slot_bytes", "slots"), [(0, 3), (-1, 3), (1 << 33, 3), (100, 1), (100, 256)])
def test_refuses_impossible_geometry_and_frees_the_lock(stream: Path, slot_bytes: int, slots: int) -> None:
    with pytest.raises(IpcError):
        RingWriter(stream, slot_bytes=slot_bytes, slots=slots)

    put(RingWriter(stream, slot_bytes=100, slots=2), b"hello")


def test_refuses_a_place_that_is_no_directory(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(IpcError, match="cannot make the stream"):
        RingWriter(tmp_path / "file" / "frames", slot_bytes=100, slots=2)
