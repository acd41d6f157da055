"""Stress of the leased ring: full-speed writer and readers, killed at random, every byte of every read compared.

`python -m detr_sentry.bench.ring_stress --reads 1000000` prints one JSON object; status 1 if anything tore (with
`--control`: if nothing did).

Each slot is filled with one 64-bit stamp that no other slot of the run has. A reader compares all of it when it takes
the lease and again after holding it. `leases=False` is the control: the same readers drop the kernel lock at once, and
must then see torn slots, or the comparison would prove nothing.
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import random
import shutil
import signal
import tempfile
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from fcntl import LOCK_UN, flock
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from detr_sentry.ipc.ring import Lease, RingReader, RingWriter

if TYPE_CHECKING:
    from collections.abc import Callable

_READS, _TORN, _FRAMES = range(3)


@dataclass(frozen=True, slots=True)
class StressResult:
    """What one run saw; `killed_inside` counts writers that died with a slot half written."""

    leased_reads: int
    torn: int
    frames: int
    kills: int
    killed_inside: int
    reader_kills: int
    seconds: float


def stress(
    *,
    reads: int,
    most_seconds: float,
    leases: bool = True,
    holds_s: tuple[float, ...] = (0.0, 0.0, 0.02),
    slot_bytes: int = 1 << 18,
    root: Path = Path("/dev/shm"),  # noqa: S108 -- shared memory is what is tested
) -> StressResult:
    """Runs until `reads` slots were compared, or for `most_seconds`; one reader per hold.

    Forks: call it from a process without threads, rings or event loop.
    """
    directory = Path(tempfile.mkdtemp(prefix="ring-stress-", dir=root))
    counters = [mmap.mmap(-1, 4096) for _ in range(len(holds_s) + 1)]
    words = [memoryview(counter).cast("Q") for counter in counters]
    stream = directory / "frames"

    def start_writer() -> int:
        return _child(lambda: _write(stream, slot_bytes, len(holds_s) + 2, words[-1]))

    def start_reader(index: int) -> int:
        return _child(lambda: _read(stream, holds_s[index], words[index], leases=leases))

    started = time.monotonic()
    writer = start_writer()
    readers = [start_reader(index) for index in range(len(holds_s))]
    kills = killed_inside = reader_kills = 0
    try:
        while sum(word[_READS] for word in words[:-1]) < reads and time.monotonic() < started + most_seconds:
            time.sleep(random.uniform(0.02, 0.25))
            _kill(writer)
            kills += 1
            killed_inside += _half_written(stream, slot_bytes)
            writer = start_writer()
            if random.random() < 0.1:
                index = random.randrange(len(readers))
                _kill(readers[index])
                reader_kills += 1
                readers[index] = start_reader(index)
    finally:
        for pid in (writer, *readers):
            with suppress(ProcessLookupError, ChildProcessError):  # killed above, and not started again
                _kill(pid)
        shutil.rmtree(directory)
    return StressResult(
        leased_reads=sum(word[_READS] for word in words[:-1]),
        torn=sum(word[_TORN] for word in words[:-1]),
        frames=words[-1][_FRAMES],
        kills=kills,
        killed_inside=killed_inside,
        reader_kills=reader_kills,
        seconds=time.monotonic() - started,
    )


def _child(work: Callable[[], None]) -> int:
    """Forks a process that does `work` for ever; it dies with its parent."""
    pid = os.fork()
    if pid:
        return pid
    try:  # pragma: no cover -- the child is killed and never reports
        random.seed()
        work()
    finally:  # pragma: no cover
        os._exit(1)


def _kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def _stamp(epoch: int, sequence: int) -> int:
    return (epoch << 24 ^ sequence) & 0xFFFF_FFFF_FFFF_FFFF


def _write(stream: Path, slot_bytes: int, slots: int, counters: memoryview) -> None:  # pragma: no cover -- in a child
    writer = RingWriter(stream, slot_bytes=slot_bytes, slots=slots)
    parent = os.getppid()
    while os.getppid() == parent:
        view = writer.begin()
        if view is not None:
            np.frombuffer(view, np.uint64)[:] = _stamp(writer.epoch, writer.sequence + 1)
            writer.publish()
            counters[_FRAMES] += 1


def _read(stream: Path, hold_s: float, counters: memoryview, *, leases: bool) -> None:  # pragma: no cover -- in a child
    reader = RingReader(stream)
    newest: tuple[int, int] | None = None
    parent = os.getppid()
    while os.getppid() == parent:
        lease = reader.acquire(newer_than=newest)
        if lease is None:
            time.sleep(0.00005)
            continue
        with lease:
            newest = lease.key
            if not leases:
                _drop_lock(lease)
            whole = _whole(lease)
            time.sleep(hold_s)
            whole = whole and _whole(lease)
        counters[_TORN] += not whole
        counters[_READS] += 1


def _whole(lease: Lease) -> bool:  # pragma: no cover -- in a child
    words = np.frombuffer(lease.view, np.uint64)
    return bool(words.min() == words.max() == _stamp(*lease.key))


def _drop_lock(lease: Lease) -> None:  # pragma: no cover -- in a child
    slot = lease._slot  # noqa: SLF001 -- the control breaks the ring on purpose
    if slot is not None:
        flock(slot.fd, LOCK_UN)


def _half_written(stream: Path, slot_bytes: int) -> bool:
    """Whether the dead writer left a slot whose beginning is newer than its end."""
    for path in stream.glob("[0-9]*/[0-9]*"):
        with path.open("rb") as file:
            file.seek(64)
            first = file.read(8)
            file.seek(64 + slot_bytes - 8)
            if first != file.read(8):  # both are empty where the writer died before it allocated the slot
                return True
    return False


def main() -> int:
    """Runs the stress as its arguments say."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reads", type=int, default=1_000_000)
    parser.add_argument("--most-seconds", type=float, default=3600.0)
    parser.add_argument("--slot-bytes", type=int, default=1 << 18)
    parser.add_argument("--control", action="store_true", help="readers drop their leases: they must see torn slots")
    arguments = parser.parse_args()
    result = stress(
        reads=arguments.reads,
        most_seconds=arguments.most_seconds,
        slot_bytes=arguments.slot_bytes,
        leases=not arguments.control,
        holds_s=(0.0, 0.002, 0.01) if arguments.control else (0.0, 0.0, 0.02),
    )
    print(json.dumps(asdict(result)))
    return int((result.torn > 0) is not arguments.control)


if __name__ == "__main__":
    raise SystemExit(main())
