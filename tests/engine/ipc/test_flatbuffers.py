"""Any FlatBuffers reader reads our buffers: the generated Python code, and the C++ verifier where its package is."""

from __future__ import annotations

import hashlib
import shutil
import struct
import subprocess
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detr_sentry.ipc._generated.Detection import Detection
from detr_sentry.ipc._generated.Detections import Detections
from detr_sentry.ipc._generated.Frame import Frame
from detr_sentry.ipc._generated.Sentry import Sentry
from detr_sentry.ipc.messages import DETECTION_DTYPE, Mode, Outcome, PixelFormat, State, detections, frame, sentry

from .buffers import BIG, FRAME, HASH, TRACE, ULID, detections_bytes, frame_bytes, sentry_bytes, some_detections

FLATC = "flatc version 2.0.8"

Verify = Callable[[str, list[bytes]], list[str]]


def flatc() -> str:
    """The path of the one compiler whose output is committed; skips without it."""
    path = shutil.which("flatc")
    if path is None:
        pytest.skip("NOT TESTED: the FlatBuffers code; apt-get install flatbuffers-compiler (2.0.8)")
    version = subprocess.run([path, "--version"], capture_output=True, text=True, check=True).stdout.strip()
    if version != FLATC:
        pytest.skip(f"NOT TESTED: the FlatBuffers code; needs {FLATC}, found {version}")
    return path


def test_generated_code_is_that_of_the_schemas(repository: Path, tmp_path: Path) -> None:
    flatc()
    subprocess.run([repository / "tools" / "schemas.sh", tmp_path], check=True)
    committed = repository / "engine" / "detr_sentry" / "ipc" / "_generated"

    assert {path.name: path.read_text() for path in tmp_path.glob("*.py")} == {
        path.name: path.read_text() for path in committed.glob("*.py")
    }, "stale: run `make schemas`"


def trace_of(message: Any) -> bytes:
    trace = message.Trace()
    return bytes([*trace.TraceId(), *trace.SpanId(), trace.TraceFlags()])


def test_generated_reader_reads_a_frame(stream: Path) -> None:
    content = frame_bytes(stream, b"\xff\xd8 pixels \xff\xd9")
    message: Any = Frame.GetRootAs(content)  # type: ignore[no-untyped-call]

    assert Frame.FrameBufferHasIdentifier(content, 0)  # type: ignore[no-untyped-call]
    assert b"door_1" == message.CameraId()
    assert b"\xff\xd8 pixels \xff\xd9" == message.DataAsNumpy().tobytes()
    assert FRAME == {
        "frame_number": message.FrameNumber(),
        "capture_epoch": message.CaptureEpoch(),
        "timestamp_ns": message.TimestampNs(),
        "captured_monotonic_ns": message.CapturedMonotonicNs(),
        "pts_ns": message.PtsNs(),
        "width": message.Width(),
        "height": message.Height(),
    }
    assert (3, PixelFormat.MJPEG) == (message.Channels(), message.PixelFormat())
    assert TRACE == trace_of(message)


@pytest.mark.parametrize("count", [0, 1, 100, 300])
def test_generated_reader_reads_detections(stream: Path, count: int) -> None:
    rows = some_detections(count)
    content = detections_bytes(stream, rows, outcome=Outcome.GATED)
    message: Any = Detections.GetRootAs(content)  # type: ignore[no-untyped-call]

    assert Detections.DetectionsBufferHasIdentifier(content, 0)  # type: ignore[no-untyped-call]
    assert (b"door_1", b"OpenVINO CPU") == (message.CameraId(), message.Provider())
    assert FRAME == {
        "frame_number": message.FrameNumber(),
        "capture_epoch": message.CaptureEpoch(),
        "timestamp_ns": message.TimestampNs(),
        "captured_monotonic_ns": message.CapturedMonotonicNs(),
        "pts_ns": message.PtsNs(),
        "width": message.Width(),
        "height": message.Height(),
    }
    assert (50_000_000, 5_000_000, 1) == (message.InferenceNs(), message.DecodeNs(), message.Outcome())
    assert (HASH, TRACE) == (bytes(message.ModelHash().Sha256Head()), trace_of(message))
    assert count == message.DetectionsLength()
    assert [tuple(row) for row in rows.tolist()] == [
        (
            row.X1(),
            row.Y1(),
            row.X2(),
            row.Y2(),
            row.Confidence(),
            row.ClassId(),
            row.ZoneMask(),
            row.TrackId(),
        )
        for row in (message.Detections(index) for index in range(count))
    ]


def test_generated_reader_reads_the_sentry(stream: Path) -> None:
    content = sentry_bytes(stream, blind=True)
    message: Any = Sentry.GetRootAs(content)  # type: ignore[no-untyped-call]

    assert Sentry.SentryBufferHasIdentifier(content, 0)  # type: ignore[no-untyped-call]
    assert (b"door_1", ULID.encode()) == (message.CameraId(), message.EventId())
    assert (State.ALARMED, Mode.AUTO, True, -1.0) == (
        message.State(),
        message.Mode(),
        message.Blind(),
        message.CaptureFps(),
    )
    assert (1_795_352_584_849_196_123, 1_795_352_584_849_196_124, 2) == (
        message.SinceNs(),
        message.TimestampNs(),
        message.Count(),
    )
    assert TRACE == trace_of(message)


def test_enums_and_rows_are_those_of_the_schema() -> None:
    for ours in (Mode, Outcome, PixelFormat, State):
        theirs = getattr(import_module(f"detr_sentry.ipc._generated.{ours.__name__}"), ours.__name__)

        assert {name: value for name, value in vars(theirs).items() if not name.startswith("_")} == {
            member.name: member.value for member in ours
        }
    assert Detection.SizeOf() == DETECTION_DTYPE.itemsize == 28  # type: ignore[no-untyped-call]


def test_pixels_are_aligned_in_the_message() -> None:
    assert 0 == frame.TEMPLATE.data_offset % 64


@pytest.fixture(scope="session")
def verify(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Verify:
    """The official verifier over buffers of one type; a line "1 fields" or "0" for each."""
    source = Path(__file__).with_name("verify.cpp")
    schemas = sorted((repository / "schemas").glob("*.fbs"))
    compiler, gcc = flatc(), shutil.which("g++")
    if gcc is None or not Path("/usr/include/flatbuffers/flatbuffers.h").exists():
        pytest.skip("NOT TESTED: the official FlatBuffers verifier; apt-get install g++ libflatbuffers-dev")
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in (source, *schemas))).hexdigest()[:16]
    program = repository / ".cache" / "flatbuffers" / f"verify-{digest}"
    if not program.exists():
        program.parent.mkdir(parents=True, exist_ok=True)
        headers = tmp_path_factory.mktemp("headers")
        subprocess.run([compiler, "--cpp", "-o", headers, *schemas], check=True)
        made = headers / "verify"
        subprocess.run([gcc, "-O1", "-std=c++17", "-I", headers, "-o", made, source], check=True)
        shutil.move(made, program)

    def run(kind: str, contents: list[bytes]) -> list[str]:
        folder = tmp_path_factory.mktemp(kind)
        files = []
        for index, content in enumerate(contents):
            files.append(folder / f"{index:03}")
            files[-1].write_bytes(content)
        done = subprocess.run([program, kind, *files], capture_output=True, text=True, check=True)
        return done.stdout.splitlines()

    return run


def damaged(content: bytes, offset: int, form: str, value: int) -> bytes:
    copy = bytearray(content)
    struct.pack_into(form, copy, offset, value)
    return bytes(copy)


@pytest.mark.timeout(120)
def test_official_verifier_accepts_frames_and_refuses_damaged_ones(stream: Path, verify: Verify) -> None:
    end = frame.TEMPLATE.data_offset
    pixels = [b"x", b"x" * 64, b"x" * 400_000]
    good = [frame_bytes(stream, content) for content in pixels]
    good += [content[: end + len(data)] for content, data in zip(good, pixels, strict=True)]
    gray = frame_bytes(stream, b"\x80" * 12, width=4, height=3, pixel_format=PixelFormat.GRAY8, trace=None)
    whole = good[0]
    bad = [
        whole[:100],
        damaged(whole, 0, "<I", len(whole)),
        damaged(whole, 4, "<I", 0),
        damaged(whole, end - 4, "<I", len(whole)),
        damaged(whole, frame.TEMPLATE.block_offset - 4, "<I", 1 << 31),
    ]

    assert [f"1 door_1 {BIG} 1920 1080 MJPEG {len(data)}" for data in [*pixels, *pixels]] == verify("frame", good)
    assert [f"1 door_1 {BIG} 4 3 GRAY8 12"] == verify("frame", [gray])
    assert ["0"] * len(bad) == verify("frame", bad)


@pytest.mark.timeout(120)
def test_official_verifier_accepts_detections_and_refuses_damaged_ones(stream: Path, verify: Verify) -> None:
    end = detections.TEMPLATE.data_offset
    counts = [0, 1, 100, 300]
    good = [detections_bytes(stream, some_detections(count)) for count in counts]
    good += [content[: end + 28 * count] for content, count in zip(good, counts, strict=True)]
    whole = good[0]
    bad = [
        good[-1][:-1],
        damaged(whole, end - 4, "<I", (len(whole) - end) // 28 + 1),
        damaged(whole, end - 4, "<I", BIG >> 32),
        damaged(whole, 0, "<I", 3),
        damaged(whole, 4, "<I", 0),
    ]

    expected = [f"1 door_1 {BIG} OpenVINO CPU INFERRED {count} {count / 2:.1f}" for count in counts]

    assert expected * 2 == verify("detections", good)
    assert ["0"] * len(bad) == verify("detections", bad)


@pytest.mark.timeout(120)
def test_official_verifier_accepts_the_sentry_and_refuses_damaged_ones(stream: Path, verify: Verify) -> None:
    whole = sentry_bytes(stream)
    empty = sentry_bytes(stream, event_id="", state=State.OFF, mode=Mode.OFF, capture_fps=0, count=0)
    bad = [
        whole[: sentry.TEMPLATE.data_offset],
        damaged(whole, 0, "<I", 1),
        damaged(whole, 4, "<I", 0),
        damaged(whole, sentry.TEMPLATE.data_offset - 30, "<I", 1 << 30),
    ]

    assert [f"1 door_1 ALARMED AUTO -1.00 2 [{ULID}]", "1 door_1 OFF OFF 0.00 0 []"] == verify("sentry", [whole, empty])
    assert ["0"] * len(bad) == verify("sentry", bad)


def test_rows_are_little_endian_whatever_the_machine() -> None:
    assert np.dtype("<f4") == DETECTION_DTYPE["x1"]
