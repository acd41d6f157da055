"""What the API and the outputs get to see: plain dicts, unknown is None, times as RFC 3339 in UTC. Pure."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from detr_sentry.controller.records import Record
    from detr_sentry.sentry.events import Event, Status

_LATEST_NS = 253_402_300_799 * 1_000_000_000  # the last second of the year 9999, which is where RFC 3339 ends


def rfc3339(unix_ns: int | None) -> str | None:
    """`2026-11-22T12:52:26.123Z`; None for None. A time outside the calendar becomes its end."""
    if unix_ns is None:
        return None
    moment = datetime.fromtimestamp(min(max(unix_ns, 0), _LATEST_NS) // 1_000_000 / 1000, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def camera_report(
    camera: str,
    name: str,
    status: Status,
    *,
    mode_until_ns: int | None,
    problem: str | None,
    last_event_id: str | None,
) -> dict[str, Any]:
    """One camera as `get_state` and the `state` pushes show it."""
    return {
        "id": camera,
        "name": name,
        "state": status.state.value,
        "mode": status.mode.value,
        "mode_until": rfc3339(mode_until_ns),
        "blind": status.blind,
        "problem": problem,
        "person": status.person,
        "count": status.count,
        "since": rfc3339(status.since_ns),
        "last_seen": rfc3339(status.last_seen_ns),
        "last_event_id": last_event_id,
        "event_id": status.event_id or None,
        "capture_fps": status.capture_fps,
    }


def event_push(camera: str, event: Event) -> dict[str, Any]:
    """A sentry event as the `event` pushes show it."""
    return {
        "id": event.event_id,
        "camera": camera,
        "type": event.type.value,
        "state": event.state.value,
        "previous_state": event.previous_state.value,
        "timestamp": rfc3339(event.timestamp_ns),
        "start": rfc3339(event.start_ns),
        "end": rfc3339(event.end_ns),
        "count": event.count,
    }


def event_report(record: Record, snapshots: Path) -> dict[str, Any]:
    """A stored alarm as `list_events` and `get_event` show it."""
    has_snapshot = record.snapshot_ns is not None
    return {
        "id": record.event_id,
        "camera": record.camera,
        "type": "human_detected",
        "start": rfc3339(record.start_ns),
        "end": rfc3339(record.end_ns),
        "count": record.count,
        "confidence": record.confidence,
        "box": list(record.box) if record.box else None,
        "width": record.width,
        "height": record.height,
        "snapshot": has_snapshot,
        "snapshot_path": str(snapshots / f"{record.event_id}.jpg") if has_snapshot else None,
        "snapshot_exact": record.snapshot_exact,
        "snapshot_time": rfc3339(record.snapshot_ns),
    }
