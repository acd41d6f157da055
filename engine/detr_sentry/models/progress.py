"""How far long work is, on a terminal as a bar, elsewhere as a few lines."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Self, TextIO

if TYPE_CHECKING:
    from collections.abc import Callable

_BAR = 28
_BAR_EVERY_S = 0.1
_LINE_EVERY_S = 10.0
_RATE_AFTER_S = 0.5
"""A rate over less time than this says nothing."""


class Progress:
    """Shows what is done of `total` on `stream`: bytes as megabytes, or whole pieces of a `unit`.

    `clock` gives seconds. Use it as a context manager.
    """

    def __init__(
        self,
        label: str,
        total: int,
        stream: TextIO,
        *,
        unit: str = "",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._label = label
        self._total = total
        self._stream = stream
        self._unit = unit
        self._clock = clock
        self._terminal = stream.isatty()
        self._every_s = _BAR_EVERY_S if self._terminal else _LINE_EVERY_S
        self._begun: tuple[float, int] | None = None
        self._next_s = 0.0
        self._open_line = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end_line()

    def update(self, done: int) -> None:
        """`done` bytes or pieces are here now; what was there at the first call counts for no rate."""
        now = self._clock()
        self._total = max(self._total, done)  # some totals are estimates
        if self._begun is None or done < self._begun[1]:
            self._begun = now, done
        if now < self._next_s and done < self._total:
            return
        self._next_s = now + self._every_s
        text = f"{self._label}  {self._share(done)}  {self._amounts(done)}{self._rate(now, done)}"
        if self._terminal:
            self._stream.write(f"\r{text}\x1b[K")
            self._open_line = True
        else:
            self._stream.write(f"{text}\n")
        self._stream.flush()

    def note(self, text: str) -> None:
        """Says something on a line of its own."""
        self.end_line()
        self._stream.write(f"{text}\n")
        self._stream.flush()

    def end_line(self) -> None:
        """Leaves the line of the bar."""
        if self._open_line:
            self._stream.write("\n")
            self._open_line = False

    def _share(self, done: int) -> str:
        share = done / self._total if self._total else 1.0
        if not self._terminal:
            return f"{share:4.0%}"
        filled = int(share * _BAR)
        return f"[{'#' * filled}{'.' * (_BAR - filled)}] {share:4.0%}"

    def _amounts(self, done: int) -> str:
        if self._unit:
            return f"{done} of {self._total} {self._unit}"
        return f"{done / 1e6:.1f} of {self._total / 1e6:.1f} MB"

    def _rate(self, now: float, done: int) -> str:
        since, had = self._begun or (now, done)
        if now - since < _RATE_AFTER_S or done <= had:
            return ""
        rate = (done - had) / (now - since)
        left_s = int((self._total - done) / rate)
        speed = f"{rate:.1f}" if self._unit else f"{rate / 1e6:.1f} MB"
        return f"  {speed}/s  {left_s // 60}:{left_s % 60:02d} left"
