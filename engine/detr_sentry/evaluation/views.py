"""Person-free views of a photo: windows that touch no marked person, under other light. Pure, by their random source.

A view is what another camera could have seen: a part of the photo, perhaps mirrored, darker or brighter, in gray as by
infra-red light, noisy, blurred, compressed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import simplejpeg

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    Picture = npt.NDArray[np.uint8]

SMALLEST_SHARE = 0.35
"""Of the photo's sides: a smaller window has too few pixels left to be like a camera's picture."""
MARGIN_SHARE = 0.02
"""Of the photo's longer side, around marked people: marks are not exact to the pixel."""
_TRIES = 60

Box = tuple[float, float, float, float]


def empty_window(picture: Picture, people: Sequence[Box], random: np.random.Generator) -> Picture | None:
    """The largest of three random windows that touch none of `people` (x1 y1 x2 y2 in pixels), or None.

    A view into `picture`; without people any window will do.
    """
    height, width = picture.shape[:2]
    margin = MARGIN_SHARE * max(width, height) if people else 0.0
    best: Picture | None = None
    found = 0
    for _ in range(_TRIES):
        wide, high = (random.uniform(SMALLEST_SHARE, 1.0, 2) * (width, height)).astype(int)
        x, y = int(random.integers(0, width - wide + 1)), int(random.integers(0, height - high + 1))
        if any(
            x1 - margin < x + wide and x2 + margin > x and y1 - margin < y + high and y2 + margin > y
            for x1, y1, x2, y2 in people
        ):
            continue
        found += 1
        if best is None or wide * high > best.shape[0] * best.shape[1]:
            best = picture[y : y + high, x : x + wide]
        if found == 3:
            break
    return best


def disturbed(picture: Picture, random: np.random.Generator) -> Picture:
    """The picture mirrored or not, in other light, noise, focus and compression; a new array of the same shape."""
    values = picture.astype(np.float32)
    if random.random() < 0.5:
        values = values[:, ::-1]
    gray = random.random() < 0.15
    if gray:
        values = np.repeat(values.mean(axis=2, keepdims=True), 3, axis=2)
    else:
        values = values * random.uniform(0.9, 1.1, 3).astype(np.float32)
    gain, gamma = random.uniform(0.45, 1.35), random.uniform(0.75, 1.35)
    values = 255.0 * (np.clip(values * gain, 0, 255) / 255.0) ** gamma
    noise = random.standard_normal((*picture.shape[:2], 1 if gray else 3), np.float32)
    values = values + noise * random.uniform(0, 9)
    if random.random() < 0.25:
        values = cv2.GaussianBlur(values, (0, 0), float(random.uniform(0.4, 1.6)))
    result: Any = np.ascontiguousarray(np.clip(values, 0, 255).astype(np.uint8))
    if random.random() < 0.5:
        result = simplejpeg.decode_jpeg(simplejpeg.encode_jpeg(result, int(random.integers(35, 92)), "RGB", "420"))
    final: Picture = result
    return final
