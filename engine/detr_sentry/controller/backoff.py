"""When to try a broker again, and how often to complain. Pure, clocked by the caller."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

FIRST_S = 0.5
FACTOR = 2.0
CAP_S = 4.0  # a broker on the same network that is back should find everything right within five seconds
REFUSED_S = 60.0  # what a person has to put right; brokers ban clients that insist
JITTER = 0.25  # many engines lose one broker at the same moment
STABLE_S = 30.0  # a connection that ends sooner has not helped: the back-off goes on where it was


class BackOff:
    """The pause after each failure: doubling to `CAP_S`, or `REFUSED_S`; shortened by up to a quarter."""

    def __init__(self, *, chance: Callable[[], float] = random.random) -> None:
        self._chance = chance
        self._next_s = FIRST_S

    def pause_s(self, *, refused: bool = False) -> float:
        """How long to wait now."""
        pause_s = REFUSED_S if refused else self._next_s
        self._next_s = min(self._next_s * FACTOR, CAP_S)
        return pause_s * (1 - JITTER * self._chance())

    def lasted(self, seconds: float) -> None:
        """A connection has ended that lasted so long."""
        if seconds >= STABLE_S:
            self._next_s = FIRST_S


class Complaints:
    """Lets a complaint of each kind through every `every_s`, and counts those that it held back."""

    def __init__(self, *, every_s: float = 10.0) -> None:
        self.total = 0
        self._every_s = every_s
        self._last_s: dict[str, float] = {}
        self._held: dict[str, int] = {}

    def admit(self, kind: str, now_s: float) -> int | None:
        """How many of this kind were held back since the last one that may be logged; None: hold this one back too."""
        self.total += 1
        last_s = self._last_s.get(kind)
        if last_s is not None and now_s - last_s < self._every_s:
            self._held[kind] = self._held.get(kind, 0) + 1
            return None
        self._last_s[kind] = now_s
        return self._held.pop(kind, 0)
