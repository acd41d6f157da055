"""Replays a file of concatenated JPEGs (`replay:file.mjpeg?fps=30&loop=1`) without decoding; for benchmarks."""

from __future__ import annotations

import mmap
import time
from typing import TYPE_CHECKING, Final

from detr_sentry.capture.source import RawFrame, SourceInfo
from detr_sentry.errors import BadFrameError, SourceEndedError, SourceFormatError, SourceGoneError
from detr_sentry.ipc.messages import PixelFormat
from detr_sentry.jpeg import JpegInfo, walk_jpeg

if TYPE_CHECKING:
    from collections.abc import Callable

    from detr_sentry.settings import CameraSettings
    from detr_sentry.source_url import SourceSpec

_FIRST_WINDOW: Final = 1 << 20  # how far to look for the end of a frame before looking farther
_NS: Final = 1_000_000_000


def index_jpegs(data: memoryview) -> list[tuple[int, JpegInfo]]:
    """Offset and headers of each picture in concatenated JPEGs. Raises BadFrameError at the first broken one."""
    found: list[tuple[int, JpegInfo]] = []
    at, window = 0, _FIRST_WINDOW
    while at < len(data):
        try:
            info = walk_jpeg(data[at : at + window])
        except BadFrameError as error:
            if error.reason != "cut" or at + window >= len(data):
                raise BadFrameError(error.reason, f"picture {len(found)} at byte {at}: {error}") from None
            window *= 2
            continue
        found.append((at, info))
        at += info.length
        while at < len(data) and data[at] == 0:
            at += 1
    return found


class ReplaySource:
    """See `capture.source.Source`. Pulled: the frame of the present moment, by the file's rate from the first grab."""

    def __init__(self, spec: SourceSpec, camera: CameraSettings) -> None:
        self._path = spec.location
        self._redacted = spec.redacted
        self._fps = spec.number("fps", camera.fps, 0.1, 240)
        self._loops = spec.choice("loop", "1", ("0", "1")) == "1"
        self._map: mmap.mmap | None = None
        self._view = memoryview(b"")
        self._frames: list[tuple[int, JpegInfo]] = []
        self._start_ns = 0

    def open(self, keep_waiting: Callable[[], bool]) -> SourceInfo:  # noqa: ARG002 - a local file needs no patience
        """Map and index the file. Raises SourceGoneError, SourceFormatError."""
        self.close()
        try:
            with open(self._path, "rb") as file:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            raise SourceGoneError(f"{self._redacted} cannot be read: {error}") from error
        self._view = memoryview(self._map)
        try:
            self._frames = index_jpegs(self._view)
        except BadFrameError as error:
            self.close()
            raise SourceFormatError(f"{self._redacted} is not a file of concatenated JPEGs: {error}") from error
        first = self._frames[0][1]
        sizes = {(info.width, info.height) for _, info in self._frames}
        if len(sizes) > 1:
            self.close()
            raise SourceFormatError(f"{self._redacted} holds pictures of different sizes: {sorted(sizes)}")
        self._start_ns = 0
        return SourceInfo(
            width=first.width,
            height=first.height,
            pixel_format=PixelFormat.MJPEG,
            fps=self._fps,
            max_frame_bytes=max(info.length for _, info in self._frames),
            identity=self._redacted,
        )

    def fileno(self) -> int | None:
        """None: pulled."""
        return None

    def set_rate(self, fps: float) -> None:
        """Nothing to save: no frame costs anything until it is grabbed."""

    def discard(self) -> None:
        """Nothing waits: grab() gives the frame of its own moment."""

    def grab(self) -> RawFrame:
        """The frame of now. Raises SourceEndedError after the last one of a file that does not loop."""
        now_ns = time.monotonic_ns()
        self._start_ns = self._start_ns or now_ns
        number = int((now_ns - self._start_ns) * self._fps / _NS)
        if number >= len(self._frames) and not self._loops:
            raise SourceEndedError(f"{self._redacted} has ended")
        at, info = self._frames[number % len(self._frames)]
        return RawFrame(
            data=self._view[at : at + info.length],
            captured_monotonic_ns=now_ns,
            pts_ns=round(number * _NS / self._fps),
            width=info.width,
            height=info.height,
        )

    def close(self) -> None:
        """Unmap the file."""
        mapped, self._map = self._map, None
        self._view, self._frames = memoryview(b""), []
        if mapped is not None:
            try:
                mapped.close()
            except BufferError:  # a frame of it is still held; the mapping goes with it
                return
