"""Pictures copied out of the frames ring, and the JPEGs made of them: pure functions.

Whatever decodes or encodes runs in a worker thread, and only there the codecs are imported; what merely passes a
camera's JPEG on may run in the event loop.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from detr_sentry.errors import BadFrameError
from detr_sentry.ipc.messages import PixelFormat
from detr_sentry.jpeg import insert_dht

if TYPE_CHECKING:
    from collections.abc import Sequence

    from detr_sentry.ipc.messages import FrameView

    from .detections import Detection

# Quality 80 is what the reference implementation serves.
QUALITY = 80
# JPEG decoders scale by eighths, but only powers of two were measured to be faster than a full decode.
_DECODE_SCALES = (8, 4, 2)
_DHT, _SOS = 0xC4, 0xDA
_BOX_RGB = (255, 82, 82)


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameInfo:
    """What is known of a frame without its pixels. `key` is (ring epoch, sequence), its identity for this gateway."""

    key: tuple[int, int]
    frame_number: int
    capture_epoch: int
    timestamp_ns: int
    captured_monotonic_ns: int
    width: int
    height: int
    pixel_format: PixelFormat

    @classmethod
    def of(cls, view: FrameView, key: tuple[int, int]) -> FrameInfo:
        """Copied from a view, so that nothing of it outlives the lease."""
        return cls(
            key=key,
            frame_number=view.frame_number,
            capture_epoch=view.capture_epoch,
            timestamp_ns=view.timestamp_ns,
            captured_monotonic_ns=view.captured_monotonic_ns,
            width=view.width,
            height=view.height,
            pixel_format=PixelFormat(view.pixel_format),
        )

    @property
    def identity(self) -> tuple[int, int]:
        """(capture epoch, frame number): how detections name their frame."""
        return self.capture_epoch, self.frame_number


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A frame with its pixels: a JPEG as the camera made it, or raw bytes of `info.pixel_format`."""

    info: FrameInfo
    data: bytes

    @property
    def is_jpeg(self) -> bool:
        """Whether the camera made a JPEG itself."""
        return self.info.pixel_format is PixelFormat.MJPEG


def to_rgb(picture: Picture, min_width: int = 0) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """uint8 [H, W, 3], at least `min_width` wide and otherwise as small as is cheap; 0 means full size.

    Raises BadFrameError for data that does not decode or has not the size that its header claims.
    """
    import cv2

    info = picture.info
    width, height = info.width, info.height
    match info.pixel_format:
        case PixelFormat.MJPEG:
            return _decode(picture.data, width, height, min_width)
        case PixelFormat.RGB24:
            return _raw(picture.data, height, width, 3)
        case PixelFormat.GRAY8:
            raw, conversion = _raw(picture.data, height, width, 1), cv2.COLOR_GRAY2RGB
        case PixelFormat.YUYV:
            raw, conversion = _raw(picture.data, height, width, 2), cv2.COLOR_YUV2RGB_YUY2
        case PixelFormat.I420:
            raw, conversion = _raw(picture.data, height * 3 // 2, width, 1), cv2.COLOR_YUV2RGB_I420
    try:
        return np.asarray(cv2.cvtColor(raw, conversion), np.uint8)
    except cv2.error as error:
        raise BadFrameError("raw_convert", f"{info.pixel_format.name} {width}x{height}") from error


def full_jpeg(picture: Picture) -> bytes:
    """The picture at its own size. A camera's JPEG is returned as it is (with Huffman tables if it left them out).

    Raises BadFrameError.
    """
    if not picture.is_jpeg:
        return _encode_raw(picture)
    return picture.data if _has_huffman_tables(picture.data) else insert_dht(picture.data)


def small_jpeg(picture: Picture, width: int) -> bytes:
    """The picture `width` pixels wide with its aspect kept; never enlarged. Raises BadFrameError."""
    if picture.info.width <= width:
        return full_jpeg(picture)
    import cv2

    rgb = to_rgb(picture, min_width=width)
    return _encode(cv2.resize(rgb, small_size(picture.info, width), interpolation=cv2.INTER_AREA))


def small_size(info: FrameInfo, width: int | None) -> tuple[int, int]:
    """(width, height) of a frame that is shown `width` wide; None or a greater width leave it as it is."""
    if width is None or info.width <= width:
        return info.width, info.height
    return width, max(1, round(info.height * width / info.width))


def boxed_jpeg(picture: Picture, detections: Sequence[Detection]) -> bytes:
    """The picture at its own size with the boxes, labels and scores of `detections` drawn in."""
    import cv2

    rgb = np.ascontiguousarray(to_rgb(picture))
    if not rgb.flags.writeable:
        rgb = rgb.copy()
    height, width = rgb.shape[:2]
    stroke = max(2, width // 480)
    scale = max(0.5, width / 1600)
    for found in detections:
        left, top = int(max(0, found["x1"])), int(max(0, found["y1"]))
        right, bottom = int(min(width - 1, found["x2"])), int(min(height - 1, found["y2"]))
        cv2.rectangle(rgb, (left, top), (right, bottom), _BOX_RGB, stroke)
        text = f"{found['label']} {found['confidence']:.0%}"
        (text_width, text_height), _base = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, 1)
        base = top - 6 if top > text_height + 10 else top + text_height + 8
        cv2.rectangle(rgb, (left, base - text_height - 4), (left + text_width + 6, base + 5), _BOX_RGB, cv2.FILLED)
        cv2.putText(rgb, text, (left + 3, base), cv2.FONT_HERSHEY_SIMPLEX, scale, (0, 0, 0), 1, cv2.LINE_AA)
    return _encode(rgb)


def _encode_raw(picture: Picture) -> bytes:
    import simplejpeg

    info = picture.info
    if info.pixel_format is PixelFormat.GRAY8:
        gray = _raw(picture.data, info.height, info.width, 1)
        return bytes(simplejpeg.encode_jpeg(gray, quality=QUALITY, colorspace="GRAY", colorsubsampling="GRAY"))
    # Not from the planes as they are: cameras deliver video range, JPEG means full range.
    return _encode(to_rgb(picture))


def _has_huffman_tables(jpeg: bytes) -> bool:
    """Whether tables come before the first scan. Looks at the headers of segments only: it is done for every frame."""
    at = 2
    while at + 4 <= len(jpeg) and jpeg[at] == 0xFF:
        marker = jpeg[at + 1]
        if marker in {_DHT, _SOS}:
            return marker == _DHT
        at += 1 if marker == 0xFF else 2 + int.from_bytes(jpeg[at + 2 : at + 4], "big")
    return False


def _decode(data: bytes, width: int, height: int, min_width: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    import simplejpeg

    scale = next((step for step in _DECODE_SCALES if min_width and -(-width // step) >= min_width), 1)
    shape = (-(-height // scale), -(-width // scale), 3)
    try:
        seen_height, seen_width, *_rest = simplejpeg.decode_jpeg_header(data)
        # The header decides how much memory a decoder takes: one that lies is not decoded.
        if (seen_width, seen_height) != (width, height):
            raise BadFrameError("jpeg_size", f"{seen_width}x{seen_height} in a frame of {width}x{height}")
        # Many webcams pad the end of a whole picture, which a strict decoder refuses. A lenient one tells nothing of
        # real errors either, so what it does not reach stays black instead of holding whatever was in memory.
        black = np.zeros(shape, np.uint8)
        least = {"min_height": shape[0], "min_width": shape[1]} if scale > 1 else {}
        rgb = simplejpeg.decode_jpeg(data, "RGB", buffer=black, strict=False, **least)
    except ValueError as error:
        raise BadFrameError("jpeg_decode", str(error)) from error
    return np.asarray(rgb, np.uint8).reshape(shape)


def _raw(data: bytes, height: int, width: int, channels: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    if len(data) != height * width * channels:
        raise BadFrameError("raw_size", f"{len(data)} bytes instead of {height}x{width}x{channels}")
    return np.frombuffer(data, np.uint8).reshape(height, width, channels)


def _encode(rgb: Any) -> bytes:
    import simplejpeg

    return bytes(simplejpeg.encode_jpeg(np.ascontiguousarray(rgb), quality=QUALITY, colorsubsampling="420"))
