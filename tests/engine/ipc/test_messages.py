"""Writers and views: what goes in comes out, and nothing else is believed."""

from __future__ import annotations

import struct
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detr_sentry.errors import CorruptMessageError, IpcError, LeaseError
from detr_sentry.ipc.messages import (
    CAPACITY,
    DetectionsView,
    DetectionsWriter,
    FrameView,
    FrameWriter,
    Mode,
    Outcome,
    PixelFormat,
    SentryView,
    SentryWriter,
    State,
    detections,
    frame,
    sentry,
)
from detr_sentry.ipc.messages.template import Template
from detr_sentry.ipc.ring import RingReader

from .buffers import FRAME, HASH, TRACE, ULID, detections_bytes, frame_bytes, sentry_bytes, some_detections

VIEWS = (FrameView, DetectionsView, SentryView)


def fields(view: object) -> dict[str, Any]:
    slots: tuple[str, ...] = view.__slots__  # type: ignore[attr-defined]
    return {name: getattr(view, name) for name in slots if not name.startswith("_")}


@pytest.mark.parametrize(
    ("pixel_format", "width", "height", "size"),
    [
        (PixelFormat.MJPEG, 1920, 1080, 999),
        (PixelFormat.YUYV, 6, 4, 48),
        (PixelFormat.RGB24, 5, 3, 45),
        (PixelFormat.I420, 5, 3, 27),
        (PixelFormat.GRAY8, 5, 3, 15),
    ],
)
@pytest.mark.parametrize("trace", [TRACE, None])
def test_a_frame_comes_back(
    *, stream: Path, pixel_format: PixelFormat, width: int, height: int, size: int, trace: bytes | None
) -> None:
    pixels = bytes(index % 251 for index in range(size))
    content = frame_bytes(
        stream, pixels, pixel_format=pixel_format, width=width, height=height, channels=1, trace=trace
    )
    view = FrameView(memoryview(content))
    expected = {
        **FRAME,
        "camera_id": "door_1",
        "width": width,
        "height": height,
        "channels": 1,
        "pixel_format": pixel_format,
        "trace": trace,
    }

    assert expected == fields(view)
    assert pixels == bytes(view.data)
    assert pixel_format is view.pixel_format
    assert (None if pixel_format is PixelFormat.MJPEG else size) == pixel_format.frame_bytes(width, height)


@pytest.mark.parametrize("count", [0, 1, 100, CAPACITY])
@pytest.mark.parametrize("trace", [TRACE, None])
def test_detections_come_back(stream: Path, count: int, trace: bytes | None) -> None:
    rows = some_detections(count)
    view = DetectionsView(memoryview(detections_bytes(stream, rows, outcome=Outcome.GATED, trace=trace)))
    expected = {
        **FRAME,
        "camera_id": "door_1",
        "outcome": Outcome.GATED,
        "model_hash": HASH,
        "provider": "OpenVINO CPU",
        "inference_ns": 50_000_000,
        "decode_ns": 5_000_000,
        "trace": trace,
        "detections": rows,
    }

    assert expected.keys() - {"detections"} == fields(view).keys()
    assert {key: value for key, value in expected.items() if key != "detections"} == fields(view)
    np.testing.assert_array_equal(rows, view.detections)
    assert count == len(view)
    assert not view.detections.flags.writeable


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("mode", Mode)
@pytest.mark.parametrize(("blind", "event_id", "fps"), [(True, "", 0.0), (False, ULID, 29.97), (False, ULID, -1.0)])
def test_the_sentry_comes_back(
    *, stream: Path, state: State, mode: Mode, blind: bool, event_id: str, fps: float
) -> None:
    view = SentryView(
        memoryview(
            sentry_bytes(stream, state=state, mode=mode, blind=blind, event_id=event_id, capture_fps=fps, trace=None)
        )
    )
    expected = {
        "camera_id": "door_1",
        "state": state,
        "mode": mode,
        "blind": blind,
        "capture_fps": fps,
        "since_ns": 1_795_352_584_849_196_123,
        "count": 2,
        "event_id": event_id,
        "timestamp_ns": 1_795_352_584_849_196_124,
        "trace": None,
    }

    assert expected == fields(view)


def test_a_shorter_message_leaves_nothing_of_the_longer_one_before(stream: Path) -> None:
    writer = DetectionsWriter(stream, camera_id="door_1", slots=2)
    reader = RingReader(stream)
    common: dict[str, Any] = {
        **FRAME,
        "outcome": Outcome.INFERRED,
        "model_hash": HASH,
        "inference_ns": 1,
        "decode_ns": 1,
    }
    for provider, count in (("p" * 32, 300), ("q" * 32, 299), ("", 0), ("r", 1)):
        writer.publish(detections=some_detections(count), provider=provider, **common)
        with reader.acquire() or pytest.fail("no slot") as lease:
            view = DetectionsView(lease)

        assert (provider, count) == (view.provider, len(view))


def test_frame_data_dies_with_the_lease(stream: Path) -> None:
    writer = FrameWriter(stream, camera_id="door_1", capacity=4096, slots=3)
    reader = RingReader(stream)
    pixels = writer.begin()
    assert pixels is not None
    pixels[:3] = b"abc"
    arguments: dict[str, Any] = {**FRAME, "channels": 3, "pixel_format": PixelFormat.MJPEG}
    writer.publish(length=3, **arguments)
    with reader.acquire() or pytest.fail("no slot") as lease:
        view = FrameView(lease)
        data = view.data

        assert data is view.data
        assert b"abc" == bytes(data)
        assert 0 == np.frombuffer(data, np.uint8).ctypes.data % 64
        assert data.readonly

    with pytest.raises(ValueError, match="released"):
        bytes(data)
    with pytest.raises(ValueError, match="released"):
        pixels[0] = 1

    second = reader.acquire()
    assert second is not None
    unmade = FrameView(second)
    kept = FrameView(second.view).data
    with pytest.raises(LeaseError):
        second.release()
    with pytest.raises(ValueError, match="released"):
        _ = unmade.data
    assert b"abc" == bytes(kept)


def test_frame_writer_follows_its_ring(stream: Path) -> None:
    writer = FrameWriter(stream, camera_id="door_1", capacity=100, slots=2)
    reader = RingReader(stream)
    arguments: dict[str, Any] = {**FRAME, "channels": 3, "pixel_format": PixelFormat.MJPEG}
    with pytest.raises(IpcError, match="without begin"):
        writer.publish(length=3, **arguments)
    first = writer.begin()
    assert first is not None
    assert 100 == first.nbytes
    writer.resize(1000)
    second = writer.begin()
    assert second is not None

    assert 1000 == second.nbytes == writer.capacity
    with pytest.raises(ValueError, match="released"):
        first[0] = 1

    writer.abort()
    with pytest.raises(IpcError, match="without begin"):
        writer.publish(length=3, **arguments)

    writer.begin()
    writer.publish(length=1000, **arguments)
    lease = reader.acquire()
    assert lease is not None
    writer.begin()
    writer.publish(length=1, **arguments)

    assert writer.begin() is None
    assert 1 == writer.ring.dropped
    with pytest.raises(IpcError, match="without begin"):
        writer.publish(length=3, **arguments)

    lease.release()
    third = writer.begin()
    assert third is not None
    array = memoryview(third)
    writer.publish(length=1, **arguments)
    array.release()
    writer.clear()

    assert reader.acquire() is None

    writer.begin()
    writer.publish(length=1, **arguments)
    with reader.acquire() or pytest.fail("no slot") as lease:
        assert 1 == len(FrameView(lease).data)

    writer.close(unlink=True)


def test_pixels_pinned_by_an_array_do_not_stop_the_writer(stream: Path) -> None:
    import pickle

    writer = FrameWriter(stream, camera_id="door_1", capacity=100, slots=2)
    pixels = writer.begin()
    assert pixels is not None
    pinned = pickle.PickleBuffer(pixels)
    writer.abort()

    assert 100 == pinned.raw().nbytes


@pytest.mark.parametrize(
    "wrong",
    [
        {"length": 0},
        {"length": 4097},
        {"width": 0},
        {"height": 16385},
        {"pixel_format": PixelFormat.RGB24},
        {"frame_number": -1},
        {"timestamp_ns": 1 << 64},
        {"channels": 256},
        {"trace": "no bytes"},
    ],
)
def test_frame_writer_refuses_what_does_not_fit_and_publishes_nothing(stream: Path, wrong: dict[str, Any]) -> None:
    writer = FrameWriter(stream, camera_id="door_1", capacity=4096, slots=2)
    writer.begin()
    arguments: dict[str, Any] = {"length": 10, **FRAME, "channels": 3, "pixel_format": PixelFormat.MJPEG}
    with pytest.raises(ValueError, match="frame"):
        writer.publish(**{**arguments, **wrong})

    assert RingReader(stream).acquire() is None
    with pytest.raises(IpcError, match="without begin"):
        writer.publish(**arguments)


@pytest.mark.parametrize(
    "wrong",
    [
        {"detections": some_detections(301)},
        {"detections": np.zeros((2, 2), some_detections(1).dtype)},
        {"detections": np.zeros(3, np.float32)},
        {"model_hash": b"short"},
        {"provider": "x" * 33},
        {"provider": "é"},
        {"width": -1},
        {"inference_ns": 1 << 64},
    ],
)
def test_detections_writer_refuses_what_does_not_fit_and_publishes_nothing(stream: Path, wrong: dict[str, Any]) -> None:
    writer = DetectionsWriter(stream, camera_id="door_1", slots=2)
    arguments: dict[str, Any] = {
        **FRAME,
        "detections": some_detections(1),
        "outcome": Outcome.INFERRED,
        "model_hash": HASH,
        "provider": "CPU",
        "inference_ns": 1,
        "decode_ns": 1,
    }
    with pytest.raises(ValueError, match=r"\w"):
        writer.publish(**{**arguments, **wrong})

    assert RingReader(stream).acquire() is None
    assert 1 == writer.publish(**arguments)


def test_detections_writer_counts_what_finds_no_slot_and_clears(stream: Path) -> None:
    writer = DetectionsWriter(stream, camera_id="door_1", slots=2)
    reader = RingReader(stream)
    arguments: dict[str, Any] = {
        **FRAME,
        "detections": some_detections(2)[::2],
        "outcome": Outcome.INFERRED,
        "model_hash": HASH,
        "provider": "CPU",
        "inference_ns": 1,
        "decode_ns": 1,
    }
    writer.publish(**arguments)
    with reader.acquire() or pytest.fail("no slot"):
        writer.publish(**arguments)

        assert writer.publish(**arguments) is None
        assert 1 == writer.ring.dropped

    writer.clear()

    assert reader.acquire() is None

    writer.publish(**arguments)
    with reader.acquire() or pytest.fail("no slot") as lease:
        assert 1 == len(DetectionsView(lease))

    writer.close()


SENTRY: dict[str, Any] = {
    "state": State.STANDBY,
    "mode": Mode.AUTO,
    "blind": False,
    "capture_fps": 3.0,
    "since_ns": 1,
    "count": 0,
    "event_id": "",
    "timestamp_ns": 2,
}


@pytest.mark.parametrize("wrong", [{"event_id": "x" * 27}, {"event_id": "é"}, {"count": -1}, {"since_ns": 1 << 64}])
def test_sentry_writer_refuses_what_does_not_fit_and_publishes_nothing(stream: Path, wrong: dict[str, Any]) -> None:
    writer = SentryWriter(stream, camera_id="door_1", slots=2)
    with pytest.raises(ValueError, match=r"\w"):
        writer.publish(**{**SENTRY, **wrong})

    assert RingReader(stream).acquire() is None


def test_sentry_writer_says_that_readers_hold_everything(stream: Path) -> None:
    writer = SentryWriter(stream, camera_id="door_1", slots=2)
    reader = RingReader(stream)
    writer.publish(**SENTRY)
    with reader.acquire() or pytest.fail("no slot"):
        writer.publish(**SENTRY)
        with pytest.raises(IpcError, match="hold every slot"):
            writer.publish(**SENTRY)
    writer.close()


def test_writers_refuse_a_camera_that_is_no_id(stream: Path) -> None:
    with pytest.raises(IpcError, match="camera"):
        FrameWriter(stream, camera_id="Front Door", capacity=10, slots=2)
    with pytest.raises(IpcError, match="camera"):
        DetectionsWriter(stream, camera_id="Front Door", slots=2)
    with pytest.raises(IpcError, match="camera"):
        SentryWriter(stream, camera_id="Front Door", slots=2)

    assert not stream.exists()


def blocks(stream: Path) -> list[tuple[type[Any], Template, bytes]]:
    return [
        (FrameView, frame.TEMPLATE, frame_bytes(stream, b"x" * 100)),
        (DetectionsView, detections.TEMPLATE, detections_bytes(stream, some_detections(3))),
        (SentryView, sentry.TEMPLATE, sentry_bytes(stream)),
    ]


def test_other_messages_and_short_ones_are_refused(stream: Path) -> None:
    for view, template, content in blocks(stream):
        for size in (0, 1, template.block_offset, template.data_offset - 1):
            with pytest.raises(CorruptMessageError, match="message of this version"):
                view(memoryview(content[:size]))
        for other, _, foreign in blocks(stream):
            if other is not view:
                with pytest.raises(CorruptMessageError, match="message of this version"):
                    view(memoryview(foreign))
        with pytest.raises(CorruptMessageError):
            view(memoryview(bytes(len(content))))


def repack(template: Template, content: bytes, index: int, value: object) -> memoryview:
    copy = bytearray(content)
    values = list(template.block.unpack_from(copy, template.block_offset))
    values[index] = value
    template.block.pack_into(copy, template.block_offset, *values)
    return memoryview(copy)


@pytest.mark.parametrize(
    ("kind", "index", "value"),
    [
        (0, 5, 0),
        (0, 6, 1 << 31),
        (0, 8, 5),
        (0, 8, 4),
        (0, 10, 33),
        (0, 11, b"\xff" * 6),
        (0, 12, 0),
        (0, 12, 1 << 31),
        (1, 9, 2),
        (1, 12, 33),
        (1, 13, b"\xff" * 6),
        (1, 14, 1 << 31),
        (1, 15, b"\xff" * 32),
        (1, 16, 301),
        (1, 16, (1 << 32) - 1),
        (2, 2, float("nan")),
        (2, 2, 1e9),
        (2, 4, 4),
        (2, 5, 4),
        (2, 6, 2),
        (2, 8, 33),
        (2, 10, 27),
        (2, 11, b"\xff" * 26),
    ],
)
def test_values_that_no_writer_of_ours_leaves_are_refused(stream: Path, kind: int, index: int, value: object) -> None:
    view, template, content = blocks(stream)[kind]
    with pytest.raises(CorruptMessageError):
        view(repack(template, content, index, value))


def test_a_count_beyond_the_end_of_a_short_buffer_is_refused(stream: Path) -> None:
    content = detections_bytes(stream, some_detections(10))
    with pytest.raises(CorruptMessageError, match="10 detections"):
        DetectionsView(memoryview(content[: detections.TEMPLATE.data_offset + 279]))


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    folder = tmp_path_factory.mktemp("samples")
    return [content for _, _, content in blocks(folder / "stream")]


@settings(max_examples=250, deadline=None)
@given(data=st.data(), kind=st.integers(0, 2))
def test_no_bytes_crash_a_view_or_make_it_read_outside(samples: list[bytes], data: st.DataObject, kind: int) -> None:
    content = bytearray(samples[kind])
    flips = data.draw(st.lists(st.tuples(st.integers(0, min(len(content), 320) - 1), st.integers(0, 255)), max_size=6))
    for offset, value in flips:
        content[offset] = value
    size = data.draw(st.one_of(st.just(len(content)), st.integers(0, len(content))))
    guard = bytes(content[:size])
    try:
        view = VIEWS[kind](memoryview(guard))
    except CorruptMessageError:
        return
    if isinstance(view, FrameView):
        assert bytes(view.data) in guard
        assert view.data.nbytes <= size
    if isinstance(view, DetectionsView):
        assert len(view.detections) <= CAPACITY
        assert view.detections.tobytes() in guard
    assert len(view.camera_id) <= 32


@settings(max_examples=300, deadline=None)
@given(content=st.binary(max_size=600), kind=st.integers(0, 2))
def test_arbitrary_bytes_are_refused(content: bytes, kind: int) -> None:
    with pytest.raises(CorruptMessageError):
        VIEWS[kind](memoryview(content))


@settings(max_examples=60, deadline=None)
@given(
    values=st.tuples(*[st.integers(0, (1 << 64) - 1)] * 4),
    pts_ns=st.integers(-(1 << 63), (1 << 63) - 1),
    side=st.tuples(st.integers(1, 16384), st.integers(1, 16384)),
    trace=st.binary(min_size=25, max_size=25),
    camera_id=st.text("abcdefghijklmnopqrstuvwxyz0123456789_", min_size=1, max_size=32),
    length=st.integers(1, 64),
)
def test_every_frame_comes_back(
    *,
    tmp_path_factory: pytest.TempPathFactory,
    values: tuple[int, int, int, int],
    pts_ns: int,
    side: tuple[int, int],
    trace: bytes,
    camera_id: str,
    length: int,
) -> None:
    directory = tmp_path_factory.mktemp("frames") / "frames"
    writer = FrameWriter(directory, camera_id=camera_id, capacity=64, slots=2)
    reader = RingReader(directory)
    names = ("frame_number", "capture_epoch", "timestamp_ns", "captured_monotonic_ns")
    arguments: dict[str, Any] = {
        **dict(zip(names, values, strict=True)),
        "pts_ns": pts_ns,
        "width": side[0],
        "height": side[1],
        "channels": 3,
        "pixel_format": PixelFormat.MJPEG,
        "trace": trace,
    }
    try:
        writer.begin()
        writer.publish(length=length, **arguments)
        with reader.acquire() or pytest.fail("no slot") as lease:
            seen = fields(FrameView(lease))
    finally:
        reader.close()
        writer.close(unlink=True)
    expected = {**arguments, "camera_id": camera_id, "trace": trace if any(trace) else None}

    assert expected == seen


def test_views_cost_little_whatever_the_count_says(stream: Path) -> None:
    """A count of four billion must not allocate: the view refuses before it copies."""
    _, template, content = blocks(stream)[1]
    huge = repack(template, content, 16, (1 << 32) - 1)
    started = time.monotonic()
    for _ in range(1000):
        with pytest.raises(CorruptMessageError):
            DetectionsView(huge)

    assert time.monotonic() - started < 5
    assert struct.calcsize(template.block.format) < 512
