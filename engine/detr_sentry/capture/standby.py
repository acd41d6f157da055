"""Two streams of one network camera: its small substream in standby, its main stream when alarmed.

The stream in use goes on until the other one has its first frame, so a change of mode never waits for a connection: the
first alarmed frames are the substream's at its full rate, then the main stream takes over.
"""

from __future__ import annotations

import logging
import select
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from detr_sentry.capture.source import FULL_RATE, RawFrame, SourceInfo
from detr_sentry.capture.stream import StreamSource
from detr_sentry.errors import SourceError

if TYPE_CHECKING:
    from collections.abc import Callable

    from detr_sentry.settings import CameraSettings
    from detr_sentry.source_url import SourceSpec

log = logging.getLogger("detr_sentry.capture")

RETRY_S: Final = 10.0
"""The other stream is only better, not needed: trying it more often would cost the one in use its bandwidth."""


class StandbyPair:
    """See `capture.source.Source`. `standby` is preferred below FULL_RATE, `main` at it; either can serve."""

    def __init__(self, main: SourceSpec, standby: SourceSpec, camera: CameraSettings) -> None:
        self._identity = main.redacted
        self._main = StreamSource(main, camera)
        self._standby = StreamSource(standby, camera)
        self._active = self._standby
        self._coming: StreamSource | None = None
        self._switched: SourceInfo | None = None
        self._rate = 0.0
        self._retry_s = 0.0
        self._poll = select.epoll()

    def open(self, keep_waiting: Callable[[], bool]) -> SourceInfo:
        """Connect to the substream, or else to the main stream. Raises the main stream's SourceError."""
        self.close()
        self._poll = select.epoll()
        try:
            self._active, info = self._standby, self._standby.open(keep_waiting)
        except SourceError as error:
            if not keep_waiting():
                raise
            log.debug("standby source: %s", error)
            self._active, info = self._main, self._main.open(keep_waiting)
        self._watch(self._active)
        return self._identified(info)

    def fileno(self) -> int | None:
        """An epoll descriptor over both streams."""
        return self._poll.fileno()

    def set_rate(self, fps: float) -> None:
        """Start connecting to the stream that this rate prefers."""
        self._rate = fps
        self._active.set_rate(fps)
        self._prefer()

    def discard(self) -> None:
        """Forget what waits, and look after the other stream."""
        self._look_after()
        self._active.discard()

    def grab(self) -> RawFrame | None:
        """The newest frame of the stream in use. Raises what ended it, unless the other one can take over."""
        self._look_after()
        try:
            frame = self._active.grab()
        except SourceError:
            if self._coming is None:
                raise
            return None
        switched, self._switched = self._switched, None
        if frame is None:
            self._switched = switched
            return None
        info = frame.info or switched
        return frame if info is None else replace(frame, info=self._identified(info))

    def close(self) -> None:
        """Close both."""
        self._coming = self._switched = None
        self._retry_s = 0.0
        for source in (self._main, self._standby):
            source.close()
        self._poll.close()

    def _preferred(self) -> StreamSource:
        return self._main if self._rate == FULL_RATE else self._standby

    def _prefer(self) -> None:
        wanted = self._preferred()
        if self._coming is not None and self._coming is not wanted:
            self._drop(self._coming)
        if wanted is not self._active and self._coming is None and time.monotonic() >= self._retry_s:
            wanted.set_rate(self._rate)
            wanted.begin()
            self._coming = wanted
            self._watch(wanted)

    def _look_after(self) -> None:
        """Switch over once the preferred stream has a frame; try it again later where it failed."""
        self._prefer()
        coming = self._coming
        if coming is None:
            return
        try:
            info = coming.ready()
        except SourceError as error:
            log.debug("the other stream of the camera: %s", error)
            self._coming = None
            self._retry_s = time.monotonic() + RETRY_S
            return
        if info is not None:
            before, self._active, self._coming, self._switched = self._active, coming, None, info
            before.close()

    def _drop(self, source: StreamSource) -> None:
        self._coming = None
        source.close()

    def _watch(self, source: StreamSource) -> None:
        descriptor = source.fileno()
        assert descriptor is not None
        self._poll.register(descriptor, select.EPOLLIN)

    def _identified(self, info: SourceInfo) -> SourceInfo:
        return replace(info, identity=self._identity)
