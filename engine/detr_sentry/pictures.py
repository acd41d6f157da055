"""Frames as pictures: raw pixels and JPEGs to RGB, RGB to JPEG, boxes drawn in. Pure; for gateway and controller.

Whatever decodes or encodes belongs in a worker thread, and only there the codecs are imported; `to_jpeg` of a frame
that is a JPEG already only looks at its headers and may run in an event loop.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from detr_sentry.errors import BadFrameError
from detr_sentry.ipc.messages import PixelFormat
from detr_sentry.jpeg import insert_dht

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy.typing as npt

QUALITY = 80
"""What the reference implementation serves."""
_DECODE_SCALES = (8, 4, 2)
"""JPEG decoders scale by eighths, but only powers of two were measured to be faster than a full decode."""
_DHT, _SOS = 0xC4, 0xDA
_BOX_RGB = (255, 82, 82)


class LabelledBox(NamedTuple):
    """A box to draw: corners in pixels, and what stands on it."""

    x1: float
    y1: float
    x2: float
    y2: float
    text: str


def to_rgb(
    data: bytes, pixel_format: PixelFormat, width: int, height: int, *, min_width: int = 0
) -> npt.NDArray[np.uint8]:
    """uint8 [H, W, 3] of a frame; a JPEG at least `min_width` wide and otherwise as small as is cheap, 0: full size.

    Raises BadFrameError for data that does not decode or has not the size that its header claims.
    """
    import cv2

    match pixel_format:
        case PixelFormat.MJPEG:
            return _decode(data, width, height, min_width)
        case PixelFormat.RGB24:
            return _raw(data, height, width, 3)
        case PixelFormat.GRAY8:
            raw, conversion = _raw(data, height, width, 1), cv2.COLOR_GRAY2RGB
        case PixelFormat.YUYV:
            raw, conversion = _raw(data, height, width, 2), cv2.COLOR_YUV2RGB_YUY2
        case PixelFormat.I420:
            raw, conversion = _even_planes(data, width, height), cv2.COLOR_YUV2RGB_I420
    try:
        return np.asarray(cv2.cvtColor(raw, conversion), np.uint8)[:height, :width]
    except cv2.error as error:
        raise BadFrameError("raw_convert", f"{pixel_format.name} {width}x{height}") from error


def to_jpeg(data: bytes, pixel_format: PixelFormat, width: int, height: int) -> bytes:
    """The frame at its own size. A camera's JPEG is returned as it is, with Huffman tables if it left them out.

    Raises BadFrameError.
    """
    if pixel_format is PixelFormat.MJPEG:
        return data if _has_huffman_tables(data) else insert_dht(data)
    if pixel_format is PixelFormat.GRAY8:
        import simplejpeg

        gray = _raw(data, height, width, 1)
        return bytes(simplejpeg.encode_jpeg(gray, quality=QUALITY, colorspace="GRAY", colorsubsampling="GRAY"))
    # Not from the planes as they are: cameras deliver video range, JPEG means full range.
    return encode_rgb(to_rgb(data, pixel_format, width, height))


def encode_rgb(rgb: npt.NDArray[np.uint8]) -> bytes:
    """JPEG of uint8 [H, W, 3]."""
    import simplejpeg

    return bytes(simplejpeg.encode_jpeg(np.ascontiguousarray(rgb), quality=QUALITY, colorsubsampling="420"))


def draw_boxes(rgb: npt.NDArray[np.uint8], boxes: Iterable[LabelledBox]) -> npt.NDArray[np.uint8]:
    """A picture with the boxes and their texts drawn in; `rgb` itself where it may be written, else a copy."""
    import cv2

    rgb = np.ascontiguousarray(rgb)
    if not rgb.flags.writeable:
        rgb = rgb.copy()
    height, width = rgb.shape[:2]
    stroke = max(2, width // 480)
    scale = max(0.5, width / 1600)
    for box in boxes:
        left, top = int(max(0, box.x1)), int(max(0, box.y1))
        right, bottom = int(min(width - 1, box.x2)), int(min(height - 1, box.y2))
        cv2.rectangle(rgb, (left, top), (right, bottom), _BOX_RGB, stroke)
        (text_width, text_height), _base = cv2.getTextSize(box.text, cv2.FONT_HERSHEY_SIMPLEX, scale, 1)
        base = top - 6 if top > text_height + 10 else top + text_height + 8
        cv2.rectangle(rgb, (left, base - text_height - 4), (left + text_width + 6, base + 5), _BOX_RGB, cv2.FILLED)
        cv2.putText(rgb, box.text, (left + 3, base), cv2.FONT_HERSHEY_SIMPLEX, scale, (0, 0, 0), 1, cv2.LINE_AA)
    return rgb


def _has_huffman_tables(jpeg: bytes) -> bool:
    """Whether tables come before the first scan. Looks at the headers of segments only: it is done for every frame."""
    at = 2
    while at + 4 <= len(jpeg) and jpeg[at] == 0xFF:
        marker = jpeg[at + 1]
        if marker in {_DHT, _SOS}:
            return marker == _DHT
        at += 1 if marker == 0xFF else 2 + int.from_bytes(jpeg[at + 2 : at + 4], "big")
    return False


def _decode(data: bytes, width: int, height: int, min_width: int) -> npt.NDArray[np.uint8]:
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


def _raw(data: bytes, height: int, width: int, channels: int) -> npt.NDArray[np.uint8]:
    if len(data) != height * width * channels:
        raise BadFrameError("raw_size", f"{len(data)} bytes instead of {height}x{width}x{channels}")
    return np.frombuffer(data, np.uint8).reshape(height, width, channels)


def _even_planes(data: bytes, width: int, height: int) -> npt.NDArray[np.uint8]:
    """I420 as OpenCV takes it, [H * 3 / 2, W, 1] with even sides; an odd last row or column is doubled."""
    if width % 2 == 0 and height % 2 == 0:
        return _raw(data, height * 3 // 2, width, 1)
    rows, columns = (height + 1) // 2, (width + 1) // 2
    luma = width * height
    if len(data) != luma + 2 * rows * columns:
        raise BadFrameError("raw_size", f"{len(data)} bytes are no I420 picture of {width}x{height}")
    pixels = np.frombuffer(data, np.uint8)
    padded = np.pad(pixels[:luma].reshape(height, width), ((0, height % 2), (0, width % 2)), mode="edge")
    return np.concatenate([padded.reshape(-1), pixels[luma:]]).reshape(rows * 3, columns * 2, 1)
