"""What somebody else does to the files is noticed and survived: no crash, no SIGBUS, no read out of bounds."""

from __future__ import annotations

import errno
import mmap
import os
import shutil
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detr_sentry.errors import IpcError, ShmFullError, WriterBusyError
from detr_sentry.ipc.ring import RingReader, RingWriter


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


def files(writer: RingWriter, stream: Path) -> Path:
    return stream / str(writer.epoch)


def attached(stream: Path) -> tuple[RingWriter, RingReader]:
    writer = RingWriter(stream, slot_bytes=100, slots=3)
    reader = RingReader(stream)
    put(writer, b"hello")

    assert b"hello" == read(reader)

    return writer, reader


def heal(writer: RingWriter, reader: RingReader) -> bytes | None:
    """What a reader sees after some frames, within a time far beyond the recheck."""
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        put(writer, b"fresh")
        if read(reader) == b"fresh":
            return b"fresh"
        time.sleep(0.02)
    return None


@pytest.mark.parametrize("name", ["head", "0", "1", "2"])
@pytest.mark.parametrize("size", [0, 63, 100])
def test_truncation_under_both_sides(stream: Path, name: str, size: int) -> None:
    writer, reader = attached(stream)
    late = RingReader(stream)
    os.truncate(files(writer, stream) / name, size)
    for each in (reader, late):
        each.latest()
        read(each)

    assert b"fresh" == heal(writer, reader) == heal(writer, late)


def test_truncation_before_zeroing_and_closing(stream: Path) -> None:
    writer, reader = attached(stream)
    for path in files(writer, stream).iterdir():
        os.truncate(path, 0)
    writer.clear()
    writer.close()

    assert read(reader) is None
    assert reader.latest() is None


def test_a_missing_slot_file(stream: Path) -> None:
    writer, _ = attached(stream)
    late = RingReader(stream)
    for path in files(writer, stream).glob("[0-9]"):
        path.unlink()

    assert read(late) is None
    assert "missing or truncated" in str(late.problem)


@pytest.mark.parametrize("what", ["everything", "epoch", "current", "writer"])
def test_the_writer_restores_what_was_removed_under_it(stream: Path, what: str) -> None:
    writer, reader = attached(stream)
    epoch = writer.epoch
    if what == "everything":
        shutil.rmtree(stream)
    elif what == "epoch":
        shutil.rmtree(files(writer, stream))
    else:
        (stream / what).unlink()

    deadline = time.monotonic() + 5
    while writer.epoch == epoch and time.monotonic() < deadline:
        put(writer, b"fresh")
        time.sleep(0.02)

    assert epoch < writer.epoch
    assert b"fresh" == heal(writer, RingReader(stream))
    assert b"fresh" == heal(writer, reader)
    with pytest.raises(WriterBusyError):
        RingWriter(stream, slot_bytes=100, slots=2)


def test_a_writer_whose_lock_was_stolen_says_so(stream: Path) -> None:
    writer, _ = attached(stream)
    shutil.rmtree(stream)
    thief = RingWriter(stream, slot_bytes=100, slots=2)
    time.sleep(0.3)

    with pytest.raises(WriterBusyError):
        writer.begin()

    writer.close(unlink=True)

    assert 1 == put(thief, b"hello")
    assert b"hello" == read(RingReader(stream))


@pytest.mark.parametrize(
    ("offset", "value"),
    [
        (0, b"WRONGMAG"),
        (8, struct.pack("=Q", 2)),
        (16, struct.pack("=Q", 1)),
        (24, struct.pack("=Q", 0)),
        (24, struct.pack("=Q", 1 << 40)),
        (32, struct.pack("=Q", 0)),
        (32, struct.pack("=Q", 1 << 60)),
        (32, struct.pack("=Q", 8000)),
        (64, struct.pack("=Q", 1 << 8 | 200)),
        (64, struct.pack("=Q", 77 << 8)),
        (64, struct.pack("=Q", (1 << 64) - 1)),
    ],
)
def test_a_head_that_lies(stream: Path, offset: int, value: bytes) -> None:
    writer, reader = attached(stream)
    with (files(writer, stream) / "head").open("r+b") as head:
        head.seek(offset)
        head.write(value)
    late = RingReader(stream)

    assert read(late) is None
    if offset < 64 and value != struct.pack("=Q", 8000):
        assert not late.attached
        assert str(files(writer, stream) / "head") in str(late.problem)

    writer.resize(100)

    assert b"fresh" == heal(writer, late) == heal(writer, reader)


@settings(max_examples=60, deadline=None)
@given(damage=st.dictionaries(st.integers(0, 79), st.integers(0, 255), min_size=1, max_size=8))
def test_no_head_crashes_a_reader(tmp_path_factory: pytest.TempPathFactory, damage: dict[int, int]) -> None:
    stream = tmp_path_factory.mktemp("ring") / "frames"
    writer = RingWriter(stream, slot_bytes=100, slots=3)
    reader = RingReader(stream)
    try:
        put(writer, b"hello")
        with (files(writer, stream) / "head").open("r+b") as head:
            for offset, value in damage.items():
                head.seek(offset)
                head.write(bytes([value]))
        reader.latest()

        assert b"hello".startswith(read(reader) or b"")  # a damaged size may hide a part, which messages notice
    finally:
        reader.close()
        writer.close(unlink=True)


@pytest.mark.parametrize("name", ["../../etc", "", "abc", "1" * 20, "12/..", "\x00"[:0] or "-1"])
def test_current_may_only_name_an_epoch(stream: Path, name: str) -> None:
    stream.mkdir(parents=True)
    if name:
        (stream / "current").symlink_to(name)
    else:
        (stream / "current").write_text("1")
    reader = RingReader(stream)

    assert reader.latest() is None
    assert reader.problem is not None


def test_a_head_that_is_a_link_is_not_followed(stream: Path) -> None:
    writer, _ = attached(stream)
    head = files(writer, stream) / "head"
    head.rename(head.with_name("moved"))
    head.symlink_to("moved")
    late = RingReader(stream)

    assert read(late) is None
    assert "head" in str(late.problem)


def test_an_overwritten_slot_sequence_is_not_believed(stream: Path) -> None:
    writer, reader = attached(stream)
    for path in files(writer, stream).glob("[0-9]"):
        with path.open("r+b") as slot:
            slot.write(struct.pack("=Q", 99))

    assert read(reader) is None
    assert b"fresh" == heal(writer, reader)


def test_a_reader_that_loses_every_race_comes_back_later(stream: Path) -> None:
    writer, reader = attached(stream)
    code = (
        "import fcntl, sys, time\n"
        "files = [open(path, 'rb') for path in sys.argv[1:]]\n"
        "[fcntl.flock(file, fcntl.LOCK_EX) for file in files]\n"
        "print('locked', flush=True); sys.stdin.read()"
    )
    slots = [str(path) for path in files(writer, stream).glob("[0-9]")]
    with subprocess.Popen(
        [sys.executable, "-c", code, *slots], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert b"locked\n" == process.stdout.readline()
        assert read(reader) is None
        assert writer.begin() is None
        process.kill()

    assert b"hello" == read(reader)


@pytest.fixture
def small_tmpfs(tmp_path: Path) -> Iterator[Path]:
    """A memory file system of 256 KiB."""
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(tmp_path)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"NOT TESTED: a full /dev/shm; this user cannot mount a tmpfs: {done.stderr.strip()}")
    yield tmp_path
    subprocess.run(["umount", "--lazy", str(tmp_path)], check=True)


def test_full_shared_memory_names_the_bytes(small_tmpfs: Path) -> None:
    stream = small_tmpfs / "frames"
    with pytest.raises(ShmFullError, match=r"needs 4018176 bytes .* \d+ are free"):
        RingWriter(stream, slot_bytes=1_000_000, slots=4)

    assert [] == list(stream.glob("[0-9]*"))

    writer = RingWriter(stream, slot_bytes=30_000, slots=4)
    reader = RingReader(stream)
    put(writer, b"hello")
    epoch = writer.epoch
    with pytest.raises(ShmFullError):
        writer.resize(60_000)

    assert epoch == writer.epoch
    assert b"hello" == read(reader)
    assert 2 == put(writer, b"still")
    assert b"still" == read(reader)


def refusing(call: Callable[..., None], code: int) -> Callable[..., None]:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code), call.__name__)

    return refuse


@pytest.mark.parametrize(
    ("code", "expected"), [(errno.ENOSPC, ShmFullError), (errno.EDQUOT, ShmFullError), (errno.EIO, IpcError)]
)
def test_other_refusals_of_the_file_system(
    stream: Path, monkeypatch: pytest.MonkeyPatch, code: int, expected: type[IpcError]
) -> None:
    writer, reader = attached(stream)
    epoch = writer.epoch
    for owner, name in ((os, "posix_fallocate"), (Path, "rename"), (mmap, "mmap")):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, refusing(getattr(owner, name), code))
            with pytest.raises(IpcError) as caught:
                writer.resize(200)

        assert expected is type(caught.value)
        assert [str(epoch)] == [path.name for path in stream.glob("[0-9]*")]

    put(writer, b"still")

    assert b"still" == read(reader)

    shutil.rmtree(stream)
    with pytest.raises(IpcError, match="cannot make the ring"):
        writer.resize(200)
