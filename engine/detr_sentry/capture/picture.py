"""Notices pictures that are technically fine and useless: frozen and black ones. Looks at a frame now and then."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Final

import numpy as np
import simplejpeg

from detr_sentry.ipc.messages import PixelFormat

if TYPE_CHECKING:
    from numpy.typing import NDArray

FROZEN_LOOK_NS: Final = 1_000_000_000
FROZEN_AFTER_NS: Final = 10_000_000_000
"""A real sensor never repeats itself bit by bit; ten seconds are no hiccup of a network camera."""
BLACK_LOOK_NS: Final = 5_000_000_000
"""A tiny decode takes a few milliseconds, so it must be rare."""
BLACK_LEVEL: Final = 22
"""Highest luma of a black picture (video black is 16); a dark night has something brighter somewhere."""
_BLACK_SHARE: Final = 99.5  # per cent of the pixels that must be dark: a hot pixel or a clock overlay may shine
_TAIL: Final = 4096
_RAW_SAMPLES: Final = 8192


class PictureWatch:
    """Judges the frames of one camera; `problem` is `frozen`, `black` or None."""

    def __init__(self) -> None:
        self.problem: str | None = None
        self._print: tuple[int, int] | None = None
        self._same_since_ns = 0
        self._frozen_look_ns = 0
        self._black_look_ns = 0
        self._black_looks = 0

    def look(self, data: memoryview, pixel_format: PixelFormat, width: int, height: int, now_ns: int) -> None:
        """Look at a good frame at `now_ns`; most calls return at once."""
        if now_ns < self._frozen_look_ns:
            return
        self._frozen_look_ns = now_ns + FROZEN_LOOK_NS
        frozen = self._frozen(data, pixel_format, now_ns)
        if now_ns >= self._black_look_ns:
            self._black_look_ns = now_ns + BLACK_LOOK_NS
            self._black_looks = self._black_looks + 1 if is_black(data, pixel_format, width, height) else 0
        # One dark look may be a light that was switched; two are a covered lens.
        self.problem = "frozen" if frozen else "black" if self._black_looks >= 2 else None

    def _frozen(self, data: memoryview, pixel_format: PixelFormat, now_ns: int) -> bool:
        # A changed block of a JPEG shifts all entropy-coded bits behind it, so the end tells of the whole.
        step = max(1, data.nbytes // _RAW_SAMPLES) | 1
        sample = data[-_TAIL:] if pixel_format is PixelFormat.MJPEG else data[::step]
        fingerprint = (data.nbytes, zlib.crc32(sample.tobytes()))
        if fingerprint != self._print:
            self._print, self._same_since_ns = fingerprint, now_ns
        return now_ns - self._same_since_ns >= FROZEN_AFTER_NS


def is_black(data: memoryview, pixel_format: PixelFormat, width: int, height: int) -> bool:
    """Whether nearly all of a frame is as dark as video black. A frame that cannot be decoded is not black."""
    try:
        luma = _luma(data, pixel_format, width, height)
    except ValueError:
        return False
    return float(np.percentile(luma, _BLACK_SHARE)) <= BLACK_LEVEL


def _luma(data: memoryview, pixel_format: PixelFormat, width: int, height: int) -> NDArray[np.uint8]:
    if pixel_format is PixelFormat.MJPEG:
        decoded = simplejpeg.decode_jpeg(
            data, "GRAY", fastdct=True, min_height=1, min_width=1, min_factor=8, strict=False
        )
        return np.asarray(decoded, np.uint8)
    flat = np.frombuffer(data, np.uint8)
    step = {PixelFormat.YUYV: 2, PixelFormat.RGB24: 3}.get(pixel_format, 1)
    return flat[: width * height * step : step * 61]
