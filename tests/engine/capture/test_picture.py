"""Useless pictures are noticed, and dark or still scenes are not taken for them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import simplejpeg

from detr_sentry.capture.picture import FROZEN_AFTER_NS, PictureWatch, is_black
from detr_sentry.ipc.messages import PixelFormat

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Picture = Callable[..., bytes]

SECOND = 1_000_000_000
WIDTH, HEIGHT = 160, 120


def watch(frames: Sequence[bytes], pixel_format: PixelFormat = PixelFormat.MJPEG) -> list[str | None]:
    """Half a second between two frames."""
    looker, problems = PictureWatch(), []
    for number, data in enumerate(frames):
        looker.look(memoryview(data), pixel_format, WIDTH, HEIGHT, SECOND + number * SECOND // 2)
        problems.append(looker.problem)
    return problems


def jpeg(level: float, noise: float, seed: int = 0) -> bytes:
    pixels = np.random.default_rng(seed).normal(level, noise, (HEIGHT, WIDTH, 3)).clip(0, 255).astype(np.uint8)
    return bytes(simplejpeg.encode_jpeg(pixels, 80, "RGB", "420"))


def test_the_same_bytes_for_long_are_frozen_and_any_change_ends_it(picture: Picture) -> None:
    frozen_frames = 2 * FROZEN_AFTER_NS // SECOND + 4
    problems = watch([picture(1)] * frozen_frames + [picture(2), picture(3), picture(4)])

    assert {None} == set(problems[: frozen_frames - 5])
    assert "frozen" == problems[frozen_frames - 1]
    assert problems[-1] is None


def test_raw_frames_freeze_too() -> None:
    rng = np.random.default_rng(1)
    still = rng.integers(30, 255, WIDTH * HEIGHT * 2, dtype=np.uint8).tobytes()
    lively = [rng.integers(30, 255, WIDTH * HEIGHT * 2, dtype=np.uint8).tobytes() for _ in range(30)]

    assert "frozen" == watch([still] * 30, PixelFormat.YUYV)[-1]
    assert {None} == set(watch(lively, PixelFormat.YUYV))


def test_a_covered_lens_is_black_and_a_dark_night_is_not() -> None:
    covered = [jpeg(3, 2, seed) for seed in range(30)]
    night = [jpeg(32, 10, seed) for seed in range(30)]

    assert "black" == watch(covered)[-1]
    assert {None} == set(watch(night))


def test_one_dark_look_is_not_yet_black() -> None:
    frames = [jpeg(3, 2, seed) for seed in range(6)] + [jpeg(90, 20, seed) for seed in range(20)]

    assert {None} == set(watch(frames))


def test_black_in_every_format() -> None:
    dark = np.full((HEIGHT, WIDTH), 16, np.uint8)
    yuyv = np.stack((dark, np.full_like(dark, 128)), axis=2).tobytes()
    i420 = dark.tobytes() + bytes([128]) * (WIDTH * HEIGHT // 2)

    assert is_black(memoryview(yuyv), PixelFormat.YUYV, WIDTH, HEIGHT)
    assert is_black(memoryview(i420), PixelFormat.I420, WIDTH, HEIGHT)
    assert is_black(memoryview(dark.tobytes()), PixelFormat.GRAY8, WIDTH, HEIGHT)
    assert is_black(memoryview(dark.tobytes() * 3), PixelFormat.RGB24, WIDTH, HEIGHT)
    assert not is_black(memoryview(bytes(yuyv).replace(b"\x10", b"\x60")), PixelFormat.YUYV, WIDTH, HEIGHT)


def test_a_picture_that_cannot_be_decoded_is_not_called_black(picture: Picture) -> None:
    assert not is_black(memoryview(b"\xff\xd8 rubbish"), PixelFormat.MJPEG, WIDTH, HEIGHT)
    assert not is_black(memoryview(picture(1)), PixelFormat.MJPEG, WIDTH, HEIGHT)
