"""What a camera is to the capture service: the `Source` protocol and its values.

Two kinds of source share the protocol. A *pushing* one (V4L2, network, files at their own pace) has a descriptor that
becomes readable when a frame is there. A *pulled* one (demo, replay) has none: each `grab` makes a frame at once, and
the service paces it.

The service drives a source so::

    info = source.open(keep_waiting)
    source.set_rate(3.0)                 # standby; FULL_RATE when alarmed
    at each tick:  source.discard()      # standby only: what waits is stale
                   wait for fileno()     # pushing sources only
                   frame = source.grab() # copied into the slot before the next call
    source.close()

A source is used from one thread; close() may be called at any time after construction, also twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from detr_sentry.ipc.messages import PixelFormat

FULL_RATE: Final = -1.0
"""The rate that means every frame the camera delivers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceInfo:
    """What an opened source delivers.

    `max_frame_bytes` is the size of a slot; a network JPEG may outgrow it (`RawFrame.data` is then longer). `fps` is
    the nominal full rate (0.0 if unknown). `identity` names the physical camera or the URL without credentials: equal
    identities mean the same camera, also after it was renumbered.
    """

    width: int
    height: int
    pixel_format: PixelFormat
    fps: float
    max_frame_bytes: int
    identity: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RawFrame:
    """One frame as the source has it.

    `data`: bytes of the frame (JPEG, or packed planes), C-contiguous, valid until the next grab(), discard() or
    close() of its source.
    `captured_monotonic_ns`: CLOCK_MONOTONIC; the driver's own stamp if it is on that clock, else the time of arrival.
    `pts_ns`: the stream's presentation time, 0 where there is none.
    `width`, `height`: of this frame, for the check against SourceInfo.
    `info`: set on the first frame after the source changed to another stream of the same camera.
    """

    data: memoryview
    captured_monotonic_ns: int
    pts_ns: int
    width: int
    height: int
    info: SourceInfo | None = None


class Source(Protocol):
    """A camera, stream or file, built as `XxxSource(spec, camera_settings)` without touching the device.

    open, set_rate, discard and grab may raise a SourceError; the service then closes the source and later opens the
    same object anew.
    """

    def open(self, keep_waiting: Callable[[], bool]) -> SourceInfo:
        """Open and start streaming.

        `keep_waiting` is called at least every 100 ms while a slow device or network is waited for (the service beats
        and listens to its bell in it); when it returns False the source gives up with SourceGoneError. Quick sources
        need not call it.
        """
        ...

    def fileno(self) -> int | None:
        """Descriptor, readable while grab() may have something; None for a pulled source."""
        ...

    def set_rate(self, fps: float) -> None:
        """Hint at the wanted rate, FULL_RATE or frames a second: the service paces, the source may save work."""
        ...

    def discard(self) -> None:
        """Drop the frames that wait, so that the next grab() gives a fresh one. Never blocks or stops the stream."""
        ...

    def grab(self) -> RawFrame | None:
        """The oldest frame that waits, or None if there is none yet. Never blocks.

        Raises BadFrameError(reason) for a frame that the driver or demuxer marks as broken (dropped and counted; the
        stream goes on), SourceGoneError when unplugged or ended, SourceUnauthorizedError, SourceFormatError when the
        stream's geometry changed.
        """
        ...

    def close(self) -> None:
        """Release the device or connection. Never raises."""
        ...
