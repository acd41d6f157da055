"""What is said about one camera, and when: at once what matters, seldom what flickers. Pure, clocked by the caller.

Every change of state, mode, blindness or problem is told at once. A count that changes while people walk about is told
at most every `COUNT_EVERY_S`: ten minutes of presence stay far below 40 writes of Home Assistant's recorder.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from detr_sentry.controller import payloads
from detr_sentry.controller.outbox import Message, Order
from detr_sentry.controller.topics import OFFLINE, ONLINE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from detr_sentry.controller.topics import CameraTopics

COUNT_EVERY_S = 30.0
ALARM_PICTURE_EVERY_S = 60.0  # each is a write of the recorder; the first and the last of an alarm do not wait
SNAPSHOT_EVERY_S = 0.5  # all that Home Assistant shows of an MQTT camera
QUIET_SNAPSHOT_EVERY_S = 10.0
DETECTIONS_EVERY_S = 0.2


class Announcer:
    """Turns the reports of one camera into messages. Times in seconds of one monotonic clock."""

    def __init__(self, topics: CameraTopics) -> None:
        self.topics = topics
        self.state = ""
        self.last_event_id: str | None = None
        self._said: dict[str, Any] = {}
        self._report: Mapping[str, Any] | None = None
        self._said_s = 0.0
        self._snapshot_s = self._detections_s = 0.0
        self._alarm_picture: str | None = None
        self._alarm_picture_s = 0.0

    def changed(self, report: Mapping[str, Any], now_s: float) -> list[Message]:
        """The messages of a new report of the controller."""
        self._report = report
        if report["state"] != self.state and report["state"] in {"alarmed", "off"}:
            self._snapshot_s = 0.0
        self.state, self.last_event_id = report["state"], report["last_event_id"]
        person = Message(topic=self.topics.person, payload=payloads.person(report), order=Order.STATE)
        available = OFFLINE if report["blind"] else ONLINE
        availability = Message(topic=self.topics.availability, payload=available, order=Order.STATE)
        # The state of which nobody can know must not be seen as known, not even for a moment.
        messages = [availability, person] if report["blind"] else [person, availability]
        messages += self.due(now_s)
        if report["state"] == "off":
            messages.append(Message(topic=self.topics.snapshot, payload=b"", order=Order.STATE))
        return messages

    def due(self, now_s: float) -> list[Message]:
        """The state where it has changed and the time has come to say so."""
        if self._report is None:
            return []
        state = payloads.state(self._report)
        if state == self._said:
            return []
        only_count = {**state, "count": self._said.get("count")} == self._said and None not in {
            state["count"],
            self._said.get("count"),
        }
        if only_count and now_s - self._said_s < COUNT_EVERY_S:
            return []
        self._said, self._said_s = state, now_s
        return [Message(topic=self.topics.state, payload=payloads.to_json(state), order=Order.STATE)]

    def snapshot_is_due(self, now_s: float) -> bool:
        """Whether the camera should be shown again; counts as shown if so. Never while it is off."""
        every_s = SNAPSHOT_EVERY_S if self.state == "alarmed" else QUIET_SNAPSHOT_EVERY_S
        if self.state in {"", "off"} or (self._snapshot_s and now_s - self._snapshot_s < every_s):
            return False
        self._snapshot_s = now_s
        return True

    def detections_are_due(self, now_s: float) -> bool:
        """Whether boxes may be sent again; counts as sent if so."""
        if self.state in {"", "off"} or now_s - self._detections_s < DETECTIONS_EVERY_S:
            return False
        self._detections_s = now_s
        return True

    def alarm_picture_is_due(self, event_id: str, now_s: float) -> bool:
        """Whether the picture of an alarm should be sent now; counts as sent if so."""
        fresh = event_id != self._alarm_picture
        if not fresh and self.state == "alarmed" and now_s - self._alarm_picture_s < ALARM_PICTURE_EVERY_S:
            return False
        self._alarm_picture, self._alarm_picture_s = event_id, now_s
        return True
