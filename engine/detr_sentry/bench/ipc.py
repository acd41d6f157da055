"""`detr-sentry bench ipc`: torn reads, and the cost of publishing, leasing and describing a frame.

Times are of one process and thread, on messages that are fresh and in cache, as a reader woken by a bell finds them.
They are taken in batches that alternate between the subjects; a `p50` is that of the quietest batch, because other load
on the machine only ever adds, and `p50_all` and `p99` are over all batches. The stress and its controls run in their
own processes.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any

import numpy as np

from detr_sentry.ipc.bells import Bell
from detr_sentry.ipc.messages import (
    DETECTION_DTYPE,
    DetectionsView,
    FrameView,
    FrameWriter,
    Outcome,
    PixelFormat,
    detections,
)
from detr_sentry.ipc.ring import RingReader

if TYPE_CHECKING:
    from collections.abc import Callable

FRAME_BYTES = 400_000
"""A 1080p MJPEG frame."""

READS = 1_000_000
ROUNDS = 300
"""Measurements in one batch."""

COUNTS = (0, 1, 5, 20, 100)

_SHM = Path("/dev/shm")  # noqa: S108 -- shared memory is what is measured


def measure(*, quick: bool = False) -> dict[str, Any]:
    """The figures of `bench ipc`, with `budgets` of {value, limit, met}."""
    reads = 20_000 if quick else READS
    torn = _program("ring_stress", "--reads", str(reads), "--most-seconds", "480")
    control = _program("ring_stress", "--control", "--reads", "2000", "--most-seconds", "60")
    single = _program("single_slot", "1" if quick else "5")
    result = {
        "leased_reads": torn["leased_reads"],
        "torn": torn["torn"],
        "kills": torn["kills"],
        "killed_inside_a_slot": torn["killed_inside"],
        "reader_kills": torn["reader_kills"],
        "control_torn": control["torn"],
        "control_reads": control["leased_reads"],
        "single_slot_model": single,
        **_frames(batches=3 if quick else 60),
        **_detections(batches=3 if quick else 60),
    }
    result["budgets"] = _budgets(result, reads)
    return result


def _program(name: str, *arguments: str) -> dict[str, Any]:
    """Runs a stress program, which forks, without the threads of a BLAS."""
    done = subprocess.run(  # noqa: S603 -- our own modules
        [sys.executable, "-m", f"detr_sentry.bench.{name}", *arguments],
        stdout=subprocess.PIPE,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
        check=False,
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _sample(rounds: int, work: Callable[[], object], before: Callable[[], object] | None = None) -> list[int]:
    """Nanoseconds of each round of `work`, sorted; `before` runs untimed ahead of each."""
    times = []
    for _ in range(rounds):
        if before is not None:
            before()
        start = perf_counter_ns()
        work()
        times.append(perf_counter_ns() - start)
    return sorted(times)


class _Batches:
    """The batches of one subject, each sorted, in nanoseconds."""

    def __init__(self) -> None:
        self._batches: list[list[int]] = []

    def add(self, batch: list[int]) -> None:
        self._batches.append(batch)

    def quietest_p50(self) -> int:
        return min(batch[len(batch) // 2] for batch in self._batches)

    def microseconds(self) -> dict[str, float]:
        every = sorted(time for batch in self._batches for time in batch)
        return {
            "p50": self.quietest_p50() / 1000,
            "p50_all": every[len(every) // 2] / 1000,
            "p99": every[len(every) * 99 // 100] / 1000,
        }


def _frames(*, batches: int) -> dict[str, Any]:
    """Publishing with two bells, and leasing with validation, of a 1080p MJPEG frame."""
    directory = Path(tempfile.mkdtemp(prefix="bench-ipc-", dir=_SHM))
    writer = FrameWriter(directory / "frames", camera_id="bench", capacity=1 << 21, slots=5)
    reader = RingReader(directory / "frames")
    names = [f"/ds.bench{os.getpid()}.{consumer}" for consumer in ("inference", "gateway")]
    bells = [Bell(name) for name in names]
    jpeg = np.random.default_rng(1).integers(0, 256, FRAME_BYTES, np.uint8).tobytes()
    copy = bytearray(FRAME_BYTES)
    publishing, leasing, copying = _Batches(), _Batches(), _Batches()

    def memcpy() -> None:
        copy[:] = jpeg

    def fill() -> None:
        pixels = writer.begin()
        if pixels is None:
            raise RuntimeError("no free slot although nobody reads")
        pixels[:FRAME_BYTES] = jpeg
        writer.publish(
            length=FRAME_BYTES,
            frame_number=1,
            capture_epoch=writer.ring.epoch,
            timestamp_ns=1,
            captured_monotonic_ns=1,
            pts_ns=-1,
            width=1920,
            height=1080,
            channels=3,
            pixel_format=PixelFormat.MJPEG,
            trace=None,
        )

    def publish() -> None:
        fill()
        for bell in bells:
            bell.ring()

    def lease() -> None:
        with reader.acquire() as lease:  # type: ignore[union-attr]  # there is a slot
            FrameView(lease)

    try:
        for _ in range(batches):
            publishing.add(_sample(ROUNDS, publish, before=lambda: [bell.drain() for bell in bells]))
            leasing.add(_sample(ROUNDS, lease, before=fill))
            copying.add(_sample(ROUNDS, memcpy))
    finally:
        reader.close()
        writer.close(unlink=True)
        for bell, name in zip(bells, names, strict=True):
            bell.close()
            Bell.unlink(name)
        shutil.rmtree(directory)
    memcpy_us = copying.microseconds()["p50"]
    publish_us = publishing.microseconds()
    return {
        "publish_us": publish_us,
        "lease_us": leasing.microseconds(),
        "memcpy_frame_us": memcpy_us,
        "publish_over_memcpy": round(publish_us["p50"] / memcpy_us, 2),
    }


def _detections(*, batches: int) -> dict[str, Any]:
    """Writing and reading the detections message in plain memory: what the lease costs is measured apart."""
    payload = memoryview(bytearray(detections.MESSAGE_BYTES))
    detections.TEMPLATE.prepare(payload)
    figures = {
        name: {str(count): _Batches() for count in COUNTS}
        for name in ("detections_write_ns", "detections_read_ns", "detections_roundtrip_ns")
    }

    rows = np.zeros(0, DETECTION_DTYPE)

    def write() -> None:
        detections.write_detections(
            payload,
            camera_id=b"bench",
            frame_number=1,
            capture_epoch=1,
            timestamp_ns=1,
            captured_monotonic_ns=1,
            pts_ns=1,
            width=1920,
            height=1080,
            detections=rows,
            outcome=Outcome.INFERRED,
            model_hash=b"01234567",
            provider="CPUExecutionProvider",
            inference_ns=1,
            decode_ns=1,
            trace=None,
        )

    def read() -> object:
        return DetectionsView(payload).detections

    def write_and_read() -> None:
        write()
        read()

    for _ in range(batches):
        for count in COUNTS:
            rows = np.zeros(count, DETECTION_DTYPE)
            for subject, work in zip(figures.values(), (write, read, write_and_read), strict=True):
                subject[str(count)].add(_sample(ROUNDS, work))
    return {name: {count: times.quietest_p50() for count, times in row.items()} for name, row in figures.items()}


def _budgets(result: dict[str, Any], reads: int) -> dict[str, dict[str, Any]]:
    most = {
        "torn leased reads": (result["torn"], 0),
        "publish + 2 bells, 400 KB, p50 us": (result["publish_us"]["p50"], 60),
        "lease + validate + release, p50 us": (result["lease_us"]["p50"], 5),
        "detections write, p50 ns": (max(result["detections_write_ns"].values()), 1500),
        "detections read, p50 ns": (max(result["detections_read_ns"].values()), 2000),
    }
    least = {"leased reads": (result["leased_reads"], reads), "torn reads of the control": (result["control_torn"], 1)}
    return {
        **{
            name: {"value": value, "limit": f"<= {limit}", "met": value <= limit}
            for name, (value, limit) in most.items()
        },
        **{
            name: {"value": value, "limit": f">= {limit}", "met": value >= limit}
            for name, (value, limit) in least.items()
        },
    }
