"""Who is being written to, and for how long without progress: a client that takes nothing is let go."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Iterator

    from .counters import Counters

# A client may be slow for ever, but one that takes not a byte for this long only holds memory.
STALL_S = 30.0


@dataclass(slots=True)
class _Write:
    transport: asyncio.Transport
    since: float
    left: int


class WriteWatch:
    """All clients with a write under way. `sweep` is called every few seconds; it costs nothing per frame."""

    def __init__(self, counters: Counters) -> None:
        self._counters = counters
        self._writes: dict[int, _Write] = {}

    @contextmanager
    def writing(self, transport: asyncio.Transport | None, now: float) -> Iterator[None]:
        """Around one write. Raises ConnectionResetError if the client is gone already."""
        if transport is None or transport.is_closing():
            raise ConnectionResetError("the client has gone")
        self._writes[id(transport)] = _Write(transport, now, transport.get_write_buffer_size())
        try:
            yield
        finally:
            self._writes.pop(id(transport), None)

    def sweep(self, now: float) -> None:
        """Abort every write that made no progress for STALL_S; its waiter then gets ConnectionResetError."""
        for key, write in list(self._writes.items()):
            left = write.transport.get_write_buffer_size()
            if left < write.left:
                write.since, write.left = now, left
            elif left > write.left:
                write.left = left
            elif now - write.since >= STALL_S:
                self._counters.stalled_clients += 1
                del self._writes[key]
                write.transport.abort()
