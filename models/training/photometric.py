"""What cameras do to pictures: light, colour, noise, blur, compression. Works on uint8 RGB, returns uint8 RGB."""

from __future__ import annotations

import cv2
import numpy as np


def disturb(image: np.ndarray, rng: np.random.Generator, *, strength: float = 1.0) -> np.ndarray:
    """One random mix; the geometry never changes. `strength` scales how often the harsh ones are drawn."""
    if rng.random() < 0.08 * strength:
        image = _coarse(image, rng)
    if rng.random() < 0.10 * strength:
        image = _blur(image, rng)
    if rng.random() < 0.5:
        image = _saturation(image, rng.uniform(0.3, 1.6))
    elif rng.random() < 0.2:
        image = _saturation(image, 0.0)
    dark = rng.random() < 0.12 * strength
    if dark or rng.random() < 0.8:
        image = _light(image, rng, dark=dark)
    if rng.random() < (0.7 if dark else 0.12 * strength):
        image = _noise(image, rng, rng.uniform(3.0, 16.0))
    if rng.random() < 0.15 * strength:
        quality = int(rng.integers(20, 75))
        _, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
        image = cv2.imdecode(data, cv2.IMREAD_COLOR)
    return image


def _coarse(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Resolution lost, as from a small sensor or an unfiltered reduction."""
    h, w = image.shape[:2]
    factor = rng.uniform(0.4, 0.8)
    how = cv2.INTER_NEAREST if rng.random() < 0.5 else cv2.INTER_AREA
    small = cv2.resize(image, (int(w * factor), int(h * factor)), interpolation=how)
    return cv2.resize(small, (w, h), interpolation=cv2.INTER_LINEAR)


def _blur(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Out of focus, or a horizontal smear of motion."""
    if rng.random() < 0.6:
        return cv2.GaussianBlur(image, (0, 0), rng.uniform(0.5, 1.8))
    return cv2.blur(image, (int(rng.integers(3, 8)), 1))


def _saturation(image: np.ndarray, amount: float) -> np.ndarray:
    gray = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    return cv2.addWeighted(image, amount, gray, 1.0 - amount, 0.0)


def _light(image: np.ndarray, rng: np.random.Generator, *, dark: bool) -> np.ndarray:
    """Gamma, gain, offset and a tint by one table a channel; `dark` is a badly lit scene."""
    x = np.arange(256, dtype=np.float32) / 255.0
    gamma = np.exp(rng.uniform(0.2, 0.9)) if dark else np.exp(rng.uniform(-0.45, 0.45))
    gain = rng.uniform(0.3, 0.8) if dark else rng.uniform(0.7, 1.35)
    offset = 0.0 if dark else rng.uniform(-0.1, 0.1)
    tint = rng.uniform(0.88, 1.12, 3)
    table = np.stack([(x**gamma * gain * t + offset).clip(0, 1) * 255.0 for t in tint], -1)
    return cv2.LUT(image, table.round().astype(np.uint8)[None])


def _noise(image: np.ndarray, rng: np.random.Generator, sigma: float) -> np.ndarray:
    noise = rng.standard_normal(image.shape, np.float32) * np.float32(sigma)
    return (image + noise).clip(0, 255).astype(np.uint8)
