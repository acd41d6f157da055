"""The motion gate of standby: decides from a small gray picture whether the model is worth running.

A slow background model per pixel: a running average of the brightness and one of its deviation, both float32. A pixel
has moved if it deviates by more than `threshold` times its own usual deviation, so leaves that sway raise their own
bar; the picture has moved if enough moved pixels lie together. Before the comparison the background is scaled by the
median ratio of picture to background, so a lamp, a cloud or the camera's exposure moves nothing.

Pure: time is a parameter, and the same pictures give the same answers.
"""

from __future__ import annotations

import math
from enum import Enum
from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

BACKGROUND_S = 10.0
"""Time constant of the average: a parked car stops counting as motion after about this time, a slow walker does not."""
NOISE_S = 6.0
"""Time constant of the deviation."""
NOISE_FLOOR = 1.5
"""Gray levels: below this, a sensor's noise after averaging 8 x 8 pixels is not worth telling apart."""
NOISE_START = 4.0
"""Gray levels at the first picture, so that the gate does not call its own ignorance stillness."""
NOISE_STEP = 3.0
"""A single deviation raises the average by at most this many times itself: a passing person leaves little trace."""
FORGET_S = 120.0
"""After a pause this long the background says nothing about the scene: start anew."""
PEDESTAL = 16.0
"""Gray levels added to both sides of the ratio, so that black pixels, all noise, do not decide it."""
NEIGHBOURS = 4
"""A moved pixel counts if, of the 3 x 3 around it, at least this many moved; single pixels are noise or rain."""
MIN_PIXELS = 2
MIN_SHARE = 0.0004
"""Counted pixels that make motion: at 1080p 13 of 32,400, a person of about a tenth of the picture's height."""


class Motion(Enum):
    """Why a picture passes, or STILL: it does not."""

    STILL = "still"
    MOVED = "moved"
    KEEP_ALIVE = "keep_alive"
    FIRST = "first"

    @property
    def passes(self) -> bool:
        """Whether the model should run."""
        return self is not Motion.STILL


class MotionGate:
    """One camera's gate. `sensitivity` is 0 (only clear motion) to 1; every `keep_alive_s` a picture passes anyway."""

    def __init__(self, *, sensitivity: float = 0.5, keep_alive_s: float = 5.0) -> None:
        self.threshold = 10.0 * 0.25**sensitivity
        self.keep_alive_s = keep_alive_s
        self.moved_pixels = 0
        self._scene: _Scene | None = None
        self._updated_s = -math.inf
        self._passed_s = -math.inf

    def reset(self) -> None:
        """Forgets the scene; the next picture passes."""
        self._scene = None
        self._passed_s = -math.inf

    def update(self, gray: npt.NDArray[np.uint8], now_s: float) -> Motion:
        """Learns the picture `gray` (uint8 [h,w], taken at `now_s`) and says whether it passes."""
        motion = self._compare(gray, now_s)
        if motion is Motion.STILL and now_s - self._passed_s >= self.keep_alive_s:
            motion = Motion.KEEP_ALIVE
        if motion.passes:
            self._passed_s = now_s
        self._updated_s = now_s
        return motion

    def _compare(self, gray: npt.NDArray[np.uint8], now_s: float) -> Motion:
        scene = self._scene
        if scene is None or scene.background.shape != gray.shape or now_s - self._updated_s > FORGET_S:
            self._scene = _Scene(gray)
            return Motion.FIRST
        elapsed_s = min(max(now_s - self._updated_s, 0.0), 1.0)
        self.moved_pixels = scene.compare(gray, threshold=self.threshold, elapsed_s=elapsed_s)
        return Motion.MOVED if self.moved_pixels >= max(MIN_PIXELS, MIN_SHARE * gray.size) else Motion.STILL


class _Scene:
    """What a camera usually sees: brightness and deviation per pixel, with the room that a comparison needs."""

    def __init__(self, gray: npt.NDArray[np.uint8]) -> None:
        self.background = gray.astype(np.float32)
        self.background += PEDESTAL
        self._noise = np.full(gray.shape, NOISE_START, np.float32)
        self._picture = np.empty(gray.shape, np.float32)
        self._deviation = np.empty(gray.shape, np.float32)
        self._bar = np.empty(gray.shape, np.float32)
        self._moved = np.empty(gray.shape, np.bool_)
        self._together = np.empty(gray.shape, np.uint8)

    def compare(self, gray: npt.NDArray[np.uint8], *, threshold: float, elapsed_s: float) -> int:
        """The number of pixels that moved together; then learns the picture."""
        picture, deviation, bar = self._picture, self._deviation, self._bar
        np.add(gray, np.float32(PEDESTAL), out=picture)
        self.background *= _median_ratio(picture, self.background)
        cv2.absdiff(picture, self.background, dst=deviation)
        np.multiply(self._noise, threshold, out=bar)
        np.greater(deviation, bar, out=self._moved)
        cv2.boxFilter(
            self._moved.view(np.uint8), -1, (3, 3), self._together, normalize=False, borderType=cv2.BORDER_CONSTANT
        )
        self._moved &= self._together >= NEIGHBOURS
        cv2.accumulateWeighted(picture, self.background, 1.0 - math.exp(-elapsed_s / BACKGROUND_S))
        np.multiply(self._noise, NOISE_STEP, out=bar)
        np.minimum(deviation, bar, out=deviation)
        cv2.accumulateWeighted(deviation, self._noise, 1.0 - math.exp(-elapsed_s / NOISE_S))
        np.maximum(self._noise, NOISE_FLOOR, out=self._noise)
        return int(np.count_nonzero(self._moved))


def _median_ratio(picture: npt.NDArray[np.float32], background: npt.NDArray[np.float32]) -> float:
    """The gain between two pictures, from one pixel in four: a person in less than half of it does not sway it."""
    return float(np.median(picture[::2, ::2] / background[::2, ::2]))
