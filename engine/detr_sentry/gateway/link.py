"""The link to the controller: calls, and the pushes by which it tells what changed."""

from __future__ import annotations

import asyncio
import logging
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from detr_sentry.errors import ControlError, IpcError
from detr_sentry.ipc.control import ControlClient

from .problems import ProblemError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

log = logging.getLogger("detr_sentry.gateway")

# A controller that restarts is back within a second; a missing one must not cost more than a look now and then.
_FIRST_RETRY_S = 0.1
_LAST_RETRY_S = 1.0


class LinkState(StrEnum):
    """Whether the controller can be reached."""

    DOWN = "down"
    UP = "up"


class ControllerLink:
    """Keeps a subscription alive while `run` runs.

    `cameras` holds the controller's newest word on each camera, `companion` who claims the engine.
    `on_push(kind, value)` is told of `state`, `event`, `picture`, `companion` and of the `link` itself.
    """

    def __init__(self, socket: Path, on_push: Callable[[str, Mapping[str, Any]], None]) -> None:
        self._client = ControlClient(socket)
        self._socket = socket
        self._on_push = on_push
        self.state = LinkState.DOWN
        self.cameras: dict[str, Mapping[str, Any]] = {}
        self.companion: Mapping[str, Any] | None = None

    async def run(self) -> None:
        """Subscribe, and again whenever the controller went; ends only by cancellation."""
        retry_s = _FIRST_RETRY_S
        while True:
            try:
                async for push in ControlClient(self._socket).subscribe():
                    retry_s = _FIRST_RETRY_S
                    if self.state is LinkState.DOWN:
                        self._enter(LinkState.UP)
                    self._take(push)
            except (ControlError, IpcError, OSError) as error:
                log.debug("control socket: %s", error)
            if self.state is LinkState.UP:
                self._enter(LinkState.DOWN)
            await asyncio.sleep(retry_s)
            retry_s = min(_LAST_RETRY_S, 2 * retry_s)

    async def call(self, op: str, **arguments: Any) -> Any:
        """The controller's answer. Raises ProblemError 503 `no_controller` without one, ControlError if it refuses."""
        try:
            return await self._client.call(op, **arguments)
        except ControlError as error:
            if error.code == "unavailable":
                raise ProblemError(503, "no_controller", "the controller does not answer: is it running?") from error
            raise

    async def close(self) -> None:
        """Close the connection for calls."""
        await self._client.close()

    def _take(self, push: Mapping[str, Any]) -> None:
        match push:
            case {"push": "state", "camera": {"id": str(camera)} as said}:
                self.cameras[camera] = said
                self._on_push("state", said)
            case {"push": "event", "event": dict(event)}:
                self._on_push("event", event)
            case {"push": "picture", "event": dict(event)}:
                self._on_push("picture", event)
            case {"push": "companion"}:
                self.companion = push.get("companion")
                self._on_push("companion", self.companion or {})

    def _enter(self, state: LinkState) -> None:
        self.state = state
        if state is LinkState.UP:
            log.info("the controller answers")
        else:
            log.warning("the controller has gone; modes and events are unavailable until it is back")
            self.cameras.clear()
            self.companion = None
        self._on_push("link", {"state": state})
