"""Pictures copied out of the frames ring, and the JPEGs that viewers get of them: pure functions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from detr_sentry import pictures
from detr_sentry.ipc.messages import PixelFormat

if TYPE_CHECKING:
    from collections.abc import Sequence

    from detr_sentry.ipc.messages import FrameView

    from .detections import Detection


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameInfo:
    """What is known of a frame without its pixels. `key` is (ring epoch, sequence), its identity for this gateway."""

    key: tuple[int, int]
    frame_number: int
    capture_epoch: int
    timestamp_ns: int
    captured_monotonic_ns: int
    width: int
    height: int
    pixel_format: PixelFormat

    @classmethod
    def of(cls, view: FrameView, key: tuple[int, int]) -> FrameInfo:
        """Copied from a view, so that nothing of it outlives the lease."""
        return cls(
            key=key,
            frame_number=view.frame_number,
            capture_epoch=view.capture_epoch,
            timestamp_ns=view.timestamp_ns,
            captured_monotonic_ns=view.captured_monotonic_ns,
            width=view.width,
            height=view.height,
            pixel_format=PixelFormat(view.pixel_format),
        )

    @property
    def identity(self) -> tuple[int, int]:
        """(capture epoch, frame number): how detections name their frame."""
        return self.capture_epoch, self.frame_number


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A frame with its pixels: a JPEG as the camera made it, or raw bytes of `info.pixel_format`."""

    info: FrameInfo
    data: bytes

    @property
    def is_jpeg(self) -> bool:
        """Whether the camera made a JPEG itself."""
        return self.info.pixel_format is PixelFormat.MJPEG


def full_jpeg(picture: Picture) -> bytes:
    """The picture at its own size; a camera's JPEG as it is. Raises BadFrameError."""
    info = picture.info
    return pictures.to_jpeg(picture.data, info.pixel_format, info.width, info.height)


def small_jpeg(picture: Picture, width: int) -> bytes:
    """The picture `width` pixels wide with its aspect kept; never enlarged. Raises BadFrameError."""
    info = picture.info
    if info.width <= width:
        return full_jpeg(picture)
    import cv2

    rgb = pictures.to_rgb(picture.data, info.pixel_format, info.width, info.height, min_width=width)
    small = cv2.resize(rgb, small_size(info, width), interpolation=cv2.INTER_AREA)
    return pictures.encode_rgb(np.asarray(small, np.uint8))


def small_size(info: FrameInfo, width: int | None) -> tuple[int, int]:
    """(width, height) of a frame that is shown `width` wide; None or a greater width leave it as it is."""
    if width is None or info.width <= width:
        return info.width, info.height
    return width, max(1, round(info.height * width / info.width))


def boxed_jpeg(picture: Picture, detections: Sequence[Detection]) -> bytes:
    """The picture at its own size with the boxes, labels and scores of `detections` drawn in. Raises BadFrameError."""
    info = picture.info
    rgb = pictures.to_rgb(picture.data, info.pixel_format, info.width, info.height)
    boxes = [
        pictures.LabelledBox(
            found["x1"], found["y1"], found["x2"], found["y2"], f"{found['label']} {found['confidence']:.0%}"
        )
        for found in detections
    ]
    return pictures.encode_rgb(pictures.draw_boxes(rgb, boxes))
