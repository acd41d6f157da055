"""The newest detections of a camera, as the gateway shows them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypedDict

if TYPE_CHECKING:
    from collections.abc import Mapping

    from detr_sentry.ipc.messages import DetectionsView

# Boxes older than this point at where somebody was: they are not shown (trial 27).
FRESH_S = 1.0
_FRESH_NS = int(FRESH_S * 1e9)


class Detection(TypedDict):
    """One box in pixels of the source frame."""

    x1: float
    y1: float
    x2: float
    y2: float
    confidence: float
    class_id: int
    label: str
    track_id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Detections:
    """One detections message. `found` is empty for a gated frame."""

    frame_number: int
    capture_epoch: int
    timestamp_ns: int
    captured_monotonic_ns: int
    inferred: bool
    provider: str
    inference_ns: int
    found: tuple[Detection, ...] = field(repr=False)

    @classmethod
    def of(cls, view: DetectionsView, labels: Mapping[int, str], *, inferred: bool) -> Detections:
        """Copied from a view, so that nothing of it outlives the lease."""
        found = tuple(
            Detection(
                x1=round(x1, 1),
                y1=round(y1, 1),
                x2=round(x2, 1),
                y2=round(y2, 1),
                confidence=round(confidence, 4),
                class_id=class_id,
                label=labels.get(class_id, f"class {class_id}"),
                track_id=track_id,
            )
            for x1, y1, x2, y2, confidence, class_id, _zone_mask, track_id in view.detections.tolist()
        )
        return cls(
            frame_number=view.frame_number,
            capture_epoch=view.capture_epoch,
            timestamp_ns=view.timestamp_ns,
            captured_monotonic_ns=view.captured_monotonic_ns,
            inferred=inferred,
            provider=view.provider,
            inference_ns=view.inference_ns,
            found=found,
        )

    @property
    def identity(self) -> tuple[int, int]:
        """(capture epoch, frame number) of the frame that was looked at."""
        return self.capture_epoch, self.frame_number

    def age_ms(self, now_ns: int) -> float:
        """Milliseconds of the monotonic clock since the frame was captured."""
        return max(0.0, round((now_ns - self.captured_monotonic_ns) / 1e6, 1))

    def fresh(self, now_ns: int) -> bool:
        """Whether the boxes may still be shown."""
        return now_ns - self.captured_monotonic_ns <= _FRESH_NS
