"""Frames into the model's tensor and into the motion gate's small gray picture, in memory that is allocated once.

JPEG is decoded at full or half scale, whichever still holds the model's input (libjpeg-turbo has fast code for these;
5/8 to 7/8 take longer than full, and 1/4 saves little over 1/2). The resize is a stretch, bilinear, without
antialiasing, as the models were trained; anything else costs accuracy (letterbox: 3 AP).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import cv2
import numpy as np
import simplejpeg

from detr_sentry.errors import BadFrameError
from detr_sentry.ipc.messages import PixelFormat

if TYPE_CHECKING:
    import numpy.typing as npt

GRAY_FACTOR = 8
"""The motion gate sees 1/8 of the picture: a pixel per JPEG block, so noise is averaged and decoding is cheapest."""
_BYTES_BEFORE_END = re.compile(r"\d+ extraneous bytes before marker 0xd9$")
"""libjpeg's warning about padding between the last block and EOI, which many webcams send in every frame."""
MIN_SIDE, MAX_SIDE = 16, 8192
MAX_PIXELS = 1 << 26


class Preprocessor:
    """Turns frames into `tensor` uint8 [1,H,W,3] RGB, one camera after the other. Belongs to one thread.

    Its buffers grow to the largest picture seen and stay; nothing else is allocated per frame.
    """

    def __init__(self, width: int, height: int) -> None:
        self.width = width
        self.height = height
        self.tensor: npt.NDArray[np.uint8] = np.zeros((1, height, width, 3), np.uint8)
        self._pixels = np.empty(0, np.uint8)
        self._gray = np.empty(0, np.uint8)

    def load(self, data: memoryview, *, pixel_format: PixelFormat, width: int, height: int) -> None:
        """Decodes a frame and stretches it into `tensor`. Raises BadFrameError."""
        _check_size(width, height)
        match pixel_format:
            case PixelFormat.MJPEG:
                rgb = self._decode_jpeg(data, width, height)
            case PixelFormat.RGB24:
                rgb = _plane(data, (height, width, 3))
            case PixelFormat.YUYV:
                rgb = self._convert(_plane(data, (height, width, 2)), cv2.COLOR_YUV2RGB_YUY2, width, height)
            case PixelFormat.I420:
                planes = _even_i420(data, width, height)
                wide, high = planes.shape[1], planes.shape[0] * 2 // 3
                rgb = self._convert(planes, cv2.COLOR_YUV2RGB_I420, wide, high)[:height, :width]
            case PixelFormat.GRAY8:
                rgb = self._convert(_plane(data, (height, width)), cv2.COLOR_GRAY2RGB, width, height)
            case _:
                raise BadFrameError("pixel_format", f"{pixel_format!r} is not known")
        if rgb.shape == self.tensor.shape[1:]:
            self.tensor[0] = rgb
        else:
            cv2.resize(rgb, (self.width, self.height), dst=self.tensor[0], interpolation=cv2.INTER_LINEAR)

    def gray(self, data: memoryview, *, pixel_format: PixelFormat, width: int, height: int) -> npt.NDArray[np.uint8]:
        """The frame's luma at 1/8, uint8 [ceil(height / 8), ceil(width / 8)], valid until the next call.

        Raises BadFrameError.
        """
        _check_size(width, height)
        rows, columns = -(-height // GRAY_FACTOR), -(-width // GRAY_FACTOR)
        if pixel_format is PixelFormat.MJPEG:
            self._gray = _grown(self._gray, rows * columns)
            return _decode(data, "GRAY", (width, height), (columns, rows), self._gray)[:, :, 0]
        match pixel_format:
            case PixelFormat.RGB24:
                channels, source = 3, _plane(data, (height, width, 3))
            case PixelFormat.YUYV:
                channels, source = 2, _plane(data, (height, width, 2))
            case PixelFormat.I420:
                channels, source = 1, _even_i420(data, width, height)[:height, :width]
            case PixelFormat.GRAY8:
                channels, source = 1, _plane(data, (height, width))
            case _:
                raise BadFrameError("pixel_format", f"{pixel_format!r} is not known")
        self._gray = _grown(self._gray, rows * columns * channels)
        small = self._gray[: rows * columns * channels].reshape(rows, columns, channels)
        cv2.resize(source, (columns, rows), dst=small, interpolation=cv2.INTER_AREA)
        return _luma(small)

    def _decode_jpeg(self, data: memoryview, width: int, height: int) -> npt.NDArray[np.uint8]:
        half = -(-width // 2), -(-height // 2)
        size = half if half[0] >= self.width and half[1] >= self.height else (width, height)
        self._pixels = _grown(self._pixels, size[0] * size[1] * 3)
        return _decode(data, "RGB", (width, height), size, self._pixels)

    def _convert(self, source: npt.NDArray[np.uint8], code: int, width: int, height: int) -> npt.NDArray[np.uint8]:
        self._pixels = _grown(self._pixels, width * height * 3)
        rgb = self._pixels[: width * height * 3].reshape(height, width, 3)
        cv2.cvtColor(source, code, dst=rgb)
        return rgb


def _decode(
    data: memoryview, colorspace: str, declared: tuple[int, int], size: tuple[int, int], buffer: npt.NDArray[np.uint8]
) -> npt.NDArray[np.uint8]:
    """A JPEG of `declared` (width, height) decoded at the scale that gives `size`, into `buffer`."""
    try:
        height, width, _, _ = simplejpeg.decode_jpeg_header(data)
        if (width, height) != declared:
            raise BadFrameError("geometry", f"JPEG is {width}x{height}, the frame says {declared[0]}x{declared[1]}")
        picture: npt.NDArray[np.uint8] = simplejpeg.decode_jpeg(
            data, colorspace, min_width=size[0], min_height=size[1], buffer=buffer
        )
    except ValueError as error:
        if not _BYTES_BEFORE_END.search(str(error)):
            raise BadFrameError("jpeg", str(error)) from error
        # the first and only warning came after the last block, so the buffer holds the whole picture
        channels = 3 if colorspace == "RGB" else 1
        picture = buffer[: size[0] * size[1] * channels].reshape(size[1], size[0], channels)
    if picture.shape[:2] != size[::-1]:
        raise BadFrameError("jpeg", f"decoded to {picture.shape[1]}x{picture.shape[0]} instead of {size[0]}x{size[1]}")
    return picture


def _plane(data: memoryview, shape: tuple[int, ...]) -> npt.NDArray[np.uint8]:
    """Raw pixels as an array on the very memory. Raises BadFrameError if they are too few or too many."""
    needed = int(np.prod(shape))
    if data.nbytes != needed:
        raise BadFrameError("length", f"{data.nbytes} bytes of pixels, {needed} needed")
    return np.frombuffer(data, np.uint8).reshape(shape)


def _luma(small: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    if small.shape[2] == 3:
        return cv2.cvtColor(small, cv2.COLOR_RGB2GRAY).astype(np.uint8, copy=False)
    return small[:, :, 0]


def _grown(buffer: npt.NDArray[np.uint8], size: int) -> npt.NDArray[np.uint8]:
    return buffer if buffer.size >= size else np.empty(size, np.uint8)


def _check_size(width: int, height: int) -> None:
    if not (MIN_SIDE <= width <= MAX_SIDE and MIN_SIDE <= height <= MAX_SIDE and width * height <= MAX_PIXELS):
        raise BadFrameError("geometry", f"{width}x{height} pixels")


def _even_i420(data: memoryview, width: int, height: int) -> npt.NDArray[np.uint8]:
    """The planes of an I420 picture as OpenCV takes them, [height * 3 / 2, width] with even sides.

    A picture with an odd side, which no camera sends, is copied with its last row or column doubled.
    """
    if width % 2 == 0 and height % 2 == 0:
        return _plane(data, (height * 3 // 2, width))
    half = (height + 1) // 2, (width + 1) // 2
    flat = _plane(data, (width * height + 2 * half[0] * half[1],))
    picture = flat[: width * height].reshape(height, width)
    luma: npt.NDArray[np.uint8] = np.pad(picture, ((0, height % 2), (0, width % 2)), mode="edge")
    return np.concatenate([luma.reshape(-1), flat[width * height :]]).reshape(half[0] * 3, half[1] * 2)
