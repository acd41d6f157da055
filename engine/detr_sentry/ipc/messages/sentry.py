"""The sentry message: state, mode and the rate asked of the capture (schemas/sentry.fbs)."""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import TYPE_CHECKING

from detr_sentry.errors import CorruptMessageError, IpcError
from detr_sentry.ipc.layout import check_id
from detr_sentry.ipc.ring import Lease, RingWriter

from .template import ID_BYTES, NO_TRACE, Template, text, trace_or_none

if TYPE_CHECKING:
    from pathlib import Path

_ULID_CHARACTERS = 26


class State(IntEnum):
    """What the sentry believes."""

    STANDBY = 0
    VALIDATING = 1
    ALARMED = 2
    OFF = 3


class Mode(IntEnum):
    """What the user chose."""

    AUTO = 0
    STANDBY = 1
    ALARMED = 2
    OFF = 3


_STATES = tuple(State)
_MODES = tuple(Mode)


TEMPLATE = Template(
    b"DSS1",
    scalars=[
        (2, "Q"),  # timestamp_ns
        (3, "Q"),  # since_ns
        (4, "d"),  # capture_fps
        (5, "I"),  # count
        (6, "B"),  # state
        (7, "B"),  # mode
        (8, "B"),  # blind
        (9, "25s"),  # trace
    ],
    strings=[(0, ID_BYTES), (1, _ULID_CHARACTERS)],  # camera_id, event_id
)
MESSAGE_BYTES = -(-TEMPLATE.data_offset // 8) * 8 + 8
"""With the terminating zero of the last string."""

_pack = TEMPLATE.block.pack_into
_unpack = TEMPLATE.unpack


class SentryWriter:
    """Publishes the sentry of one camera; `ring` is its ring.

    Raises:
        WriterBusyError, ShmFullError, IpcError: as `RingWriter`; also for a camera id that is none.
    """

    def __init__(self, directory: Path, *, camera_id: str, slots: int) -> None:
        self._camera_id = check_id(camera_id, "camera").encode()
        self.ring = RingWriter(directory, slot_bytes=MESSAGE_BYTES, slots=slots, prepare=TEMPLATE.prepare)

    def publish(
        self,
        *,
        state: State,
        mode: Mode,
        blind: bool,
        capture_fps: float,
        since_ns: int,
        count: int,
        event_id: str,
        timestamp_ns: int,
        trace: bytes | None = None,
    ) -> int:
        """Publishes one message and returns its sequence.

        Raises:
            ValueError: an event id that is too long, a number that does not fit; nothing is published.
            IpcError: readers hold every slot: more of them than the ring was made for.
        """
        event = event_id.encode("ascii")
        if len(event) > _ULID_CHARACTERS:
            raise ValueError(f"event id {event_id!r} is longer than a ULID")
        payload = self.ring.begin()
        if payload is None:
            raise IpcError("the sentry's state cannot be published: readers hold every slot of its ring")
        try:
            _pack(
                payload,
                TEMPLATE.block_offset,
                timestamp_ns,
                since_ns,
                capture_fps,
                count,
                state,
                mode,
                blind,
                trace or NO_TRACE,
                len(self._camera_id),
                self._camera_id,
                len(event),
                event,
            )
        except struct.error as error:
            self.ring.abort()
            raise ValueError(f"sentry message: {error}") from error
        return self.ring.publish()

    def close(self, *, unlink: bool = False) -> None:
        """Ends the writing."""
        self.ring.close(unlink=unlink)


class SentryView:
    """A checked copy of a message: it may outlive the lease.

    Raises:
        CorruptMessageError: anything that no writer of ours leaves.
    """

    __slots__ = (
        "blind",
        "camera_id",
        "capture_fps",
        "count",
        "event_id",
        "mode",
        "since_ns",
        "state",
        "timestamp_ns",
        "trace",
    )

    def __init__(self, source: Lease | memoryview) -> None:
        view = source.view if isinstance(source, Lease) else source
        (
            self.timestamp_ns,
            self.since_ns,
            self.capture_fps,
            self.count,
            state,
            mode,
            blind,
            trace,
            id_length,
            raw_id,
            event_length,
            raw_event,
        ) = _unpack(view)
        if state >= len(_STATES) or mode >= len(_MODES) or blind > 1:
            raise CorruptMessageError(f"state {state}, mode {mode}, blind {blind}")
        if not -1.0 <= self.capture_fps <= 1000.0:
            raise CorruptMessageError(f"capture rate {self.capture_fps}")
        self.state = _STATES[state]
        self.mode = _MODES[mode]
        self.blind = bool(blind)
        self.camera_id = text(raw_id, id_length, "camera id")
        self.event_id = text(raw_event, event_length, "event id")
        self.trace = trace_or_none(trace)
