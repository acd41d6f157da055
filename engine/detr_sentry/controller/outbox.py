"""What waits to be sent to the broker: of each topic the newest, of the events a bounded number. Pure.

A broker that is lost or slow costs memory for one message a topic and `MAX_EVENTS` events, and never time. What is
retained is remembered after it was sent, so that all of it can be said again to a broker that has forgotten it.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_EVENTS = 64  # at four a minute, a quarter of an hour without a broker


class Order(IntEnum):
    """What goes first. The engine is `online` only after all its states are right, or Home Assistant shows old ones."""

    STATE = 0
    ONLINE = 1
    EVENT = 2
    REST = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One publication. An empty retained payload removes what is retained."""

    topic: str
    payload: bytes
    retain: bool = True
    order: Order = Order.REST


class Outbox:
    """Take, send, then say `done`, `returned` (not sent) or `refused` (by the broker). One taker.

    `on_put` is called when there is something new to take. `dropped` counts the events that were given up.
    """

    def __init__(self, *, on_put: Callable[[], None] = lambda: None) -> None:
        self.dropped = 0
        self._on_put = on_put
        self._due: dict[str, Message] = {}
        self._kept: dict[str, Message] = {}
        self._refused: dict[str, Message] = {}
        self._events: deque[Message] = deque()

    def __len__(self) -> int:
        return len(self._due) + len(self._events)

    def put(self, message: Message, *, again: bool = False) -> None:
        """Have a message sent instead of any other of its topic; nothing if it was said already and is not `again`."""
        if message.retain:
            if not again and self._kept.get(message.topic) == message:
                return
            self._kept[message.topic] = message
        self._due.pop(message.topic, None)  # its place in the row is that of the newest
        if message.topic in self._refused:
            self._refused[message.topic] = message
            return
        self._due[message.topic] = message
        self._on_put()

    def put_event(self, message: Message) -> None:
        """Have an event sent, each in its turn; the oldest are given up where too many wait."""
        self._events.append(message)
        if len(self._events) > MAX_EVENTS:
            self._events.popleft()
            self.dropped += 1
        self._on_put()

    def take(self) -> Message | None:
        """The message to be sent now; it stays this one until `done`, `returned` or `refused`."""
        first = min(self._due.values(), key=lambda message: message.order, default=None)
        if self._events and (first is None or first.order > Order.EVENT):
            return self._events[0]
        if first is not None:
            del self._due[first.topic]
        return first

    def done(self, message: Message) -> None:
        """It was sent."""
        if self._events and self._events[0] is message:
            self._events.popleft()

    def returned(self, message: Message) -> None:
        """It was not sent: again, unless something newer of its topic waits."""
        if message.order is not Order.EVENT and self._kept.get(message.topic) is message:
            self._due.setdefault(message.topic, message)

    def refused(self, message: Message) -> None:
        """The broker does not allow it: not again before `retry_refused`."""
        self.done(message)
        if message.order is not Order.EVENT:
            self._refused[message.topic] = self._due.pop(message.topic, message)

    def retry_refused(self) -> None:
        """Try again what was refused."""
        self._due.update(self._refused)
        self._refused.clear()
        self._on_put()

    def renew(self) -> None:
        """Everything that is retained is to be said again, and nothing that was only for those who listened then."""
        self._refused.clear()
        self._due = dict(self._kept)
        self._on_put()

    def forget(self, topic: str) -> None:
        """No longer remember what was retained there."""
        self._kept.pop(topic, None)

    def retained(self) -> set[str]:
        """The topics under which something is to stay on the broker."""
        return {topic for topic, message in self._kept.items() if message.payload}
