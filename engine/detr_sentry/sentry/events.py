"""What the sentry tells the world: states, modes, the status and the events. Values only."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from ulid import ULID

from detr_sentry.sentry.rules import Box  # noqa: TC001 - part of public values, readable at run time


class State(StrEnum):
    """Where the sentry stands."""

    STANDBY = "standby"
    VALIDATING = "validating"
    ALARMED = "alarmed"
    OFF = "off"


class Mode(StrEnum):
    """What the user wants. `standby` and `alarmed` force only the capture rate; the person sensor tells the truth."""

    AUTO = "auto"
    STANDBY = "standby"
    ALARMED = "alarmed"
    OFF = "off"


class EventType(StrEnum):
    """What happened. Every `human_detected` is followed by one `standby_resumed` of the same id, also through off."""

    VALIDATION_STARTED = "validation_started"
    HUMAN_DETECTED = "human_detected"
    STANDBY_RESUMED = "standby_resumed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Best:
    """The frame that shows the person best: highest score x area. `box` in pixels of a `width` x `height` frame."""

    capture_epoch: int
    frame_number: int
    timestamp_ns: int
    box: Box
    width: int
    height: int
    merit: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One event. `event_id` is the ULID of the episode: a validation, and the alarm that grows out of it.

    Times are Unix nanoseconds of the frames that decided. `start_ns` is the first frame of the validation for
    `validation_started` and the confirming frame otherwise; `end_ns` is None until the alarm has ended.
    `count` is the highest number of persons seen at once, `best` the best frame (both since the confirming frame).
    """

    event_id: str
    type: EventType
    state: State
    previous_state: State
    timestamp_ns: int
    start_ns: int
    end_ns: int | None = None
    count: int = 0
    best: Best | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """What is true now.

    `person` and `count` are None where nobody can know: off, blind, or nothing seen yet. `capture_fps` is the rate
    wanted: 0 closed, -1 the camera's own full rate. `since_ns` and `last_seen_ns` are Unix nanoseconds. `event_id` is
    "" in standby and off.
    """

    state: State
    mode: Mode
    blind: bool
    capture_fps: float
    since_ns: int
    person: bool | None
    count: int | None
    event_id: str
    last_seen_ns: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What one input did. `used` is False for duplicates, late frames and anything while off.

    `candidate` is this frame's best person while alarmed, for a controller that keeps the best picture of an alarm.
    """

    status: Status
    changed: bool
    used: bool = False
    events: tuple[Event, ...] = ()
    candidate: Best | None = None


def new_event_id(timestamp_ns: int) -> str:
    """A ULID of the given time, 26 characters; random beyond the millisecond."""
    return str(ULID.from_timestamp(max(timestamp_ns, 0) // 1_000_000))
