"""A camera as the API describes it: what rings, heartbeats and the controller say, put together. Unknown is None."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from detr_sentry.ipc.messages import State
from detr_sentry.source_url import redact

if TYPE_CHECKING:
    from collections.abc import Mapping

    from detr_sentry.settings import CameraSettings

    from .beats import Beats
    from .feed import CameraFeed

# Keys that move with every frame: a change of these alone is told at a slow pace.
MEASURES = frozenset({"fps", "frame_age_ms", "detection_age_ms", "inference_ms", "drops", "last_seen"})


def rfc3339(unix_ns: int | None) -> str | None:
    """`2026-11-22T12:34:56.789Z`; None for an unknown time."""
    if not unix_ns:
        return None
    try:
        moment = datetime.fromtimestamp(unix_ns / 1e9, UTC)
    except (OverflowError, ValueError, OSError):
        return None
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def describe_camera(
    settings: CameraSettings,
    feed: CameraFeed,
    beats: Beats,
    control: Mapping[str, Any] | None,
    now_ns: int,
) -> dict[str, Any]:
    """The camera object of `GET /api/v1/cameras`.

    `control` is the controller's own word on the camera, None while it cannot be reached; `now_ns` is the monotonic
    clock.
    """
    capture = beats.status(f"capture.{settings.id}")
    inference = beats.status("inference")
    frame, newest = feed.frame, feed.detections
    measured = _of(_of(inference, "cameras"), settings.id)
    inference_ms = round(feed.inference_ns / 1e6, 2) if feed.inference_ns else _number(measured.get("inference_ms"))
    said = control or {}
    return {
        "id": settings.id,
        "name": settings.name,
        **describe_state(settings.id, feed, beats, control),
        "mode_until": said.get("mode_until"),
        "since": rfc3339(feed.sentry.since_ns) if _controlled(feed, beats, control) and feed.sentry else None,
        "fps": feed.fps,
        "frame_age_ms": max(0.0, round((now_ns - frame.captured_monotonic_ns) / 1e6, 1)) if frame else None,
        "detection_age_ms": newest.age_ms(now_ns) if newest else None,
        "inference_ms": inference_ms if inference or (newest and newest.fresh(now_ns)) else None,
        "provider": inference.get("provider") or (newest.provider if newest and newest.fresh(now_ns) else None) or None,
        "model": inference.get("model"),
        "width": frame.width if frame else capture.get("width"),
        "height": frame.height if frame else capture.get("height"),
        "pixel_format": frame.pixel_format.name if frame else capture.get("pixel_format"),
        "drops": capture.get("drops"),
        "link": capture.get("link"),
        "last_seen": said.get("last_seen"),
        "last_event_id": said.get("last_event_id") or feed.last_event_id,
        "source": redact(settings.source),
    }


def describe_state(camera: str, feed: CameraFeed, beats: Beats, control: Mapping[str, Any] | None) -> dict[str, Any]:
    """State, mode, blind, problem and count: what also goes out with every frame of the stream."""
    sentry = feed.sentry if _controlled(feed, beats, control) else None
    return {
        # A closed camera stays closed while nobody controls it, so `off` is the one state that is always true.
        "state": "off" if feed.off else sentry.state.name.lower() if sentry else None,
        "mode": sentry.mode.name.lower() if sentry else None,
        "blind": sentry.blind if sentry else None,
        "count": sentry.count if sentry and not sentry.blind and sentry.state is not State.OFF else None,
        "problem": _problem(camera, feed, beats, control),
    }


def public_event(event: Mapping[str, Any]) -> dict[str, Any]:
    """An event without the paths of this machine."""
    return {key: value for key, value in event.items() if key != "snapshot_path"}


def _controlled(feed: CameraFeed, beats: Beats, control: Mapping[str, Any] | None) -> bool:
    """Whether the sentry ring speaks of now: its writer, the controller, is there."""
    return feed.sentry is not None and (control is not None or beats.up("controller"))


def _problem(camera: str, feed: CameraFeed, beats: Beats, control: Mapping[str, Any] | None) -> str | None:
    """Why this camera does not work, in the controller's codes; None if it does, or if it is off on purpose."""
    if control is not None and "problem" in control:
        problem = control["problem"]
        return str(problem) if problem else None
    if not _controlled(feed, beats, control):
        return "controller_dead"
    if feed.off:
        return None
    if not beats.up(f"capture.{camera}"):
        return "capture_dead"
    if not beats.up("inference"):
        return "inference_dead"
    return "blind" if feed.sentry is not None and feed.sentry.blind else None


def _of(mapping: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = mapping.get(key)
    return value if isinstance(value, dict) else {}


def _number(value: Any) -> float | None:
    return round(float(value), 2) if isinstance(value, int | float) and not isinstance(value, bool) else None
