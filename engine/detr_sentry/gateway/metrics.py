"""The counters in Prometheus' text format 0.0.4."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from .gateway import Gateway

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_PREFIX = "detr_sentry"
_COUNTERS = {
    "encoded": ("gateway_jpeg_encoded_total", "JPEGs encoded by the gateway"),
    "frames_copied": ("gateway_frames_copied_total", "Frames copied out of shared memory"),
    "frames_sent": ("gateway_frames_sent_total", "Frames sent to viewers"),
    "frames_skipped": ("gateway_frames_skipped_total", "Frames that a viewer did not take in time"),
    "bytes_sent": ("gateway_stream_bytes_total", "Bytes of video sent"),
    "bad_frames": ("gateway_bad_frames_total", "Frames that could not be encoded"),
    "corrupt_messages": ("gateway_corrupt_messages_total", "Messages in shared memory that broke their layout"),
    "stalled_clients": ("gateway_stalled_clients_total", "Clients let go because they took nothing"),
    "live_resyncs": ("gateway_live_resyncs_total", "Live listeners that were behind and got a new snapshot"),
}
_CAMERA_GAUGES = {
    "fps": ("camera_fps", "Frames per second delivered by the camera", 1.0),
    "frame_age_ms": ("camera_frame_age_seconds", "Age of the newest frame", 1e-3),
    "detection_age_ms": ("camera_detection_age_seconds", "Age of the frame of the newest detections", 1e-3),
    "inference_ms": ("camera_inference_seconds", "Time of the last model run", 1e-3),
    "count": ("camera_persons", "People that the sentry counts", 1.0),
}
_STATES = ("standby", "validating", "alarmed", "off")


def render_metrics(gateway: Gateway) -> str:
    """Every counter of the gateway and the measures of every camera."""
    return "\n".join([*_gateway(gateway), *_cameras(gateway.cameras()), ""])


def _gateway(gateway: Gateway) -> Iterator[str]:
    counters = gateway.counters
    for attribute, (name, text) in _COUNTERS.items():
        yield from _family(name, "counter", text, [({}, getattr(counters, attribute))])
    yield from _family("gateway_viewers", "gauge", "Viewers connected now", [({}, counters.viewers)])
    yield from _family("gateway_live_listeners", "gauge", "Live listeners connected now", [({}, counters.live)])
    requests = [({"status": str(status)}, count) for status, count in sorted(counters.requests.items())]
    yield from _family("gateway_requests_total", "counter", "Requests answered, by status", requests)
    refused = [({"code": code}, count) for code, count in sorted(counters.refused.items())]
    yield from _family("gateway_refused_total", "counter", "Requests refused, by reason", refused)
    services = [({"service": service}, int(gateway.beats.up(service))) for service in ("inference", "controller")]
    yield from _family("service_up", "gauge", "Whether the service's heartbeat is in time", services)


def _cameras(cameras: list[dict[str, Any]]) -> Iterator[str]:
    for key, (name, text, factor) in _CAMERA_GAUGES.items():
        known = [({"camera": camera["id"]}, camera[key] * factor) for camera in cameras if camera[key] is not None]
        yield from _family(name, "gauge", text, known)
    states = [
        ({"camera": camera["id"], "state": state}, int(camera["state"] == state))
        for camera in cameras
        for state in _STATES
    ]
    yield from _family("camera_state", "gauge", "1 for the state that the sentry is in", states)
    problems = [({"camera": camera["id"]}, int(camera["problem"] is not None)) for camera in cameras]
    yield from _family("camera_problem", "gauge", "Whether the camera has a problem", problems)
    drops = [
        ({"camera": camera["id"], "reason": reason}, count)
        for camera in cameras
        for reason, count in (camera["drops"] or {}).items()
    ]
    yield from _family("camera_drops_total", "counter", "Frames dropped at capture, by reason", drops)


def _family(name: str, kind: str, text: str, samples: Iterable[tuple[Mapping[str, str], float]]) -> Iterator[str]:
    full = f"{_PREFIX}_{name}"
    yield f"# HELP {full} {text}"
    yield f"# TYPE {full} {kind}"
    for labels, value in samples:
        shown = ",".join(f'{key}="{_escape(content)}"' for key, content in labels.items())
        yield f"{full}{{{shown}}} {value}" if shown else f"{full} {value}"


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
