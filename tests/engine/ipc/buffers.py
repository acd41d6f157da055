"""Messages for the tests of the codecs: filled through the writers, read back as the bytes that lie in the slot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from detr_sentry.ipc.messages import (
    DETECTION_DTYPE,
    Detections,
    DetectionsWriter,
    FrameWriter,
    Mode,
    Outcome,
    PixelFormat,
    SentryWriter,
    State,
)
from detr_sentry.ipc.ring import RingReader

TRACE = bytes(range(1, 26))
HASH = b"\x01\x02\x03\x04\x05\x06\x07\xff"
ULID = "01JD5Z6Q8V9XW2T3R4P5N6M7K8"
BIG = (1 << 64) - 1

FRAME: dict[str, Any] = {
    "frame_number": BIG,
    "capture_epoch": 1_795_352_584_849_196,
    "timestamp_ns": 1_795_352_584_849_196_123,
    "captured_monotonic_ns": 12_345,
    "pts_ns": -1,
    "width": 1920,
    "height": 1080,
}


def some_detections(count: int) -> Detections:
    """Rows that differ in every field; confidences of 0.5."""
    rows = np.zeros(count, DETECTION_DTYPE)
    ramp = np.arange(count)
    for name, step in (("x1", 1.5), ("y1", 2.5), ("x2", 3.5), ("y2", 4.5)):
        rows[name] = ramp * step
    rows["confidence"] = 0.5
    rows["class_id"] = ramp % 91
    rows["zone_mask"] = 0xFFFF - ramp
    rows["track_id"] = 0xFFFF_FFFF - ramp
    return rows


def newest_slot(directory: Path) -> bytes:
    """The whole payload of the newest slot."""
    reader = RingReader(directory)
    lease = reader.acquire()
    assert lease is not None
    with lease:
        content = bytes(lease.view)
    reader.close()
    return content


def frame_bytes(directory: Path, pixels: bytes, **changes: Any) -> bytes:
    """The slot after publishing `pixels` as a frame."""
    writer = FrameWriter(directory, camera_id="door_1", capacity=max(4096, len(pixels)), slots=3)
    try:
        view = writer.begin()
        assert view is not None
        view[: len(pixels)] = pixels
        fields = {"channels": 3, "pixel_format": PixelFormat.MJPEG, "trace": TRACE, **FRAME, **changes}
        writer.publish(length=len(pixels), **fields)
        return newest_slot(directory)
    finally:
        writer.close(unlink=True)


def detections_bytes(directory: Path, detections: Detections, **changes: Any) -> bytes:
    """The slot after publishing `detections`."""
    writer = DetectionsWriter(directory, camera_id="door_1", slots=3)
    try:
        fields = {
            "outcome": Outcome.INFERRED,
            "model_hash": HASH,
            "provider": "OpenVINO CPU",
            "inference_ns": 50_000_000,
            "decode_ns": 5_000_000,
            "trace": TRACE,
            **FRAME,
            **changes,
        }
        writer.publish(detections=detections, **fields)
        return newest_slot(directory)
    finally:
        writer.close(unlink=True)


def sentry_bytes(directory: Path, **changes: Any) -> bytes:
    """The slot after publishing a sentry message."""
    writer = SentryWriter(directory, camera_id="door_1", slots=3)
    try:
        fields = {
            "state": State.ALARMED,
            "mode": Mode.AUTO,
            "blind": False,
            "capture_fps": -1.0,
            "since_ns": 1_795_352_584_849_196_123,
            "count": 2,
            "event_id": ULID,
            "timestamp_ns": 1_795_352_584_849_196_124,
            "trace": TRACE,
            **changes,
        }
        writer.publish(**fields)
        return newest_slot(directory)
    finally:
        writer.close(unlink=True)
