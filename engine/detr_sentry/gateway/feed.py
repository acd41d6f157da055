"""One camera as the gateway sees it: its three rings, what was last read from them, and the JPEGs made for viewers.

A lease never outlives the call that took it: what is needed is copied out, once, and shared.
"""

from __future__ import annotations

import logging
from collections import OrderedDict, deque
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from detr_sentry.errors import CorruptMessageError
from detr_sentry.ipc.messages import DetectionsView, FrameView, Mode, Outcome, PixelFormat, SentryView, State
from detr_sentry.ipc.ring import RingReader

from .detections import Detections
from .packets import encode_packet
from .pictures import FrameInfo, Picture, full_jpeg, small_jpeg, small_size
from .rendition import Rendition

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from concurrent.futures import Executor

    from detr_sentry.ipc.layout import Layout

    from .counters import Counters

log = logging.getLogger("detr_sentry.gateway")

RENDITION_WIDTH = 640
# Bytes of frames that wait for their detections while somebody asks for a picture with boxes: eight raw 1080p frames.
HISTORY_BYTES = 32 << 20
# Long enough for a steady number at 3 fps, short enough to follow the change from standby to alarm.
_FPS_WINDOW_NS = 1_000_000_000
_STOPPED_NS = 2_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class SentryInfo:
    """The newest sentry message, copied."""

    state: State
    mode: Mode
    blind: bool
    since_ns: int
    count: int
    event_id: str


class CameraFeed:
    """The live data of one camera. Belongs to the event loop's thread.

    `poll` reads what is new; it is called for every bell and at least each 250 ms. `status` gives the keys that every
    stream message carries beside those of its frame.
    """

    def __init__(
        self,
        camera: str,
        layout: Layout,
        *,
        labels: Callable[[], Mapping[int, str]],
        status: Callable[[], Mapping[str, Any]],
        clock_ns: Callable[[], int],
        pool: Executor,
        counters: Counters,
    ) -> None:
        self.camera = camera
        self.frame: FrameInfo | None = None
        self.detections: Detections | None = None
        self.sentry: SentryInfo | None = None
        self.last_event_id: str | None = None
        self.inference_ns: int | None = None
        self._frames = RingReader(layout.stream(camera, "frames"))
        self._detections = RingReader(layout.stream(camera, "detections"))
        self._sentry = RingReader(layout.stream(camera, "sentry"))
        self._labels = labels
        self._status = status
        self._clock_ns = clock_ns
        self._counters = counters
        self._sentry_key: tuple[int, int] | None = None
        self._detections_key: tuple[int, int] | None = None
        self._arrivals: deque[tuple[int, int]] = deque()
        self._history: OrderedDict[tuple[int, int], Picture] = OrderedDict()
        self._history_bytes = 0
        self._history_users = 0
        shared: dict[str, Any] = {
            "describe": self._message,
            "refresh": self.poll_frames,
            "pool": pool,
            "counters": counters,
        }
        self.full = Rendition(
            width=None, convert=full_jpeg, free=lambda info: info.pixel_format is PixelFormat.MJPEG, **shared
        )
        self.small = Rendition(
            width=RENDITION_WIDTH,
            convert=lambda picture: small_jpeg(picture, RENDITION_WIDTH),
            free=lambda info: info.pixel_format is PixelFormat.MJPEG and info.width <= RENDITION_WIDTH,
            **shared,
        )
        self.on_change: Callable[[CameraFeed], None] = _nobody
        self.on_detections: Callable[[CameraFeed], None] = _nobody

    @property
    def attached(self) -> bool:
        """Whether the rings of frames, detections and state are there. A camera that is off needs only the last."""
        return self._sentry.attached and (self.off or (self._frames.attached and self._detections.attached))

    @property
    def off(self) -> bool:
        """Whether the camera is closed by its user's wish."""
        return self.sentry is not None and self.sentry.state is State.OFF

    @property
    def fps(self) -> float | None:
        """Frames per second over the last second; 0 when they stopped, None if none came or the camera is off."""
        if self.off or self.frame is None or len(self._arrivals) < 2:
            return None
        (first_ns, first), (last_ns, last) = self._arrivals[0], self._arrivals[-1]
        period_ns = (last_ns - first_ns) / max(1, last - first)
        if last_ns == first_ns or self._clock_ns() - last_ns > max(_STOPPED_NS, 3 * period_ns):
            return 0.0
        return round(1e9 / period_ns, 2)

    def now_ns(self) -> int:
        """The monotonic clock that frames are stamped with."""
        return self._clock_ns()

    def situation(self) -> tuple[Any, ...]:
        """State, mode, blindness and problem, to notice when they change."""
        status = self._status()
        return status["state"], status["mode"], status["blind"], status["problem"]

    def rendition(self, width: int | None) -> Rendition:
        """The form that serves a wish for pictures `width` wide: the shared small one, or the camera's own size."""
        return self.small if width is not None and width <= RENDITION_WIDTH else self.full

    def poll(self) -> None:
        """Read what is new in the three rings; frames last, so that each goes out with the newest state and boxes."""
        self._poll_sentry()
        self._poll_detections()
        self.poll_frames()

    def poll_frames(self) -> None:
        """Note a new frame, and copy it out if anybody waits for it. Does nothing while the camera is off."""
        latest = self._frames.latest()
        if latest is None or self.off:
            if self.frame is not None:
                self._forget_frames()
            return
        wanting = [rendition for rendition in (self.full, self.small) if rendition.wants(latest)]
        seen = self.frame is not None and self.frame.key == latest
        if seen and not wanting:
            return
        copy = bool(wanting) or self._history_users > 0
        with self._guarded("frame"):
            lease = self._frames.acquire()
            if lease is None:
                return
            with lease:
                view = FrameView(lease)
                info = FrameInfo.of(view, lease.key)
                data = bytes(view.data) if copy else b""
            self._note(info)
            if copy:
                self._counters.frames_copied += 1
                self._hand_out(Picture(info=info, data=data), wanting)

    def status_packet(self) -> bytes:
        """A stream message without a picture, for when there is none to send."""
        return self._message(None, None, b"")

    @contextmanager
    def keep_history(self) -> Iterator[Mapping[tuple[int, int], Picture]]:
        """Frames by identity, kept from now to the end of the block, for whoever waits for the detections of one."""
        self._history_users += 1
        try:
            yield self._history
        finally:
            self._history_users -= 1
            if not self._history_users:
                self._history.clear()
                self._history_bytes = 0

    def read_newest(self) -> Picture | None:
        """The newest frame, copied out now; None if there is none or the camera is off."""
        if self.off:
            return None
        with self._guarded("frame"):
            lease = self._frames.acquire()
            if lease is not None:
                with lease:
                    view = FrameView(lease)
                    picture = Picture(info=FrameInfo.of(view, lease.key), data=bytes(view.data))
                self._counters.frames_copied += 1
                return picture
        return None

    async def close(self) -> None:
        """Let running encoders finish and give the rings back."""
        for rendition in (self.full, self.small):
            await rendition.close()
        for reader in (self._frames, self._detections, self._sentry):
            reader.close()

    def _poll_sentry(self) -> None:
        latest = self._sentry.latest()
        if latest == self._sentry_key:
            return
        with self._guarded("sentry"):
            before = self.sentry
            lease = self._sentry.acquire()
            if lease is None:
                self.sentry, self._sentry_key = None, None
            else:
                with lease:
                    view = SentryView(lease)
                    self.sentry = SentryInfo(
                        state=State(view.state),
                        mode=Mode(view.mode),
                        blind=bool(view.blind),
                        since_ns=view.since_ns,
                        count=view.count,
                        event_id=view.event_id,
                    )
                    self._sentry_key = lease.key
                self.last_event_id = self.sentry.event_id or self.last_event_id
            # It is published anew every second, mostly as it was.
            if self.sentry != before:
                if self.off:
                    self._forget_frames()
                self.full.wake()
                self.small.wake()
                self.on_change(self)

    def _poll_detections(self) -> None:
        latest = self._detections.latest()
        if latest == self._detections_key:
            return
        with self._guarded("detections"):
            lease = self._detections.acquire()
            if lease is None:
                self.detections, self._detections_key = None, None
                return
            with lease:
                view = DetectionsView(lease)
                inferred = view.outcome == Outcome.INFERRED
                self.detections = Detections.of(view, self._labels(), inferred=inferred)
                self._detections_key = lease.key
            if inferred:
                self.inference_ns = self.detections.inference_ns
            self.on_detections(self)

    def _note(self, info: FrameInfo) -> None:
        before, self.frame = self.frame, info
        if before is not None and before.key[0] != info.key[0]:
            self._arrivals.clear()
        if before is None or before.key != info.key:
            self._arrivals.append((info.captured_monotonic_ns, info.key[1]))
        while len(self._arrivals) > 2 and self._arrivals[-1][0] - self._arrivals[1][0] >= _FPS_WINDOW_NS:
            self._arrivals.popleft()
        if before is None or _geometry(before) != _geometry(info):
            self.on_change(self)

    def _hand_out(self, picture: Picture, wanting: list[Rendition]) -> None:
        if self._history_users:
            self._history[picture.info.identity] = picture
            self._history_bytes += len(picture.data)
            while self._history_bytes > HISTORY_BYTES and len(self._history) > 1:
                _identity, oldest = self._history.popitem(last=False)
                self._history_bytes -= len(oldest.data)
        for rendition in wanting:
            rendition.offer(picture)

    def _forget_frames(self) -> None:
        self.frame, self.detections = None, None
        self._arrivals.clear()
        self._history.clear()
        self._history_bytes = 0
        for rendition in (self.full, self.small):
            rendition.forget()
            rendition.wake()
        self.on_change(self)

    @contextmanager
    def _guarded(self, what: str) -> Iterator[None]:
        """A message that no writer of ours would leave is counted and skipped; the next one may be whole."""
        try:
            yield
        except CorruptMessageError as error:
            self._counters.corrupt_messages += 1
            log.debug("camera %s: %s message skipped: %s", self.camera, what, error)

    def _message(self, info: FrameInfo | None, jpeg_width: int | None, jpeg: bytes) -> bytes:
        now = self._clock_ns()
        shown = small_size(info, jpeg_width) if info else (None, None)
        header: dict[str, Any] = {
            "camera": self.camera,
            "frame_number": info.frame_number if info else None,
            "capture_epoch": info.capture_epoch if info else None,
            "timestamp_ns": info.timestamp_ns if info else None,
            "width": info.width if info else None,
            "height": info.height if info else None,
            "jpeg_width": shown[0],
            "jpeg_height": shown[1],
            "frame_age_ms": round((now - info.captured_monotonic_ns) / 1e6, 1) if info else None,
            "fps": self.fps,
            **self._status(),
            **self._boxes(now),
        }
        return encode_packet(header, jpeg)

    def _boxes(self, now_ns: int) -> dict[str, Any]:
        newest = self.detections
        if newest is None:
            return {"detections": [], "detection_frame": None, "detection_age_ms": None}
        return {
            "detections": newest.found if newest.fresh(now_ns) else [],
            "detection_frame": newest.frame_number,
            "detection_age_ms": newest.age_ms(now_ns),
        }


def _nobody(_feed: CameraFeed) -> None:
    """What a feed calls until somebody listens."""


def _geometry(info: FrameInfo) -> tuple[int, int, PixelFormat]:
    return info.width, info.height, info.pixel_format
