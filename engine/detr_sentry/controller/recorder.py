"""Brings alarms to the history without ever making the event loop wait.

Changes wait in a small table, the newest of each alarm; a single worker thread owns the database. What cannot be stored
stays in the table and is tried again, so an alarm during a full disk is there when space returns. The table is bounded:
the oldest alarms are given up first (`dropped`), and only the newest few keep their pictures in memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from detr_sentry.controller.storage import problem_of, remove_file, write_file
from detr_sentry.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from detr_sentry.controller.clock import Clock
    from detr_sentry.controller.history import History
    from detr_sentry.controller.records import Change, Record

MAX_PENDING = 64
MAX_PICTURES = 8  # up to some megabytes each
RETRY_S = 5.0
PRUNE_S = 3600.0
FLUSH_S = 0.6  # of the second that a service has to end in
_PROBE_BYTES = 4096

_T = TypeVar("_T")

_log = logging.getLogger("detr_sentry.controller")


class Recorder:
    """Runs a History in its own thread. `problem` is None, `disk_full`, `disk_readonly` or `disk_error`.

    Called in the loop: `on_open(newest)` with the last alarm of each camera when the history is open, `on_problem()`
    when the problem changes, `on_picture(record)` when a picture is stored.
    """

    def __init__(
        self,
        history: History,
        clock: Clock,
        *,
        on_open: Callable[[dict[str, Record]], None] = lambda _: None,
        on_problem: Callable[[], None] = lambda: None,
        on_picture: Callable[[Record], None] = lambda _: None,
        retry_s: float = RETRY_S,
    ) -> None:
        self.problem: str | None = None
        self.dropped = 0
        self._history = history
        self._clock = clock
        self._on_open = on_open
        self._on_problem = on_problem
        self._on_picture = on_picture
        self._retry_s = retry_s
        self._pending: OrderedDict[str, Change] = OrderedDict()
        self._wake = asyncio.Event()
        self._closed = False
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="history")

    def record(self, change: Change) -> None:
        """Have a change stored, soon. Never waits, never fails."""
        key = change.record.event_id
        earlier = self._pending.pop(key, None)
        self._pending[key] = change if earlier is None else change.after(earlier)
        if len(self._pending) > MAX_PENDING:
            self._pending.popitem(last=False)
            self.dropped += 1
        with_picture = [name for name, waiting in self._pending.items() if waiting.picture is not None]
        for name in with_picture[:-MAX_PICTURES]:
            self._pending[name] = replace(self._pending[name], picture=None)
        self._wake.set()

    async def run(self, *, lasting: Collection[str] = ()) -> None:
        """Store changes until cancelled. Alarms in `lasting` went on over the restart."""
        prune_at_ns = 0
        while True:
            try:
                if not self._history.is_open:
                    await self._call(lambda: self._history.open(lasting=lasting))
                    self._on_open(await self._call(self._history.newest))
                if self._clock.monotonic_ns() >= prune_at_ns:
                    await self._call(lambda: self._history.prune(now_ns=self._clock.wall_ns()))
                    prune_at_ns = self._clock.monotonic_ns() + round(PRUNE_S * 1e9)
                if self.problem is not None and not self._pending:
                    await self._call(self._probe)
                await self._store()
                self._say(None)
            except StorageError as error:
                self._say(error)
            await self._wait()

    async def _wait(self) -> None:
        if self.problem is not None:  # a full disk is asked at a slow pace, not at that of the alarms
            await asyncio.sleep(self._retry_s)
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PRUNE_S):
                await self._wake.wait()

    async def _store(self) -> None:
        self._wake.clear()
        batch, self._pending = self._pending, OrderedDict()
        if not batch:
            return
        try:
            changes = list(batch.values())
            stored = await self._call(lambda: self._history.apply(changes, now_ns=self._clock.wall_ns()))
        except BaseException:
            newer, self._pending = self._pending, batch
            for change in newer.values():
                self.record(change)
            raise
        for record in stored:
            self._on_picture(record)

    def _probe(self) -> None:
        """Whether the disk takes something again."""
        path = self._history.snapshots / "probe.tmp"
        write_file(path, bytes(_PROBE_BYTES))
        remove_file(path)

    def _say(self, error: StorageError | None) -> None:
        problem = None if error is None else problem_of(error)
        if problem == self.problem:
            return
        self.problem = problem
        if error is None:
            _log.info("alarms are stored again")
        else:
            _log.warning("alarms cannot be stored, detection goes on: %s", error)
        self._on_problem()

    async def events(self, **query: Any) -> list[Record] | None:
        """See `History.events`. Raises StorageError."""
        return await self._call(lambda: self._history.events(**query))

    async def event(self, event_id: str) -> Record | None:
        """See `History.event`. Raises StorageError."""
        return await self._call(lambda: self._history.event(event_id))

    async def _call(self, work: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    async def close(self) -> None:
        """Store what waits, as far as that takes less than FLUSH_S, and end the thread. `run` must have ended."""
        if self._closed:
            return
        self._closed = True
        with contextlib.suppress(StorageError, TimeoutError):
            async with asyncio.timeout(FLUSH_S):
                if self._history.is_open:
                    await self._store()
                await self._call(self._history.close)
        self._thread.shutdown(wait=False, cancel_futures=True)
