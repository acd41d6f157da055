"""The link to one camera: its state, its two log lines a cycle, and what people are told about it."""

from __future__ import annotations

import logging
from collections import Counter, deque
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

from detr_sentry.errors import SourceEndedError

if TYPE_CHECKING:
    from detr_sentry.errors import SourceError

log = logging.getLogger("detr_sentry.capture")

_RATE_WINDOW: Final = 31  # frames; the measured rate is over the last second at full rate, ten in standby
_NS: Final = 1_000_000_000


class LinkState(StrEnum):
    """How the camera is reached."""

    CONNECTING = "connecting"
    CONNECTED = "connected"
    STALLED = "stalled"
    GONE = "gone"
    REFUSED = "refused"
    UNAUTHORIZED = "unauthorized"
    WRONG_FORMAT = "wrong_format"
    OFF = "off"


class Link:
    """State and counters of one camera's link; `status()` is the heartbeat's."""

    def __init__(self, camera_id: str, source: str) -> None:
        self.state = LinkState.CONNECTING
        self.error: str | None = None
        self.drops: Counter[str] = Counter()
        self.frames = 0
        self.picture_problem: str | None = None
        self.geometry: dict[str, Any] = {"width": None, "height": None, "pixel_format": None}
        self._camera_id = camera_id
        self._source = source
        self._last_frame_ns: int | None = None
        self._stamps: deque[int] = deque(maxlen=_RATE_WINDOW)
        self._lost = False
        self._attempts = 0

    def connecting(self) -> None:
        """The camera is being opened for the first time, or after it was off."""
        self.state, self.error, self.picture_problem = LinkState.CONNECTING, None, None

    def frame(self, timestamp_ns: int, captured_monotonic_ns: int) -> None:
        """A good frame was published."""
        self.frames += 1
        self._last_frame_ns = timestamp_ns
        self._stamps.append(captured_monotonic_ns)
        if self.state is not LinkState.CONNECTED:
            again = f"back after {self._attempts} attempts" if self._lost else "connected"
            log.info(
                "camera %s %s: %s, %sx%s %s",
                self._camera_id, again, self._source, *self.geometry.values(),
            )  # fmt: skip
            self.state, self.error, self._lost, self._attempts = LinkState.CONNECTED, None, False, 0

    def lost(self, error: SourceError) -> None:
        """The camera failed or cannot be opened: logged once, until it is back."""
        self.state, self.error = LinkState(error.link), str(error)
        self._attempts += 1
        self._stamps.clear()
        self.picture_problem = None
        level = logging.DEBUG if self._lost else logging.WARNING
        then = "" if isinstance(error, SourceEndedError) else "; trying again"
        log.log(level, "camera %s lost: %s%s", self._camera_id, error, then)
        self._lost = True

    def off(self) -> None:
        """The owner closed the camera."""
        self.state, self.error, self.picture_problem = LinkState.OFF, None, None
        self._lost, self._attempts = False, 0
        self._stamps.clear()
        log.info("camera %s is off: closed, its frames are wiped", self._camera_id)

    def dropped(self, reason: str) -> None:
        """A frame was not published."""
        self.drops[reason] += 1

    @property
    def problem(self) -> str | None:
        """A short code of what is wrong, or None."""
        if self.state in {LinkState.CONNECTED, LinkState.OFF}:
            return self.picture_problem
        return str(self.state)

    def status(self, now_ns: int) -> dict[str, Any]:
        """For the heartbeat (see the contract of the status of capture)."""
        return {
            "link": str(self.state),
            "problem": self.problem,
            "error": self.error,
            "source": self._source,
            **self.geometry,
            "fps": self._fps(now_ns),
            "frames": self.frames,
            "drops": dict(self.drops),
            "last_frame_ns": self._last_frame_ns,
        }

    def _fps(self, now_ns: int) -> float:
        if len(self._stamps) < 2:
            return 0.0
        span_ns = max(self._stamps[-1], now_ns - _NS) - self._stamps[0]
        return round((len(self._stamps) - 1) * _NS / span_ns, 1) if span_ns > 0 else 0.0
