"""What is wrong with a camera, in one code that people can act on. Read from the heartbeats of the other services."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from detr_sentry.ipc.heartbeat import read_heartbeat
from detr_sentry.sentry.events import State

if TYPE_CHECKING:
    from collections.abc import Iterable

    from detr_sentry.ipc.layout import Layout
    from detr_sentry.sentry.events import Status

BROKEN_LINKS = frozenset({"stalled", "gone", "refused", "unauthorized", "wrong_format"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """What the heartbeats say about one camera. `link` is the capture's word for its source, None where unknown."""

    capture_alive: bool = True
    inference_alive: bool = True
    link: str | None = None


def read_health(layout: Layout, cameras: Iterable[str], now_ns: int) -> dict[str, Health]:
    """The health of each camera. Reads a few small files; `now_ns` is monotonic."""
    inference = read_heartbeat(layout.heartbeat("inference"))
    inference_alive = inference is not None and not inference.overdue(now_ns)
    found = {}
    for camera in cameras:
        capture = read_heartbeat(layout.heartbeat("capture", camera))
        alive = capture is not None and not capture.overdue(now_ns)
        link: Any = capture.status.get("link") if capture is not None and alive else None
        found[camera] = Health(
            capture_alive=alive,
            inference_alive=inference_alive,
            link=link if isinstance(link, str) else None,
        )
    return found


def problem_code(status: Status, health: Health, *, disk: str | None, mode_lost: bool) -> str | None:
    """The one problem worth telling, the cause before the effect; None if all is well or the camera is off by choice.

    A service that is not there is told only once the camera is blind: at a start, or during a restart, it soon will be.
    """
    if mode_lost:
        return "mode_lost"
    if status.state is State.OFF:
        return None
    if health.link in BROKEN_LINKS:
        return f"camera_{health.link}"
    if status.blind:
        if not health.capture_alive:
            return "capture_dead"
        if health.link == "connecting":
            return "camera_connecting"
        if not health.inference_alive:
            return "inference_dead"
        return "blind"
    return disk
