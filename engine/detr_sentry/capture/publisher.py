"""Writes frames into the ring of one camera, numbers them and rings those who wait."""

from __future__ import annotations

import os
import random
import time
from typing import TYPE_CHECKING, Final

from detr_sentry.errors import BadFrameError, ShmFullError
from detr_sentry.ipc.bells import Bell
from detr_sentry.ipc.messages import FrameWriter, PixelFormat
from detr_sentry.jpeg import walk_jpeg

if TYPE_CHECKING:
    from detr_sentry.capture.source import RawFrame, SourceInfo
    from detr_sentry.ipc.layout import Layout
    from detr_sentry.settings import TelemetrySettings

SLOTS: Final = 5
"""Inference, the gateway and one spare reader may each hold a slot, one is the newest, one is written."""
MAX_JPEG_BYTES: Final = 16 << 20
"""No camera sends more; a stream that claims to is broken, and five slots of it must still fit a small machine."""
_IDLE_BYTES: Final = 64 << 10  # the ring's slots before a camera's size is known
_GROWTH: Final = 1.5
_PAGE: Final = 4096


class Publisher:
    """The one writer of a camera's frames.

    Raises WriterBusyError, ShmFullError or IpcError when made, and ShmFullError from `adopt`.
    """

    def __init__(self, layout: Layout, camera_id: str, telemetry: TelemetrySettings) -> None:
        self._writer = FrameWriter(
            layout.stream(camera_id, "frames"), camera_id=camera_id, capacity=_IDLE_BYTES, slots=SLOTS
        )
        self._bells = [Bell(layout.bell(service)) for service in ("inference", "gateway")]
        self._sampling = telemetry.sampling if telemetry.enabled else 0.0
        self._traced = telemetry.enabled
        self._info: SourceInfo | None = None
        self._epoch = 0
        self._number = 0

    def adopt(self, info: SourceInfo) -> None:
        """Frames of `info` follow: a new capture epoch, and slots that fit. Raises ShmFullError."""
        self._info = info
        self._epoch = max(time.time_ns() // 1000, self._epoch + 1)
        self._number = 0
        exact = info.pixel_format.frame_bytes(info.width, info.height)
        needed = _pages(min(exact or info.max_frame_bytes, MAX_JPEG_BYTES if exact is None else 1 << 40))
        if not needed <= self._writer.capacity <= 2 * needed:
            self._writer.resize(needed)

    def publish(self, frame: RawFrame) -> tuple[memoryview, int]:
        """Check, copy and publish one frame; returns its trimmed data and its wall time in ns.

        Raises BadFrameError: broken, wrong size, `too_big`, `no_memory`, or `no_slot` where readers hold every slot.
        """
        info = self._info
        assert info is not None, "adopt comes first"
        data, channels = _checked(frame, info)
        if data.nbytes > self._writer.capacity:
            self._grow(data.nbytes)
        room = self._writer.begin()
        if room is None:
            raise BadFrameError("no_slot", "readers hold every slot")
        room[: data.nbytes] = data
        timestamp_ns = time.time_ns() - max(0, time.monotonic_ns() - frame.captured_monotonic_ns)
        self._number += 1
        self._writer.publish(
            length=data.nbytes,
            frame_number=self._number,
            capture_epoch=self._epoch,
            timestamp_ns=timestamp_ns,
            captured_monotonic_ns=frame.captured_monotonic_ns,
            pts_ns=frame.pts_ns,
            width=info.width,
            height=info.height,
            channels=channels,
            pixel_format=info.pixel_format,
            trace=self._trace() if self._traced else None,
        )
        for bell in self._bells:
            bell.ring()
        return data, timestamp_ns

    def clear(self) -> None:
        """Wipe every slot and unpublish, for privacy; tells those who wait."""
        self._writer.clear()
        for bell in self._bells:
            bell.ring()

    def close(self) -> None:
        """End the writing; the last frame stays readable."""
        self._writer.close()
        for bell in self._bells:
            bell.close()

    def _grow(self, needed: int) -> None:
        if needed > MAX_JPEG_BYTES:
            raise BadFrameError("too_big", f"has {needed} bytes; the limit is {MAX_JPEG_BYTES}")
        try:
            self._writer.resize(_pages(min(MAX_JPEG_BYTES, int(needed * _GROWTH))))
        except ShmFullError as error:
            raise BadFrameError("no_memory", str(error)) from error

    def _trace(self) -> bytes:
        sampled = random.random() < self._sampling  # noqa: S311 - which traces are kept is no secret
        return os.urandom(24) + (b"\x01" if sampled else b"\x00")


def _checked(frame: RawFrame, info: SourceInfo) -> tuple[memoryview, int]:
    """The frame's own bytes, without padding, and its channels."""
    if info.pixel_format is PixelFormat.MJPEG:
        jpeg = walk_jpeg(frame.data, (info.width, info.height))
        return frame.data[: jpeg.length], jpeg.components
    if (frame.width, frame.height) != (info.width, info.height):
        raise BadFrameError("wrong_size", f"is {frame.width} x {frame.height}, not {info.width} x {info.height}")
    exact = info.pixel_format.frame_bytes(info.width, info.height)
    assert exact is not None
    if frame.data.nbytes < exact:
        raise BadFrameError("short", f"has {frame.data.nbytes} bytes of {exact}")
    return frame.data[:exact], 1 if info.pixel_format is PixelFormat.GRAY8 else 3


def _pages(size: int) -> int:
    return -(-size // _PAGE) * _PAGE
