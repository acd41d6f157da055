"""Pictures for the self-check: drawn, so that nothing has to be shipped or found, and the same on every machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

_WIDTH, _HEIGHT = 640, 480


def pictures(width: int, height: int) -> list[npt.NDArray[np.uint8]]:
    """Four tensors uint8 [1,height,width,3] RGB: figures by day and by night, an empty yard, noise."""
    random = np.random.default_rng(11)
    day, night, empty = (_yard(random, sky) for sky in (215, 60, 190))
    for picture in (day, night):
        _figure(picture, 220, 90, 340)
        _figure(picture, 430, 200, 190)
    night //= 2
    noise = random.integers(0, 256, (_HEIGHT, _WIDTH, 3), np.uint8)
    tensors = np.empty((4, 1, height, width, 3), np.uint8)
    for tensor, picture in zip(tensors, (day, night, empty, noise), strict=True):
        cv2.resize(picture, (width, height), dst=tensor[0])
    return list(tensors)


def _yard(random: np.random.Generator, sky: int) -> npt.NDArray[np.uint8]:
    """A wall with a door above paving, with a camera's grain."""
    shade = np.linspace(sky, sky * 0.6, _HEIGHT)[:, None, None] * np.array([0.95, 1.0, 1.05])
    picture = np.broadcast_to(shade, (_HEIGHT, _WIDTH, 3)).clip(0, 255).astype(np.uint8).copy()
    cv2.rectangle(picture, (0, 330), (_WIDTH, _HEIGHT), (110, 105, 98), -1)
    for x in range(0, _WIDTH, 80):
        cv2.line(picture, (x, 330), (x * 2 - _WIDTH // 2, _HEIGHT), (85, 82, 76), 2)
    cv2.rectangle(picture, (70, 120), (170, 330), (92, 58, 36), -1)
    cv2.circle(picture, (158, 230), 5, (210, 190, 90), -1)
    grain = random.normal(0, 4, picture.shape)
    return (picture + grain).clip(0, 255).astype(np.uint8)


def _figure(picture: npt.NDArray[np.uint8], x: int, y: int, tall: int) -> None:
    """A standing person whose head top is at (x, y): head, hair, jacket, arms, trousers, shoes."""

    def at(across: float, down: float) -> tuple[int, int]:
        return round(x + across * tall), round(y + down * tall)

    skin, jacket, trousers, dark = (205, 160, 130), (45, 75, 120), (50, 48, 55), (38, 30, 26)
    wide = max(2, round(tall * 0.075))
    for side in (-1, 1):
        cv2.line(picture, at(side * 0.05, 0.52), at(side * 0.08, 0.95), trousers, wide + 3)
        cv2.line(picture, at(side * 0.08, 0.97), at(side * 0.12, 0.98), dark, wide)
        cv2.line(picture, at(side * 0.13, 0.22), at(side * 0.17, 0.50), jacket, wide)
        cv2.circle(picture, at(side * 0.17, 0.52), wide // 2, skin, -1)
    cv2.ellipse(picture, at(0, 0.36), (round(tall * 0.14), round(tall * 0.20)), 0, 0, 360, jacket, -1)
    cv2.line(picture, at(0, 0.12), at(0, 0.18), skin, wide)
    cv2.ellipse(picture, at(0, 0.08), (round(tall * 0.055), round(tall * 0.075)), 0, 0, 360, skin, -1)
    cv2.ellipse(picture, at(0, 0.05), (round(tall * 0.06), round(tall * 0.05)), 0, 180, 360, dark, -1)
