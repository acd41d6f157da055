"""V4L2 cameras as a source: frames handed out where the driver wrote them, the same camera after every replug.

The camera keeps streaming in standby: `discard` gives all filled buffers back at the tick, so the next frame was
delivered after it. Stamps are the driver's where it says that they are on the monotonic clock, else the arrival.
Source: the kernel's V4L2 documentation, Streaming I/O (Memory Mapping) and VIDIOC_QBUF, VIDIOC_DQBUF.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import mmap
import os
import time
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from linuxpy.ctypes import cenum
from linuxpy.ioctl import ioctl
from linuxpy.video import raw

from detr_sentry.capture.source import RawFrame, SourceInfo
from detr_sentry.capture.v4l2_devices import Device, list_devices
from detr_sentry.capture.v4l2_exposure import apply_exposure
from detr_sentry.capture.v4l2_failures import explain
from detr_sentry.capture.v4l2_formats import (
    choose,
    enumerate_offers,
    fourcc_code,
    fourcc_text,
    query_capability,
    rate_of,
)
from detr_sentry.capture.v4l2_geometry import Geometry
from detr_sentry.capture.v4l2_identity import Identity, Node, Tree, find_node
from detr_sentry.errors import BadFrameError, SourceError, SourceFormatError, SourceGoneError

if TYPE_CHECKING:
    from collections.abc import Callable

    from detr_sentry.settings import CameraSettings
    from detr_sentry.source_url import SourceSpec

__all__ = ["BUFFERS", "Device", "V4l2Source", "list_devices"]

log = logging.getLogger("detr_sentry.capture")

BUFFERS: Final = 4
"""One is with the reader, one is being filled, two wait: the reader may be late by two frames."""

_CAPTURE: Final = raw.BufType.VIDEO_CAPTURE
_MMAP: Final = raw.Memory.MMAP
_OLDEST_STAMP_NS: Final = 60 * 10**9  # a driver's stamp that is older, or in the future, is not on our clock


class V4l2Source:
    """A V4L2 capture device, see `capture.source.Source`. `spec.location` is as in `capture.v4l2_identity`."""

    def __init__(self, spec: SourceSpec, settings: CameraSettings) -> None:
        self._location = spec.location
        self._settings = settings
        self._known: Identity | None = None
        self._path: Path | None = None
        self._fd = -1
        self._maps: list[mmap.mmap] = []
        self._views: list[memoryview] = []
        self._geometry: Geometry | None = None
        self._held: Any = None  # the buffer whose frame the caller reads
        self._frame_data: memoryview | None = None

    def open(self, keep_waiting: Callable[[], bool]) -> SourceInfo:  # noqa: ARG002 - a local device needs no patience
        """Find the camera, set format, rate and exposure, start streaming.

        Raises SourceGoneError (absent, busy, another camera), SourceUnauthorizedError (permissions), SourceFormatError.
        """
        node = find_node(self._location, self._known)
        self._path = node.path
        try:
            self._fd = os.open(node.path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
            self._require_same(node)
            self._require_streaming()
            geometry, fps = self._negotiate()
            self._geometry = geometry
            apply_exposure(self._fd, self._settings.exposure, 1000.0 / fps if fps else 0.0)
            self._start()
        except OSError as error:
            self.close()
            raise explain(error, node.path) from error
        except SourceError as error:
            self.close()
            raise type(error)(f"{node} {error}") from None
        self._known = node.identity
        return SourceInfo(
            width=geometry.width,
            height=geometry.height,
            pixel_format=geometry.pixel_format,
            fps=fps,
            max_frame_bytes=geometry.frame_bytes,
            identity=str(node.identity),
        )

    def fileno(self) -> int | None:
        """The device's descriptor: readable when a buffer is filled, and when the device has gone."""
        return self._fd if self._fd >= 0 else None

    def set_rate(self, fps: float) -> None:
        """Nothing: the camera streams at its full rate in standby too, so that a frame is never stale."""

    def discard(self) -> None:
        """Give all filled buffers back to the driver. Raises SourceGoneError."""
        self._give_back()
        # Bounded: a camera faster than this loop must not hold us in it.
        for _ in range(BUFFERS):
            buffer = self._dequeue()
            if buffer is None:
                return
            self._enqueue(buffer)

    def grab(self) -> RawFrame | None:
        """The oldest filled buffer, without a copy where its rows are packed. Raises BadFrameError, SourceGoneError."""
        self._give_back()
        buffer = self._dequeue()
        if buffer is None:
            return None
        arrived_ns = time.monotonic_ns()
        geometry = self._geometry
        assert geometry is not None
        self._held = buffer
        if buffer.flags & raw.BufferFlag.ERROR:
            raise BadFrameError("driver_error", "the driver marks the frame as broken")
        data = self._frame_data = geometry.frame(self._views[buffer.index], buffer.bytesused)
        return RawFrame(
            data=data,
            captured_monotonic_ns=_stamp_ns(buffer, arrived_ns),
            pts_ns=0,
            width=geometry.width,
            height=geometry.height,
        )

    def close(self) -> None:
        """Stop streaming and release the device; the camera's light goes out. Never raises."""
        fd, self._fd = self._fd, -1
        if fd < 0:
            return
        with contextlib.suppress(OSError):
            ioctl(fd, raw.IOC.STREAMOFF, cenum(_CAPTURE))
        self._release_frame()
        try:
            for view in self._views:
                view.release()
            for mapped in self._maps:
                mapped.close()
        except BufferError:
            log.warning("%s stays open: one of its frames is still in use", self._path)
        self._held, self._views, self._maps, self._geometry = None, [], [], None
        with contextlib.suppress(OSError):
            _request_buffers(fd, 0)
        with contextlib.suppress(OSError):
            os.close(fd)

    def _require_same(self, node: Node) -> None:
        """A node may change hands between finding and opening it."""
        opened = Tree().node_at(Path(f"/proc/self/fd/{self._fd}"))
        if node.identity != Identity(path=str(node.path)) and (opened is None or opened.identity != node.identity):
            raise SourceGoneError("was replaced by another camera while it was opened")

    def _require_streaming(self) -> None:
        capability = query_capability(self._fd)
        if not capability.captures:
            raise SourceFormatError("captures no video (another node of the same camera may)")
        if not capability.streams:
            raise SourceFormatError("cannot stream into mapped memory")

    def _negotiate(self) -> tuple[Geometry, float]:
        """Choose and set format, size and rate. Returns them as the driver reads them back; fps 0.0 if unknown."""
        wish = self._settings
        offers = enumerate_offers(self._fd, width=wish.width, height=wish.height)
        offer = choose(offers, width=wish.width, height=wish.height, fps=wish.fps)
        format_ = raw.v4l2_format()
        format_.type = _CAPTURE
        pixels = format_.fmt.pix
        pixels.width, pixels.height, pixels.pixelformat = offer.width, offer.height, fourcc_code(offer.fourcc)
        pixels.field = raw.Field.ANY
        try:
            ioctl(self._fd, raw.IOC.S_FMT, format_)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            raise SourceFormatError(f"refused {offer}, which it offers") from error
        got = fourcc_text(pixels.pixelformat)
        if got != offer.fourcc:
            offered = ", ".join(map(str, offers))
            raise SourceFormatError(f"was asked for {offer} and chose {got}; it offers {offered}")
        geometry = Geometry.from_driver(
            fourcc=got,
            width=pixels.width,
            height=pixels.height,
            bytes_per_line=pixels.bytesperline,
            size_bytes=pixels.sizeimage,
        )
        fps = self._set_interval(min(wish.fps, offer.fps or wish.fps)) or offer.fps
        if (wish.width or geometry.width, wish.height or geometry.height) != (geometry.width, geometry.height):
            size = f"{wish.width or 'any'}x{wish.height or 'any'}"
            log.info("%s does not offer %s; taking %s %dx%d", self._path, size, got, geometry.width, geometry.height)
        log.debug("%s: %s %dx%d at %g fps", self._path, got, geometry.width, geometry.height, fps)
        return geometry, fps

    def _set_interval(self, fps: float) -> float:
        """Ask for a rate; the one that the driver then names, 0.0 if it names none."""
        interval = 1 / Fraction(fps).limit_denominator(1001)
        parameters = raw.v4l2_streamparm()
        parameters.type = _CAPTURE
        parameters.parm.capture.timeperframe.numerator = interval.numerator
        parameters.parm.capture.timeperframe.denominator = interval.denominator
        try:
            ioctl(self._fd, raw.IOC.S_PARM, parameters)
        except OSError as error:
            if error.errno == errno.ENODEV:
                raise
            log.debug("%s has no settable rate: %s", self._path, error)
            return 0.0
        return rate_of(parameters.parm.capture.timeperframe)

    def _start(self) -> None:
        for index in range(_request_buffers(self._fd, BUFFERS)):
            buffer = _buffer(index)
            ioctl(self._fd, raw.IOC.QUERYBUF, buffer)
            mapped = mmap.mmap(self._fd, buffer.length, prot=mmap.PROT_READ, offset=buffer.m.offset)
            self._maps.append(mapped)
            self._views.append(memoryview(mapped))
            self._enqueue_raw(buffer)
        ioctl(self._fd, raw.IOC.STREAMON, cenum(_CAPTURE))

    def _dequeue(self) -> Any | None:
        buffer = _buffer()
        try:
            ioctl(self._fd, raw.IOC.DQBUF, buffer)
        except BlockingIOError:
            return None
        except OSError as error:
            raise explain(error, self._path) from error
        return buffer

    def _enqueue(self, buffer: Any) -> None:
        try:
            self._enqueue_raw(buffer)
        except OSError as error:
            raise explain(error, self._path) from error

    def _enqueue_raw(self, buffer: Any) -> None:
        ioctl(self._fd, raw.IOC.QBUF, _buffer(buffer.index))

    def _give_back(self) -> None:
        """End the life of the frame that was handed out and give its buffer back."""
        self._release_frame()
        held, self._held = self._held, None
        if held is not None:
            self._enqueue(held)

    def _release_frame(self) -> None:
        data, self._frame_data = self._frame_data, None
        if data is not None:
            # Whoever still looks through it would see the next frame; an export (an array) keeps it open until it goes.
            with contextlib.suppress(BufferError):
                data.release()


def _request_buffers(fd: int, count: int) -> int:
    request = raw.v4l2_requestbuffers()
    request.count, request.type, request.memory = count, _CAPTURE, _MMAP
    ioctl(fd, raw.IOC.REQBUFS, request)
    return int(request.count)


def _buffer(index: int = 0) -> Any:
    buffer = raw.v4l2_buffer()
    buffer.index, buffer.type, buffer.memory = index, _CAPTURE, _MMAP
    return buffer


def _stamp_ns(buffer: Any, arrived_ns: int) -> int:
    """When the frame was captured, on the monotonic clock: the driver's stamp if it is one, else its arrival."""
    if buffer.flags & raw.BufferFlag.TIMESTAMP_MASK != raw.BufferFlag.TIMESTAMP_MONOTONIC:
        return arrived_ns
    stamp_ns = int(buffer.timestamp.secs) * 10**9 + int(buffer.timestamp.usecs) * 1000
    return stamp_ns if arrived_ns - _OLDEST_STAMP_NS <= stamp_ns <= arrived_ns else arrived_ns
