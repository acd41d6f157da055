"""The source that a camera's settings name; each kind's libraries are loaded only when it is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from detr_sentry.errors import SettingsError
from detr_sentry.source_url import parse_source

if TYPE_CHECKING:
    from detr_sentry.capture.source import Source
    from detr_sentry.settings import CameraSettings

STREAMS: Final = frozenset({"rtsp", "rtsps", "http", "https", "file"})


def make_source(camera: CameraSettings) -> Source:
    """The unopened source of `camera`. Raises SettingsError."""
    spec = parse_source(camera.source)
    if spec.scheme == "v4l2":
        from detr_sentry.capture.v4l2 import V4l2Source

        return V4l2Source(spec, camera)
    if spec.scheme == "demo":
        from detr_sentry.capture.demo import DemoSource

        return DemoSource(spec, camera)
    if spec.scheme == "replay":
        from detr_sentry.capture.replay import ReplaySource

        return ReplaySource(spec, camera)
    if camera.standby_source is None:
        from detr_sentry.capture.stream import StreamSource

        return StreamSource(spec, camera)
    from detr_sentry.capture.standby import StandbyPair

    standby = parse_source(camera.standby_source)
    if standby.scheme not in STREAMS:
        raise SettingsError("standby_source", f"{standby.redacted} must be a stream of the same network camera")
    return StandbyPair(spec, standby, camera)
