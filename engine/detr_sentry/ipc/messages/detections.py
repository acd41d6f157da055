"""The detections message: what the detector found in one frame (schemas/detections.fbs)."""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from detr_sentry.errors import CorruptMessageError
from detr_sentry.ipc.layout import check_id
from detr_sentry.ipc.ring import Lease, RingWriter

from .template import ID_BYTES, NO_TRACE, Template, Vector, text, trace_or_none

if TYPE_CHECKING:
    from pathlib import Path

CAPACITY = 300
"""Detections in one message: the queries of the largest DETR."""

DETECTION_DTYPE = np.dtype(
    [
        ("x1", "<f4"),
        ("y1", "<f4"),
        ("x2", "<f4"),
        ("y2", "<f4"),
        ("confidence", "<f4"),
        ("class_id", "<u2"),
        ("zone_mask", "<u2"),
        ("track_id", "<u4"),
    ]
)
"""One detection, 28 bytes, as in the schema; the box in pixels of the source frame."""

_ROW_BYTES = DETECTION_DTYPE.itemsize


class Outcome(IntEnum):
    """What was done with a frame."""

    INFERRED = 0
    GATED = 1


_OUTCOMES = tuple(Outcome)


TEMPLATE = Template(
    b"DSD1",
    scalars=[
        (3, "Q"),  # frame_number
        (4, "Q"),  # capture_epoch
        (5, "Q"),  # timestamp_ns
        (6, "Q"),  # captured_monotonic_ns
        (7, "q"),  # pts_ns
        (8, "Q"),  # inference_ns
        (9, "Q"),  # decode_ns
        (10, "I"),  # width
        (11, "I"),  # height
        (12, "B"),  # outcome
        (13, "8s"),  # model_hash
        (14, "25s"),  # trace
    ],
    strings=[(0, ID_BYTES), (1, ID_BYTES)],  # camera_id, provider
    vector=Vector(index=2, element_bytes=_ROW_BYTES, capacity=CAPACITY, alignment=4),  # detections
)
MESSAGE_BYTES = TEMPLATE.data_offset + CAPACITY * _ROW_BYTES
_BLOCK_OFFSET = TEMPLATE.block_offset
_DATA_OFFSET = TEMPLATE.data_offset
_pack = TEMPLATE.block.pack_into
_unpack = TEMPLATE.unpack

Detections = npt.NDArray[Any]
"""A one-dimensional array of DETECTION_DTYPE."""


def write_detections(
    payload: memoryview,
    *,
    camera_id: bytes,
    frame_number: int,
    capture_epoch: int,
    timestamp_ns: int,
    captured_monotonic_ns: int,
    pts_ns: int,
    width: int,
    height: int,
    detections: Detections,
    outcome: Outcome,
    model_hash: bytes,
    provider: str,
    inference_ns: int,
    decode_ns: int,
    trace: bytes | None = None,
) -> None:
    """Fills a prepared slot.

    Raises:
        ValueError: too many detections, another dtype, a text or hash that is too long, a number that does not fit.
    """
    count = len(detections)
    name = provider.encode("ascii")
    if detections.dtype != DETECTION_DTYPE or detections.ndim != 1 or count > CAPACITY:
        raise ValueError(f"{count} detections of {detections.dtype}; up to {CAPACITY} of DETECTION_DTYPE fit")
    if len(model_hash) != 8 or len(name) > ID_BYTES:
        raise ValueError(f"a model hash has 8 bytes and a provider up to {ID_BYTES}: {model_hash!r}, {provider!r}")
    try:
        _pack(
            payload,
            _BLOCK_OFFSET,
            frame_number,
            capture_epoch,
            timestamp_ns,
            captured_monotonic_ns,
            pts_ns,
            inference_ns,
            decode_ns,
            width,
            height,
            outcome,
            model_hash,
            trace or NO_TRACE,
            len(camera_id),
            camera_id,
            len(name),
            name,
            count,
        )
    except struct.error as error:
        raise ValueError(f"frame {frame_number}: {error}") from error
    if count:
        payload[_DATA_OFFSET : _DATA_OFFSET + count * _ROW_BYTES] = detections.tobytes()


class DetectionsWriter:
    """Publishes the detections of one camera; `ring` is its ring.

    Raises:
        WriterBusyError, ShmFullError, IpcError: as `RingWriter`; also for a camera id that is none.
    """

    def __init__(self, directory: Path, *, camera_id: str, slots: int) -> None:
        self._camera_id = check_id(camera_id, "camera").encode()
        self.ring = RingWriter(directory, slot_bytes=MESSAGE_BYTES, slots=slots, prepare=TEMPLATE.prepare)

    def publish(
        self,
        *,
        frame_number: int,
        capture_epoch: int,
        timestamp_ns: int,
        captured_monotonic_ns: int,
        pts_ns: int,
        width: int,
        height: int,
        detections: Detections,
        outcome: Outcome,
        model_hash: bytes,
        provider: str,
        inference_ns: int,
        decode_ns: int,
        trace: bytes | None = None,
    ) -> int | None:
        """Publishes one message; returns its sequence, or None where no slot is free (counted in `ring.dropped`).

        Raises:
            ValueError: as `write_detections`; nothing is published.
        """
        payload = self.ring.begin()
        if payload is None:
            return None
        try:
            write_detections(
                payload,
                camera_id=self._camera_id,
                frame_number=frame_number,
                capture_epoch=capture_epoch,
                timestamp_ns=timestamp_ns,
                captured_monotonic_ns=captured_monotonic_ns,
                pts_ns=pts_ns,
                width=width,
                height=height,
                detections=detections,
                outcome=outcome,
                model_hash=model_hash,
                provider=provider,
                inference_ns=inference_ns,
                decode_ns=decode_ns,
                trace=trace,
            )
        except BaseException:
            self.ring.abort()
            raise
        return self.ring.publish()

    def clear(self) -> None:
        """Zeroes every slot and unpublishes, for privacy."""
        self.ring.clear()

    def close(self, *, unlink: bool = False) -> None:
        """Ends the writing."""
        self.ring.close(unlink=unlink)


class DetectionsView:
    """A checked copy of a message: it may outlive the lease.

    Raises:
        CorruptMessageError: anything that no writer of ours leaves.
    """

    __slots__ = (
        "_rows",
        "camera_id",
        "capture_epoch",
        "captured_monotonic_ns",
        "decode_ns",
        "frame_number",
        "height",
        "inference_ns",
        "model_hash",
        "outcome",
        "provider",
        "pts_ns",
        "timestamp_ns",
        "trace",
        "width",
    )

    def __init__(self, source: Lease | memoryview) -> None:
        view = source.view if isinstance(source, Lease) else source
        (
            self.frame_number,
            self.capture_epoch,
            self.timestamp_ns,
            self.captured_monotonic_ns,
            self.pts_ns,
            self.inference_ns,
            self.decode_ns,
            self.width,
            self.height,
            outcome,
            self.model_hash,
            trace,
            id_length,
            raw_id,
            provider_length,
            raw_provider,
            count,
        ) = _unpack(view)
        end = _DATA_OFFSET + count * _ROW_BYTES
        if count > CAPACITY or end > view.nbytes:
            raise CorruptMessageError(f"{count} detections in a message of {view.nbytes} bytes")
        if outcome >= len(_OUTCOMES):
            raise CorruptMessageError(f"outcome {outcome}")
        self.outcome = _OUTCOMES[outcome]
        self.camera_id = text(raw_id, id_length, "camera id")
        self.provider = text(raw_provider, provider_length, "provider")
        self.trace = trace_or_none(trace)
        self._rows = bytes(view[_DATA_OFFSET:end])

    def __len__(self) -> int:
        return len(self._rows) // _ROW_BYTES

    @property
    def detections(self) -> Detections:
        """A read-only array of DETECTION_DTYPE, shape [n], over the copy."""
        return np.frombuffer(self._rows, DETECTION_DTYPE)
