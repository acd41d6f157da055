"""Where the controller's news go: the control socket's subscribers, and whatever else is plugged in (MQTT).

An output is told everything in the event loop and must return at once: it keeps the newest of each kind and sends from
its own `run`. Reports are the plain dicts of `report`; `trace` is the W3C trace context of the frame that caused the
news.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from detr_sentry.controller.companion import Claim
    from detr_sentry.ipc.control import ControlServer


class Output(Protocol):
    """Something that tells people."""

    name: str

    async def run(self) -> None:
        """Send until cancelled. If it raises, the controller logs it and runs it again after a pause."""

    def camera_changed(self, report: dict[str, Any], trace: bytes | None) -> None:
        """The state, mode, count or problem of a camera is now `report`; told once for each camera at the start."""

    def detections_read(self, camera: str) -> None:
        """The newest detections of a camera have just been used; they and their frame are in the rings."""

    def status(self) -> dict[str, Any]:
        """For the heartbeat."""

    def event(self, report: dict[str, Any], trace: bytes | None) -> None:
        """Something happened: validation_started, human_detected or standby_resumed."""

    def picture_stored(self, report: dict[str, Any]) -> None:
        """An alarm has a new best picture; `report` is the stored event, with its path."""

    def companion_changed(self, claim: Claim | None) -> None:
        """The companion's claim is now this; told once at the start."""


class ControlOutput:
    """Pushes to the subscribers of the control socket."""

    name = "control"

    def __init__(self, server: ControlServer) -> None:
        self._server = server

    async def run(self) -> None:
        """The server sends by itself."""

    def camera_changed(self, report: dict[str, Any], trace: bytes | None) -> None:  # noqa: ARG002 - for spans
        """Latest wins, by camera."""
        self._server.push("state", {"camera": report}, key=report["id"])

    def detections_read(self, camera: str) -> None:
        """Not told to subscribers: they read the rings."""

    def status(self) -> dict[str, Any]:
        """The server's counters."""
        return {"refused": self._server.refused, "dropped_clients": self._server.dropped_clients}

    def event(self, report: dict[str, Any], trace: bytes | None) -> None:  # noqa: ARG002 - for spans
        """Every one, as far as a subscriber keeps up."""
        self._server.push("event", {"event": report})

    def picture_stored(self, report: dict[str, Any]) -> None:
        """Latest wins, by camera."""
        self._server.push("picture", {"event": report}, key=report["camera"])

    def companion_changed(self, claim: Claim | None) -> None:
        """Latest wins."""
        self._server.push("companion", {"companion": None if claim is None else claim.report()}, key="")
