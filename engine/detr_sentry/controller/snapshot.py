"""The picture of an alarm: a copy of a frame taken from its ring, and its JPEG."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import simplejpeg

from detr_sentry.errors import BadFrameError
from detr_sentry.ipc.messages import FrameView, PixelFormat
from detr_sentry.jpeg import insert_dht

if TYPE_CHECKING:
    from detr_sentry.ipc.ring import RingReader
    from detr_sentry.sentry.events import Best

    Plane = np.ndarray[tuple[int, ...], np.dtype[np.uint8]]

QUALITY = 85

# Cameras and video streams use the range 16..235 (chroma 16..240) of ITU-R BT.601, JPEG the whole of 0..255.
_LEVELS = np.arange(256, dtype=np.float32)
_LUMA = np.clip(np.rint((_LEVELS - 16) * 255 / 219), 0, 255).astype(np.uint8)
_CHROMA = np.clip(np.rint((_LEVELS - 128) * 255 / 224 + 128), 0, 255).astype(np.uint8)


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A frame taken for an event. `exact`: it is the very frame in which the box was found, else the newest then."""

    data: bytes
    pixel_format: PixelFormat
    width: int
    height: int
    timestamp_ns: int
    exact: bool


def take_picture(frames: RingReader, best: Best) -> Picture | None:
    """A copy of the frame in which the person was found, where the ring still has it, else of the newest one.

    None where there is no frame, or only one of another capture or size, on which the box would mean nothing.
    Raises CorruptMessageError.
    """
    lease = frames.acquire()
    if lease is None:
        return None
    with lease:
        view = FrameView(lease)
        newest = _copy(view, best)
        newer_by = view.frame_number - best.frame_number
        sequence = lease.sequence - newer_by  # capture counts both by one a frame
    if newest is None or newer_by <= 0:
        return newest
    lease = frames.acquire_sequence(sequence)
    if lease is None:
        return newest
    with lease:
        found = _copy(FrameView(lease), best)
    return found if found is not None and found.exact else newest


def _copy(view: FrameView, best: Best) -> Picture | None:
    if view.capture_epoch != best.capture_epoch or (view.width, view.height) != (best.width, best.height):
        return None
    return Picture(
        data=bytes(view.data),
        pixel_format=view.pixel_format,
        width=view.width,
        height=view.height,
        timestamp_ns=view.timestamp_ns,
        exact=view.frame_number == best.frame_number,
    )


def encode_picture(picture: Picture) -> bytes:
    """The picture as JPEG: the camera's own where it sends JPEG, with Huffman tables. Raises BadFrameError."""
    try:
        return _encode(picture)
    except (ValueError, RuntimeError) as error:
        raise BadFrameError(
            "unencodable", f"{picture.width} x {picture.height} {picture.pixel_format.name}: {error}"
        ) from error


def _encode(picture: Picture) -> bytes:
    width, height = picture.width, picture.height
    pixels = np.frombuffer(picture.data, np.uint8)
    match picture.pixel_format:
        case PixelFormat.MJPEG:
            return insert_dht(picture.data)
        case PixelFormat.I420:
            half = ((height + 1) // 2, (width + 1) // 2)
            luma, chroma = width * height, half[0] * half[1]
            y, u, v = pixels[:luma], pixels[luma : luma + chroma], pixels[luma + chroma :]
            return _encode_planes(y.reshape(height, width), u.reshape(half), v.reshape(half))
        case PixelFormat.YUYV:
            rows = pixels.reshape(height, width * 2)
            return _encode_planes(rows[:, 0::2], rows[:, 1::4], rows[:, 3::4])
        case PixelFormat.RGB24:
            image = pixels.reshape(height, width, 3)
            return bytes(simplejpeg.encode_jpeg(image, quality=QUALITY, colorspace="RGB", colorsubsampling="420"))
        case PixelFormat.GRAY8:
            image = pixels.reshape(height, width, 1)
            return bytes(simplejpeg.encode_jpeg(image, quality=QUALITY, colorspace="GRAY", colorsubsampling="Gray"))


def _encode_planes(y: Plane, u: Plane, v: Plane) -> bytes:
    planes = (_LUMA[y], _CHROMA[u], _CHROMA[v])
    return bytes(simplejpeg.encode_jpeg_yuv_planes(*planes, quality=QUALITY))
