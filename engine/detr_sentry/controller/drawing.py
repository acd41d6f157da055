"""JPEGs with boxes drawn in, of a size that brokers and dashboards like. Slow: for worker threads.

Drawn by slicing, because the controller has no other use for a graphics library, whose first import takes a second: the
first picture of an alarm is the one that cannot wait.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import simplejpeg

from detr_sentry.errors import BadFrameError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from detr_sentry.sentry.rules import Box

ENOUGH_WIDTH = 1280  # larger pictures are made smaller by a power of two, which decoders do at no cost
QUALITY = 80
_RGB = (255, 82, 82)
_SCALES = (8, 4, 2)


def draw(jpeg: bytes, boxes: Sequence[Box], *, width: int, height: int) -> bytes:
    """`jpeg` (width x height) with the boxes, smaller if that leaves `ENOUGH_WIDTH`; itself if nothing is to be done.

    Raises BadFrameError.
    """
    scale = next((step for step in _SCALES if width / step >= ENOUGH_WIDTH), 1)
    if not boxes and scale == 1:
        return jpeg
    image = _decode(jpeg, width, height, scale)
    for box in boxes:
        _outline(image, *(edge / scale for edge in box[:4]))
    return bytes(simplejpeg.encode_jpeg(image, quality=QUALITY, colorsubsampling="420"))


def _decode(jpeg: bytes, width: int, height: int, scale: int) -> Any:
    shape = (-(-height // scale), -(-width // scale), 3)
    try:
        seen_height, seen_width, *_rest = simplejpeg.decode_jpeg_header(jpeg)
        if (seen_width, seen_height) != (width, height):  # the header decides how much memory a decoder takes
            raise BadFrameError("jpeg_size", f"{seen_width}x{seen_height} in a frame of {width}x{height}")
        black = np.zeros(shape, np.uint8)  # webcams pad their pictures, which a strict decoder refuses
        least = {"min_height": shape[0], "min_width": shape[1]} if scale > 1 else {}
        image = simplejpeg.decode_jpeg(jpeg, "RGB", buffer=black, strict=False, **least)
    except ValueError as error:
        raise BadFrameError("jpeg_decode", str(error)) from error
    return np.asarray(image).reshape(shape)


def _outline(image: Any, x1: float, y1: float, x2: float, y2: float) -> None:
    height, width = image.shape[:2]
    stroke = max(2, width // 320)
    left, right = (min(max(0, int(x)), width - 1) for x in (x1, x2))
    top, bottom = (min(max(0, int(y)), height - 1) for y in (y1, y2))
    for rows, columns in (
        (slice(top, top + stroke), slice(left, right + 1)),
        (slice(max(top, bottom - stroke + 1), bottom + 1), slice(left, right + 1)),
        (slice(top, bottom + 1), slice(left, left + stroke)),
        (slice(top, bottom + 1), slice(max(left, right - stroke + 1), right + 1)),
    ):
        image[rows, columns] = _RGB
