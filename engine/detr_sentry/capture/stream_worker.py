"""The thread that reads one network stream or file with PyAV and keeps its newest frame.

FFmpeg blocks while it connects and reads, so it has a thread of its own, time limits on both, and no queue: a frame
that nobody took is replaced by the next one. MJPEG packets are kept as they came; other codecs are decoded here and
packed by whoever takes them.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import av
from av.codec.context import ThreadType
from av.error import FFmpegError, HTTPForbiddenError, HTTPUnauthorizedError

from detr_sentry.capture.source import FULL_RATE
from detr_sentry.errors import (
    SourceEndedError,
    SourceError,
    SourceFormatError,
    SourceGoneError,
    SourceStalledError,
    SourceUnauthorizedError,
)

if TYPE_CHECKING:
    from detr_sentry.source_url import SourceSpec

OPEN_TIMEOUT_S: Final = 8.0
"""For each of connecting and probing; RTSP cameras take one or two seconds, a key frame may take four more."""
READ_TIMEOUT_S: Final = 5.0
"""A live stream that is silent for so long has died without closing its connection."""
_GAP_S: Final = 1.0  # a file that fell this far behind its clock (a suspended machine) goes on from now
_REFERENCE_SHARE: Final = 4  # of the frames of a stream with B pyramids, at least one in so many is referred to
_NS: Final = 1_000_000_000
_NETWORK_OPTIONS: Final = {
    "rtsp_transport": "tcp",
    "timeout": str(int(READ_TIMEOUT_S * 1e6)),
    "analyzeduration": "2000000",
    "fflags": "nobuffer",
    "protocol_whitelist": "http,https,tcp,tls,udp,rtp,rtsp,srtp,crypto,httpproxy",
}
_FILE_OPTIONS: Final = {"protocol_whitelist": "file"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivered:
    """The newest frame: `payload` is an av.Packet of MJPEG or a decoded av.VideoFrame."""

    payload: Any
    passthrough: bool
    arrived_ns: int
    pts_ns: int
    width: int
    height: int


class StreamWorker:
    """Reads `spec` until it ends, fails or is closed; used from one other thread. Raises SettingsError when made."""

    def __init__(self, spec: SourceSpec) -> None:
        self.fps = 0.0
        self.error: SourceError | None = None
        self._spec = spec
        self._event_fd = -1
        self._live = spec.scheme != "file"
        self._loops = not self._live and spec.choice("loop", "1", ("0", "1")) == "1"
        self._fast = not self._live and spec.choice("pace", "native", ("native", "fast")) == "fast"
        self._rate = FULL_RATE
        self._lock = threading.Condition()
        self._newest: Delivered | None = None
        self._closing = threading.Event()
        self._pts_base_ns = 0
        self._pts_newest_ns = 0
        self._clock_ns = 0  # monotonic time at which pts 0 is shown, for files
        self._thread = threading.Thread(target=self._run, name="stream", daemon=True)

    def start(self) -> None:
        """Begin connecting; returns at once."""
        self._event_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._thread.start()

    def fileno(self) -> int | None:
        """Readable with each frame until `take`, and when the stream is over; None before start and after close."""
        return self._event_fd if self._event_fd >= 0 else None

    def set_rate(self, fps: float) -> None:
        """Well below the stream's own rate, frames that no other frame needs are not decoded."""
        self._rate = fps

    def peek(self) -> Delivered | None:
        """The newest frame, left where it is."""
        return self._newest

    def take(self) -> Delivered | None:
        """The newest frame, once."""
        with self._lock:
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(self._event_fd)
            newest, self._newest = self._newest, None
            self._lock.notify()
        return newest

    def discard(self) -> None:
        """Forget the frame that waits; not for a file at `pace=fast`, of which every frame is wanted."""
        if not self._fast:
            self.take()

    def close(self) -> None:
        """Stop reading. A thread that is stuck in the network ends by its own time limit and delivers nothing more."""
        self._closing.set()
        with self._lock:
            self._newest = None
            self._lock.notify()
            event_fd, self._event_fd = self._event_fd, -1
        if event_fd >= 0:
            os.close(event_fd)
        if self._thread.ident is not None:
            self._thread.join(0.3)

    def _run(self) -> None:
        try:
            self._read_all()
        except SourceError as error:
            self.error = error
        except Exception as error:  # noqa: BLE001 - it must reach the service, not die with the thread
            self.error = SourceGoneError(f"{self._spec.redacted} failed: {self._spec.scrub(str(error))}")
        with self._lock:
            if not self._closing.is_set():
                os.eventfd_write(self._event_fd, 1)

    def _read_all(self) -> None:
        while True:
            before = self._pts_newest_ns
            self._read_once()
            if self._closing.is_set():
                return
            if self._live:
                raise SourceGoneError(f"{self._spec.redacted} ended the stream")
            if not self._loops:
                raise SourceEndedError(f"{self._spec.redacted} has ended")
            if self._pts_newest_ns == before:
                raise SourceFormatError(f"{self._spec.redacted} holds no frames")
            self._pts_base_ns = self._pts_newest_ns + round(_NS / (self.fps or 25))

    def _read_once(self) -> None:
        """From opening to the end of the stream."""
        began = time.monotonic()
        try:
            container = av.open(
                self._spec.location,
                timeout=(OPEN_TIMEOUT_S, READ_TIMEOUT_S),
                options=dict(_NETWORK_OPTIONS if self._live else _FILE_OPTIONS),
                metadata_errors="replace",
            )
        except FFmpegError as error:
            raise self._opening_failed(error, time.monotonic() - began) from None
        with container:
            if not container.streams.video:
                raise SourceFormatError(f"{self._spec.redacted} has no video")
            stream = container.streams.video[0]
            rate = float(stream.average_rate or stream.guessed_rate or 0)
            self.fps = rate if 0 < rate <= 240 else 0.0
            context = stream.codec_context
            context.thread_type = ThreadType.SLICE  # frame threads would delay every picture by as many frames
            try:
                for packet in container.demux(stream):
                    if self._closing.is_set():
                        return
                    context.skip_frame = "DEFAULT" if self._wants_all() else "NONREF"
                    self._packet(packet, passthrough=context.name == "mjpeg")
            except FFmpegError as error:
                raise self._reading_failed(error) from None

    def _wants_all(self) -> bool:
        return self._rate == FULL_RATE or self._fast or self._rate * _REFERENCE_SHARE > self.fps

    def _packet(self, packet: Any, *, passthrough: bool) -> None:
        arrived_ns = time.monotonic_ns()
        if passthrough:
            if packet.size:
                context = packet.stream.codec_context
                self._deliver(packet, arrived_ns, context.width, context.height, passthrough=True)
            return
        try:
            frames = packet.decode()
        except av.error.InvalidDataError:  # damaged by a lost packet; the decoder recovers at the next key frame
            return
        for frame in frames:
            self._deliver(frame, arrived_ns, frame.width, frame.height, passthrough=False)

    def _deliver(self, payload: Any, arrived_ns: int, width: int, height: int, *, passthrough: bool) -> None:
        if payload.pts is not None and payload.time_base:
            pts_ns = self._pts_base_ns + int(payload.pts * payload.time_base * _NS)
        else:
            pts_ns = self._pts_newest_ns + round(_NS / (self.fps or 25))
        self._pts_newest_ns = pts_ns
        if not self._live and not self._fast:
            arrived_ns = self._pace(pts_ns)
        with self._lock:
            while self._fast and self._newest is not None and not self._closing.is_set():
                self._lock.wait(0.25)
            if self._closing.is_set():
                return
            self._newest = Delivered(
                payload=payload,
                passthrough=passthrough,
                arrived_ns=time.monotonic_ns() if self._fast else arrived_ns,
                pts_ns=pts_ns,
                width=width,
                height=height,
            )
            os.eventfd_write(self._event_fd, 1)

    def _pace(self, pts_ns: int) -> int:
        """Wait until a file's frame is due on the file's own clock; returns the time then."""
        now_ns = time.monotonic_ns()
        behind_ns = now_ns - self._clock_ns - pts_ns
        if not self._clock_ns or abs(behind_ns) > _GAP_S * _NS + round(_NS / (self.fps or 25)):
            self._clock_ns = now_ns - pts_ns
        elif behind_ns < 0:
            self._closing.wait(-behind_ns / _NS)
        return time.monotonic_ns()

    def _opening_failed(self, error: FFmpegError, took_s: float) -> SourceError:
        url, text = self._spec.redacted, self._spec.scrub(error.strerror or str(error))
        if isinstance(error, HTTPUnauthorizedError | HTTPForbiddenError):
            return SourceUnauthorizedError(f"{url} refused the user or password ({text})")
        if isinstance(error, ConnectionRefusedError):
            refused = SourceGoneError(f"{url} refused the connection: is the camera's server on, is the port right?")
            refused.link = "refused"
            return refused
        if self._live and took_s >= min(OPEN_TIMEOUT_S, READ_TIMEOUT_S) - 0.5:
            return SourceGoneError(f"{url} did not answer within {took_s:.0f} s")
        if isinstance(error, av.error.InvalidDataError):
            return SourceFormatError(f"{url} is not a video stream that FFmpeg knows")
        return SourceGoneError(f"{url} cannot be opened: {text}")

    def _reading_failed(self, error: FFmpegError) -> SourceError:
        url = self._spec.redacted
        if isinstance(error, av.error.ExitError | TimeoutError):
            return SourceStalledError(f"{url} sent nothing for {READ_TIMEOUT_S:g} s")
        return SourceGoneError(f"{url} broke off: {self._spec.scrub(error.strerror or str(error))}")
