"""When the next frame is due and when a lost camera is tried again. Pure: time is a parameter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

_NS: Final = 1_000_000_000


class Pacer:
    """An absolute schedule on the monotonic clock: tick n is due at anchor + n / rate, so nothing drifts.

    A tick that was missed is not made up for. A new rate starts a new schedule whose first tick is due at once.
    """

    def __init__(self, rate: float, now_ns: int) -> None:
        self._rate = rate
        self._anchor_ns = now_ns
        self._tick = 0

    @property
    def rate(self) -> float:
        """Frames a second; 0.0 means every frame: always due."""
        return self._rate

    @property
    def due_ns(self) -> int:
        """When the next frame is due."""
        return self._at(self._tick)

    def set_rate(self, rate: float, now_ns: int) -> None:
        """Change the rate; the same rate keeps the schedule."""
        if rate != self._rate:
            self._rate, self._anchor_ns, self._tick = rate, now_ns, 0

    def due(self, now_ns: int) -> bool:
        """Whether a frame is due."""
        return not self._rate or now_ns >= self.due_ns

    def wait_s(self, now_ns: int) -> float:
        """Seconds until a frame is due, 0.0 if one is."""
        return 0.0 if not self._rate else max(0, self.due_ns - now_ns) / _NS

    def take(self, now_ns: int) -> None:
        """A frame was taken: the next tick is the first one after `now_ns`."""
        if self._rate:
            passed = int((now_ns - self._anchor_ns) * self._rate / _NS)
            self._tick = max(self._tick + 1, passed)
            while self._at(self._tick) <= now_ns:
                self._tick += 1

    def _at(self, tick: int) -> int:
        return self._anchor_ns + round(tick * _NS / self._rate) if self._rate else self._anchor_ns


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """Times between attempts: `first_s`, then `factor` times more each, up to `cap_s`; each varied by `jitter`."""

    first_s: float
    cap_s: float
    factor: float = 1.7
    jitter: float = 0.2


LOCAL_RETRY: Final = RetryPolicy(first_s=0.25, cap_s=1.0)
"""A device node: looking for it costs nothing, and a replugged camera must be back within 3 s."""
NETWORK_RETRY: Final = RetryPolicy(first_s=0.5, cap_s=15.0)
"""A rebooting camera takes a minute; attempts must not keep its few connections busy."""
LOGIN_RETRY: Final = RetryPolicy(first_s=10.0, cap_s=120.0)
"""Cameras lock accounts after a few wrong passwords."""
STABLE_S: Final = 10.0
"""A connection that lived shorter than this does not reset the back-off: a flapping camera is not hammered."""


class Backoff:
    """Delays between attempts to reach one camera."""

    def __init__(self) -> None:
        self._failures = 0

    def lost(self, lived_s: float) -> None:
        """A connection ended after `lived_s` seconds of frames."""
        if lived_s >= STABLE_S:
            self._failures = 0

    def next_s(self, policy: RetryPolicy, chance: float) -> float:
        """Seconds to wait before the next attempt; `chance` is a random number 0..1."""
        delay = policy.first_s
        for _ in range(self._failures):
            if delay >= policy.cap_s:
                break
            delay *= policy.factor
        self._failures += 1
        return min(delay, policy.cap_s) * (1 + policy.jitter * (2 * chance - 1))
