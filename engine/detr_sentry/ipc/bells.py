"""Bells wake a waiting process: POSIX message queues that carry no data.

One queue per consumer, opened by whoever comes first and never unlinked by a service. Nothing blocks: a full queue
already rings. Every wait has a time-out, so a lost bell costs time and never a frame.
"""

from __future__ import annotations

import os
import re
import select
import time

import posix_ipc

from detr_sentry.errors import IpcError, QueueLimitError

MESSAGES = 8
MESSAGE_BYTES = 8
"""Small on purpose: the kernel counts bytes per user (`ulimit -q`); its default holds 250 queues of 8 x 8 bytes."""

_NAME = re.compile(r"/[A-Za-z0-9_.]{1,254}")

_CHECK_S = 0.25
"""How long a bell may ring into a queue that was unlinked behind it."""


class Bell:
    """One consumer's queue: producers `ring`, the consumer waits and `drain`s. An object belongs to one thread.

    A queue that was unlinked under a running service (by `doctor --clean`, say) is made anew: producers look every
    250 ms, the consumer on every time-out. Its descriptor changes then, so an event loop calls `refresh` on its own
    time-outs and registers `fileno` again where that says True.

    Raises:
        QueueLimitError: the kernel allows no more queues.
        IpcError: the queue belongs to another user, or its name is none.
    """

    def __init__(self, name: str) -> None:
        self._queue: posix_ipc.MessageQueue | None = None
        if _NAME.fullmatch(name) is None:
            raise IpcError(f"bell {name!r}: a name is / and up to 254 letters, digits, dots and underscores")
        self.name = name
        self._queue = _open(name)
        self._check_at = time.monotonic() + _CHECK_S

    def ring(self) -> None:
        """Wakes the consumer, now or when it next waits; never blocks."""
        if time.monotonic() >= self._check_at:
            self.refresh()
        try:
            self._handle().send(b"!")
        except posix_ipc.BusyError:
            return

    def drain(self) -> int:
        """Empties the queue; returns how often it was rung."""
        queue = self._handle()
        for count in range(MESSAGES):
            try:
                queue.receive()
            except posix_ipc.BusyError:
                return count
        return MESSAGES

    def wait(self, timeout_s: float) -> bool:
        """True as soon as the bell rings (and drains it), False after `timeout_s`."""
        poll = select.poll()
        poll.register(self._handle().mqd, select.POLLIN)
        if poll.poll(max(0.0, timeout_s) * 1000.0):
            return self.drain() > 0
        self.refresh()
        return False

    def refresh(self) -> bool:
        """Makes the queue anew where it was unlinked; True where it did, so that `fileno` has changed."""
        self._check_at = time.monotonic() + _CHECK_S
        queue = self._handle()
        if os.fstat(queue.mqd).st_nlink:
            return False
        self._queue = _open(self.name)
        queue.close()
        return True

    def fileno(self) -> int:
        """The descriptor for `select` and event loops: readable while the bell rings."""
        return int(self._handle().mqd)

    def close(self) -> None:
        """Closes this end; the queue stays."""
        queue, self._queue = self._queue, None
        if queue is not None:
            queue.close()

    def __del__(self) -> None:
        self.close()

    @staticmethod
    def unlink(name: str) -> bool:
        """Removes a queue, for when all services have ended; False where there was none."""
        try:
            posix_ipc.unlink_message_queue(name)
        except posix_ipc.ExistentialError:
            return False
        return True

    def _handle(self) -> posix_ipc.MessageQueue:
        if self._queue is None:
            raise IpcError(f"bell {self.name} is closed")
        return self._queue


def _open(name: str) -> posix_ipc.MessageQueue:
    try:
        queue = posix_ipc.MessageQueue(
            name, posix_ipc.O_CREAT, mode=0o600, max_messages=MESSAGES, max_message_size=MESSAGE_BYTES
        )
    except posix_ipc.PermissionsError as error:
        raise IpcError(
            f"bell {name} belongs to another user, who can remove it (detr-sentry doctor --clean)"
        ) from error
    except (OSError, ValueError, MemoryError) as error:  # the library keeps no errno to tell the limits apart
        raise QueueLimitError(
            f"bell {name}: the kernel refused a queue of {MESSAGES} x {MESSAGE_BYTES} bytes ({error}). Raise the bytes "
            f"per user (ulimit -q), sysctl fs.mqueue.queues_max, fs.mqueue.msg_max (at least {MESSAGES}) or open files "
            "(ulimit -n), or remove queues that were left over (detr-sentry doctor --clean)"
        ) from error
    queue.block = False
    return queue
