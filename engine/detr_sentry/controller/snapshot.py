"""The picture of an alarm: a copy of a frame taken from its ring, and its JPEG."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from detr_sentry.ipc.messages import FrameView
from detr_sentry.pictures import to_jpeg

if TYPE_CHECKING:
    from detr_sentry.ipc.messages import PixelFormat
    from detr_sentry.ipc.ring import RingReader
    from detr_sentry.sentry.events import Best


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
    return to_jpeg(picture.data, picture.pixel_format, picture.width, picture.height)
