"""The operations of the control socket: checks what was asked, and says what is wrong with it in a stable code."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Protocol

from detr_sentry import __version__
from detr_sentry.controller.companion import Claim
from detr_sentry.controller.modes import MAX_DURATION_S
from detr_sentry.controller.report import event_report
from detr_sentry.errors import ControlError, StorageError
from detr_sentry.sentry.events import Mode

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from detr_sentry.controller.clock import Clock
    from detr_sentry.controller.companion import Companion
    from detr_sentry.controller.recorder import Recorder

MAX_EVENTS = 500
DEFAULT_EVENTS = 50
MAX_TEXT = 128


class Engine(Protocol):
    """What the operations need of the controller."""

    clock: Clock
    companion: Companion
    recorder: Recorder
    snapshots: Path

    def report(self, camera: str) -> dict[str, Any]: ...  # noqa: D102
    def camera_ids(self) -> list[str]: ...  # noqa: D102
    async def set_mode(self, camera: str, mode: Mode, duration_s: float | None) -> None: ...  # noqa: D102
    def claim_changed(self) -> None: ...  # noqa: D102


class Commands:
    """Call it with an operation and its arguments. Raises ControlError, whose code the API turns into a status."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._operations = {
            "ping": self._ping,
            "get_state": self._get_state,
            "set_mode": self._set_mode,
            "list_events": self._list_events,
            "get_event": self._get_event,
            "get_companion": self._get_companion,
            "set_companion": self._set_companion,
            "clear_companion": self._clear_companion,
        }

    async def __call__(self, op: str, arguments: Mapping[str, Any]) -> Any:
        """The result of an operation, as JSON can say it."""
        operation = self._operations.get(op)
        if operation is None:
            raise ControlError("unknown_op", f"there is no operation {op!r}; known: {', '.join(self._operations)}")
        try:
            return await operation(**_known(operation, arguments))
        except StorageError as error:
            raise ControlError("storage", str(error)) from error

    async def _ping(self) -> dict[str, Any]:
        return {"service": "controller", "version": __version__}

    async def _get_state(self, camera: Any = None) -> dict[str, Any]:
        if camera is None:
            return {"cameras": [self._engine.report(each) for each in self._engine.camera_ids()]}
        return self._engine.report(self._camera(camera))

    async def _set_mode(self, camera: Any = None, mode: Any = None, duration_s: Any = None) -> dict[str, Any]:
        known = self._camera(camera)
        if not isinstance(mode, str) or mode not in set(Mode):
            raise ControlError("invalid", f"mode: must be one of {', '.join(Mode)}")
        if duration_s is not None and not (_is_number(duration_s) and 0 < duration_s <= MAX_DURATION_S):
            raise ControlError("invalid", f"duration: must be seconds, above 0 and up to {MAX_DURATION_S:.0f}")
        await self._engine.set_mode(known, Mode(mode), duration_s)
        return self._engine.report(known)

    async def _list_events(self, before: Any = None, limit: Any = None, camera: Any = None) -> dict[str, Any]:
        limit = DEFAULT_EVENTS if limit is None else limit
        if not _is_number(limit) or limit != int(limit) or not 1 <= limit <= MAX_EVENTS:
            raise ControlError("invalid", f"limit: must be a whole number from 1 to {MAX_EVENTS}")
        if before is not None and not _is_text(before):
            raise ControlError("invalid", "before: must be the id of an event")
        only = None if camera is None else self._camera(camera)
        records = await self._engine.recorder.events(before=before, limit=int(limit), camera=only)
        if records is None:
            raise ControlError("unknown_event", f"there is no event {before!r}")
        return {"events": [event_report(record, self._engine.snapshots) for record in records]}

    async def _get_event(self, event_id: Any = None) -> dict[str, Any]:
        if not _is_text(event_id):
            raise ControlError("invalid", "event_id: must be the id of an event")
        record = await self._engine.recorder.event(event_id)
        if record is None:
            raise ControlError("unknown_event", f"there is no event {event_id!r}")
        return event_report(record, self._engine.snapshots)

    async def _get_companion(self) -> dict[str, Any] | None:
        claim = self._engine.companion.claim
        return None if claim is None else claim.report()

    async def _set_companion(self, ha_instance: Any = None, replace_mqtt_entities: Any = None) -> dict[str, Any]:
        if not _is_text(ha_instance):
            raise ControlError("invalid", f"ha_instance: must be text of 1 to {MAX_TEXT} characters")
        if not isinstance(replace_mqtt_entities, bool):
            raise ControlError("invalid", "replace_mqtt_entities: must be true or false")
        claim = Claim(
            ha_instance=ha_instance,
            replace_mqtt_entities=replace_mqtt_entities,
            since_ns=self._engine.clock.wall_ns(),
        )
        await self._engine.companion.take(claim)
        self._engine.claim_changed()
        return claim.report()

    async def _clear_companion(self) -> None:
        await self._engine.companion.clear()
        self._engine.claim_changed()

    def _camera(self, camera: Any) -> str:
        if not isinstance(camera, str) or camera not in self._engine.camera_ids():
            known = ", ".join(self._engine.camera_ids()) or "none"
            raise ControlError("unknown_camera", f"there is no camera {camera!r}; known: {known}")
        return camera


def _known(operation: Any, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
    names = operation.__code__.co_varnames[1 : operation.__code__.co_argcount]
    unknown = [name for name in arguments if name not in names]
    if unknown:
        raise ControlError("invalid", f"{unknown[0]}: unknown; known: {', '.join(names) or 'nothing'}")
    return arguments


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= MAX_TEXT and value.isprintable()
