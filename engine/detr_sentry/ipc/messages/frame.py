"""The frame message: one captured frame, pixels or JPEG, written straight into its slot (schemas/frame.fbs)."""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import TYPE_CHECKING

from detr_sentry.errors import CorruptMessageError
from detr_sentry.ipc.layout import check_id
from detr_sentry.ipc.ring import Lease, RingWriter

from .template import ID_BYTES, NO_TRACE, Template, Vector, text, trace_or_none

if TYPE_CHECKING:
    from pathlib import Path

MAX_SIDE = 16384
"""The largest width or height; no camera has more, and no product of two overflows anything."""


class PixelFormat(IntEnum):
    """How the bytes of a frame are to be read."""

    MJPEG = 0
    YUYV = 1
    RGB24 = 2
    I420 = 3
    GRAY8 = 4

    def frame_bytes(self, width: int, height: int) -> int | None:
        """The exact size of a raw frame; None for JPEG, which has any."""
        if self is PixelFormat.MJPEG:
            return None
        if self is PixelFormat.I420:
            return width * height + 2 * ((width + 1) // 2) * ((height + 1) // 2)
        return width * height * {PixelFormat.YUYV: 2, PixelFormat.RGB24: 3, PixelFormat.GRAY8: 1}[self]


_PIXEL_FORMATS = tuple(PixelFormat)


TEMPLATE = Template(
    b"DSF1",
    scalars=[
        (2, "Q"),  # frame_number
        (3, "Q"),  # capture_epoch
        (4, "Q"),  # timestamp_ns
        (5, "Q"),  # captured_monotonic_ns
        (6, "q"),  # pts_ns
        (7, "I"),  # width
        (8, "I"),  # height
        (9, "B"),  # channels
        (10, "B"),  # pixel_format
        (11, "25s"),  # trace
    ],
    strings=[(0, ID_BYTES)],  # camera_id
    vector=Vector(
        index=1, element_bytes=1, capacity=64, alignment=64
    ),  # data; nothing before it depends on its capacity
)
_BLOCK_OFFSET = TEMPLATE.block_offset
_DATA_OFFSET = TEMPLATE.data_offset
_pack = TEMPLATE.block.pack_into
_unpack = TEMPLATE.unpack


class FrameWriter:
    """Publishes the frames of one camera; `ring` is its ring, with slots for `capacity` bytes of pixels.

    Raises:
        WriterBusyError, ShmFullError, IpcError: as `RingWriter`; also for a camera id that is none.
    """

    def __init__(self, directory: Path, *, camera_id: str, capacity: int, slots: int) -> None:
        self._camera_id = check_id(camera_id, "camera").encode()
        self._payload: memoryview | None = None
        self._pixels: memoryview | None = None
        self.capacity = capacity
        self.ring = RingWriter(directory, slot_bytes=_DATA_OFFSET + capacity, slots=slots, prepare=TEMPLATE.prepare)

    def begin(self) -> memoryview | None:
        """`capacity` writable bytes, 64-byte aligned; None where no slot is free (counted in `ring.dropped`)."""
        self._payload = payload = self.ring.begin()
        if payload is None:
            return None
        self._pixels = payload[_DATA_OFFSET:]
        return self._pixels

    def publish(
        self,
        *,
        length: int,
        frame_number: int,
        capture_epoch: int,
        timestamp_ns: int,
        captured_monotonic_ns: int,
        pts_ns: int,
        width: int,
        height: int,
        channels: int,
        pixel_format: PixelFormat,
        trace: bytes | None = None,
    ) -> int:
        """Publishes the begun frame, whose first `length` bytes were written; returns its sequence in the ring.

        Raises:
            IpcError: no frame was begun.
            ValueError: the size is not that of the format, or a value does not fit; the frame is aborted.
        """
        payload = self._payload
        if payload is not None:
            try:
                check_geometry(length, self.capacity, width, height, pixel_format)
                _pack(
                    payload,
                    _BLOCK_OFFSET,
                    frame_number,
                    capture_epoch,
                    timestamp_ns,
                    captured_monotonic_ns,
                    pts_ns,
                    width,
                    height,
                    channels,
                    pixel_format,
                    trace or NO_TRACE,
                    len(self._camera_id),
                    self._camera_id,
                    length,
                )
            except (ValueError, struct.error) as error:
                self.abort()
                raise ValueError(f"frame {frame_number}: {error}") from error
            self._let_go()
        return self.ring.publish()

    def abort(self) -> None:
        """Gives up the begun frame."""
        self._let_go()
        self.ring.abort()

    def resize(self, capacity: int) -> None:
        """A new epoch with slots for `capacity` bytes of pixels."""
        self._let_go()
        self.ring.resize(_DATA_OFFSET + capacity)
        self.capacity = capacity

    def clear(self) -> None:
        """Zeroes every slot and unpublishes, for privacy."""
        self._let_go()
        self.ring.clear()

    def close(self, *, unlink: bool = False) -> None:
        """Ends the writing."""
        self._let_go()
        self.ring.close(unlink=unlink)

    def _let_go(self) -> None:
        pixels, self._pixels, self._payload = self._pixels, None, None
        if pixels is not None:
            try:
                pixels.release()
            except BufferError:  # an array over it lives on; it is the caller's to leave it alone
                return


def check_geometry(length: int, room: int, width: int, height: int, pixel_format: PixelFormat) -> None:
    """Checks that `length` bytes can be such a frame.

    Raises:
        ValueError: they cannot.
    """
    if not (0 < width <= MAX_SIDE and 0 < height <= MAX_SIDE):
        raise ValueError(f"{width} x {height} pixels")
    if not 0 < length <= room:
        raise ValueError(f"{length} bytes in a room of {room}")
    if pixel_format:  # all but MJPEG have an exact size
        exact = pixel_format.frame_bytes(width, height)
        if length != exact:
            raise ValueError(f"{length} bytes for {width} x {height} {pixel_format.name}, expected {exact}")


class FrameView:
    """A checked frame over a lease (or over any bytes). The fields are copies; `data` reads the slot.

    Made from a `Lease`, `data` dies with it by itself. Made from a plain memoryview, whoever keeps `data` must drop it
    before the lease is released, or the release raises LeaseError.

    Raises:
        CorruptMessageError: anything that no writer of ours leaves.
    """

    __slots__ = (
        "_data",
        "_length",
        "_source",
        "camera_id",
        "capture_epoch",
        "captured_monotonic_ns",
        "channels",
        "frame_number",
        "height",
        "pixel_format",
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
            self.width,
            self.height,
            self.channels,
            pixel_format,
            trace,
            id_length,
            raw_id,
            length,
        ) = _unpack(view)
        if pixel_format >= len(_PIXEL_FORMATS):
            raise CorruptMessageError(f"pixel format {pixel_format}")
        self.pixel_format = _PIXEL_FORMATS[pixel_format]
        try:
            check_geometry(length, view.nbytes - _DATA_OFFSET, self.width, self.height, self.pixel_format)
        except ValueError as error:
            raise CorruptMessageError(f"frame {self.frame_number}: {error}") from error
        self.camera_id = text(raw_id, id_length, "camera id")
        self.trace = trace_or_none(trace)
        self._source = source
        self._length: int = length
        self._data: memoryview | None = None

    @property
    def data(self) -> memoryview:
        """The pixels or the JPEG, read-only, 64-byte aligned.

        Raises:
            ValueError: the lease was released.
        """
        end = _DATA_OFFSET + self._length
        if isinstance(self._source, Lease):
            if self._data is None:
                self._data = self._source.part(_DATA_OFFSET, end)
            return self._data
        return self._source[_DATA_OFFSET:end]
