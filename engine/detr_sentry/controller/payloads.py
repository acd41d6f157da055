"""What is said on each topic: see `schemas/mqtt.schema.json`. Pure; unknown is null, times are RFC 3339 in UTC."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from detr_sentry.controller.report import rfc3339
from detr_sentry.models.coco import COCO_LABELS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from detr_sentry.ipc.messages import DetectionsView

_PERSON = {True: b"ON", False: b"OFF", None: b"None"}


def to_json(document: Any) -> bytes:
    """A document as compact JSON. Numbers must be finite."""
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def person(report: Mapping[str, Any]) -> bytes:
    """`ON`, `OFF`, or `None` where nobody can know."""
    return _PERSON[report["person"]]


def state(report: Mapping[str, Any]) -> dict[str, Any]:
    """The `state` of a camera's report, without what changes by itself."""
    return {
        key: report[key] for key in ("state", "mode", "since", "count", "blind", "problem", "event_id", "last_event_id")
    }


def event(device_id: str, report: Mapping[str, Any]) -> bytes:
    """An event of `report.event_push`."""
    return to_json(
        {
            "device_id": device_id,
            "timestamp": report["timestamp"],
            "state": report["state"],
            "previous_state": report["previous_state"],
            "event_type": report["type"],
            "event_id": report["id"],
        }
    )


def health(capture: Mapping[str, Any], inference: Mapping[str, Any], camera: str) -> bytes:
    """A camera's `health` out of the heartbeats' status; an empty status is a service that does not run."""
    cameras = inference.get("cameras")
    measured = cameras.get(camera) if isinstance(cameras, dict) else None
    return to_json(
        {
            "fps": _number(capture.get("fps")),
            "inference_ms": _number(measured.get("inference_ms")) if isinstance(measured, dict) else None,
            "provider": _text(inference.get("provider")),
            "model": _text(inference.get("model")),
            "drops": _counts(capture.get("drops")),
            "link": _text(capture.get("link")),
        }
    )


def info(*, instance: str, name: str, version: str, url: str) -> bytes:
    """The engine's `info`: where its API is, and never a token."""
    return to_json({"instance_id": instance, "name": name, "version": version, "url": url})


def detections(view: DetectionsView) -> bytes:
    """What was found in one frame; boxes in pixels of the source frame."""
    return to_json(
        {
            "frame_number": view.frame_number,
            "timestamp": rfc3339(view.timestamp_ns),
            "width": view.width,
            "height": view.height,
            "detections": [
                {
                    "label": COCO_LABELS.get(class_id, f"class {class_id}"),
                    "class_id": class_id,
                    "confidence": round(confidence, 4),
                    "track_id": track_id,
                    "box": [round(x1, 1), round(y1, 1), round(x2, 1), round(y2, 1)],
                }
                for x1, y1, x2, y2, confidence, class_id, _zones, track_id in view.detections.tolist()
            ],
        }
    )


def _number(value: Any) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return value if is_number and 0 <= value < float("inf") else None


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _counts(value: Any) -> dict[str, int] | None:
    if not isinstance(value, dict):
        return None
    return {str(reason): count for reason, count in value.items() if type(count) is int and count >= 0}
