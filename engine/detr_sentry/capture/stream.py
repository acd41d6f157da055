"""Network streams and files as a source: MJPEG passed through as it came, other codecs decoded to I420.

`rtsp://`, `http://` (multipart MJPEG or anything FFmpeg reads), `file.mp4?pace=native|fast&loop=0|1`.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from detr_sentry.capture.source import FULL_RATE, RawFrame, SourceInfo
from detr_sentry.capture.stream_worker import OPEN_TIMEOUT_S, StreamWorker
from detr_sentry.errors import SourceFormatError, SourceGoneError
from detr_sentry.ipc.messages import PixelFormat

if TYPE_CHECKING:
    from collections.abc import Callable

    from detr_sentry.capture.stream_worker import Delivered
    from detr_sentry.settings import CameraSettings
    from detr_sentry.source_url import SourceSpec

_FIRST_SLOT_BYTES: Final = 1 << 20  # of a JPEG camera; grows with what it sends
_MAX_SIDE: Final = 16384


class StreamSource:
    """See `capture.source.Source`. Pushing: its descriptor is an eventfd that the reading thread signals."""

    def __init__(self, spec: SourceSpec, camera: CameraSettings) -> None:
        self._spec = spec
        self._camera = camera
        self._worker: StreamWorker | None = None
        self._rate = FULL_RATE
        self._info: SourceInfo | None = None
        self._packed = bytearray()
        self._held: Any = None  # keeps the packet whose bytes the caller reads
        StreamWorker(spec)  # checks the options now, not when the camera is opened

    def open(self, keep_waiting: Callable[[], bool]) -> SourceInfo:
        """Connect and wait for the first frame. Raises every kind of SourceError."""
        self.begin()
        deadline = time.monotonic() + 2 * OPEN_TIMEOUT_S
        while (info := self.ready()) is None:
            if not keep_waiting():
                self.close()
                raise SourceGoneError(f"{self._spec.redacted}: given up while connecting")
            if time.monotonic() > deadline:
                self.close()
                raise SourceGoneError(f"{self._spec.redacted} sent no frame within {2 * OPEN_TIMEOUT_S:g} s")
            time.sleep(0.02)
        return info

    def begin(self) -> None:
        """Start connecting and return at once; `ready` tells how it goes."""
        self.close()
        self._worker = StreamWorker(self._spec)
        self._worker.set_rate(self._rate)
        self._worker.start()

    def ready(self) -> SourceInfo | None:
        """What the stream delivers, once its first frame is there. Raises every kind of SourceError."""
        worker = self._worker
        if worker is None:
            raise SourceGoneError(f"{self._spec.redacted} is closed")
        newest = worker.peek()
        if newest is None:
            if worker.error is not None:
                self.close()
                raise worker.error
            return None
        self._info = self._describe(newest, worker.fps)
        return self._info

    def fileno(self) -> int | None:
        """The eventfd."""
        return None if self._worker is None else self._worker.fileno()

    def set_rate(self, fps: float) -> None:
        """Well below the stream's rate, frames that no other one needs are not decoded."""
        self._rate = fps
        if self._worker is not None:
            self._worker.set_rate(fps)

    def discard(self) -> None:
        """Forget the frame that waits."""
        if self._worker is not None:
            self._worker.discard()

    def grab(self) -> RawFrame | None:
        """The newest frame; a decoded one is packed only now. Raises what ended the stream."""
        worker, info = self._worker, self._info
        if worker is None or info is None:
            raise SourceGoneError(f"{self._spec.redacted} is closed")
        newest = worker.take()
        if newest is None:
            if worker.error is not None:
                raise worker.error
            return None
        changed = None
        if not newest.passthrough and (newest.width, newest.height) != (info.width, info.height):
            self._info = changed = self._describe(newest, worker.fps)
        return RawFrame(
            data=self._data(newest),
            captured_monotonic_ns=newest.arrived_ns,
            pts_ns=newest.pts_ns,
            width=newest.width,
            height=newest.height,
            info=changed,
        )

    def close(self) -> None:
        """Stop reading."""
        worker, self._worker = self._worker, None
        self._held, self._info, self._packed = None, None, bytearray()  # no picture outlives the camera
        if worker is not None:
            worker.close()

    def _describe(self, newest: Delivered, fps: float) -> SourceInfo:
        width, height = newest.width, newest.height
        if not (0 < width <= _MAX_SIDE and 0 < height <= _MAX_SIDE):
            raise SourceFormatError(f"{self._spec.redacted} claims pictures of {width} x {height}")
        pixel_format = PixelFormat.MJPEG if newest.passthrough else PixelFormat.I420
        return SourceInfo(
            width=width,
            height=height,
            pixel_format=pixel_format,
            fps=fps,
            max_frame_bytes=pixel_format.frame_bytes(width, height) or max(_FIRST_SLOT_BYTES, width * height),
            identity=self._spec.redacted,
        )

    def _data(self, newest: Delivered) -> memoryview:
        if newest.passthrough:
            self._held = newest.payload
            return memoryview(newest.payload)
        frame = newest.payload
        if frame.format.name != "yuv420p":
            frame = frame.reformat(format="yuv420p")
        size = PixelFormat.I420.frame_bytes(newest.width, newest.height) or 0
        if len(self._packed) != size:
            self._packed = bytearray(size)
        _pack(frame, self._packed)
        return memoryview(self._packed)


def _pack(frame: Any, target: bytearray) -> None:
    """The three planes of a yuv420p frame without the padding of their rows."""
    flat = np.frombuffer(target, np.uint8)
    at = 0
    for number, plane in enumerate(frame.planes):
        width = frame.width if number == 0 else (frame.width + 1) // 2
        height = frame.height if number == 0 else (frame.height + 1) // 2
        rows = np.frombuffer(plane, np.uint8)[: height * plane.line_size].reshape(height, plane.line_size)
        flat[at : at + width * height].reshape(height, width)[:] = rows[:, :width]
        at += width * height
