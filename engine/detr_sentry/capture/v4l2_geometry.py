"""The layout of one V4L2 frame in its buffer, and the packed frame in it. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from detr_sentry.capture.v4l2_formats import PIXEL_FORMATS
from detr_sentry.errors import BadFrameError, SourceFormatError
from detr_sentry.ipc.messages import PixelFormat

_MAXIMUM_SIDE: Final = 16384  # as in settings: larger is a driver's mistake, and would cost gigabytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Geometry:
    """A negotiated picture.

    `planes` are (rows, bytes of a row in the buffer, bytes of it that are picture) from the buffer's start; empty for
    JPEG. `frame_bytes` is the packed size, for JPEG the largest that the driver delivers.
    """

    width: int
    height: int
    pixel_format: PixelFormat
    frame_bytes: int
    planes: tuple[tuple[int, int, int], ...] = ()

    @classmethod
    def from_driver(cls, *, fourcc: str, width: int, height: int, bytes_per_line: int, size_bytes: int) -> Geometry:
        """The geometry that a driver's `v4l2_pix_format` says. Raises SourceFormatError for one that cannot be."""
        if not (0 < width <= _MAXIMUM_SIDE and 0 < height <= _MAXIMUM_SIDE):
            raise SourceFormatError(f"names a size that cannot be: {width}x{height}")
        pixel_format = PIXEL_FORMATS[fourcc]
        if pixel_format is PixelFormat.MJPEG:
            # Some drivers leave sizeimage 0; a JPEG larger than the raw picture does not happen.
            size = size_bytes or width * height * 2
            return cls(width=width, height=height, pixel_format=pixel_format, frame_bytes=size)
        planes = _planes(pixel_format, width, height, bytes_per_line)
        size = sum(rows * used for rows, _, used in planes)
        return cls(width=width, height=height, pixel_format=pixel_format, frame_bytes=size, planes=planes)

    def frame(self, buffer: memoryview, bytes_used: int) -> memoryview:
        """The frame in the first `bytes_used` of `buffer`: the buffer itself where rows are packed, else a packed copy.

        Raises BadFrameError `empty` or `short`.
        """
        bytes_used = min(bytes_used, len(buffer))
        if not bytes_used:
            raise BadFrameError("empty")
        if not self.planes:
            return buffer[:bytes_used]
        needed = sum(rows * pitch for rows, pitch, _ in self.planes)
        last_padding = self.planes[-1][1] - self.planes[-1][2]
        if bytes_used < needed - last_padding:
            raise BadFrameError("short", f"{bytes_used} of {needed} bytes")
        if needed == self.frame_bytes:
            return buffer[:needed]
        packed = bytearray(self.frame_bytes)
        read = written = 0
        for rows, pitch, used in self.planes:
            for _ in range(rows):
                packed[written : written + used] = buffer[read : read + used]
                read += pitch
                written += used
        return memoryview(packed)


def _planes(pixel_format: PixelFormat, width: int, height: int, pitch: int) -> tuple[tuple[int, int, int], ...]:
    """Rows, pitch and picture bytes of each plane; `pitch` 0 or too small (drivers that do not say) means packed."""
    if pixel_format is PixelFormat.I420:
        half_width, half_height = (width + 1) // 2, (height + 1) // 2
        pitch = max(pitch, width)
        half = (half_height, max(pitch // 2, half_width), half_width)
        return ((height, pitch, width), half, half)
    used = width * {PixelFormat.YUYV: 2, PixelFormat.RGB24: 3, PixelFormat.GRAY8: 1}[pixel_format]
    return ((height, max(pitch, used), used),)
