"""The messages in the rings: FlatBuffers by schemas/*.fbs, written in place and read with every length bounded.

A writer owns its ring; a view checks a message once, when it is made, and raises CorruptMessageError. Times are in
nanoseconds; boxes are in pixels of the source frame; `trace` is a W3C trace context of 25 bytes: trace id (16), span
id (8), flags (1).
"""

from __future__ import annotations

from .detections import CAPACITY, DETECTION_DTYPE, Detections, DetectionsView, DetectionsWriter, Outcome
from .frame import FrameView, FrameWriter, PixelFormat
from .sentry import Mode, SentryView, SentryWriter, State

__all__ = [
    "CAPACITY",
    "DETECTION_DTYPE",
    "Detections",
    "DetectionsView",
    "DetectionsWriter",
    "FrameView",
    "FrameWriter",
    "Mode",
    "Outcome",
    "PixelFormat",
    "SentryView",
    "SentryWriter",
    "State",
]
