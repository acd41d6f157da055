"""False alarms where nobody is: the detector on every frame, and the sentry's own state machine over each stretch.

This is harder than life. The motion gate is left out: every frame is inferred. Each stretch has a fresh sentry, so that
each can raise an alarm. Photos and the demo count as one frame per 1 / standby rate, clips by their own time.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import simplejpeg

from detr_sentry.ipc.messages import PixelFormat
from detr_sentry.sentry.events import EventType
from detr_sentry.sentry.fsm import Observation, Sentry
from detr_sentry.sentry.rules import PERSON_CLASS_ID, Box, candidates

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    import numpy.typing as npt

    from detr_sentry.evaluation.empties import EmptySource, Stretch
    from detr_sentry.inference.model import Detector
    from detr_sentry.settings import SentrySettings

CONFIDENCE = 0.95
HIGHER = (0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)
"""Enter thresholds that are tried beside that of the rules, on the same scores: what a stricter sentry would do."""
_HOUR_S = 3600.0
_NS = 1_000_000_000


@dataclass(slots=True)
class _Tally:
    """What was counted; `digests` tell frames apart by their pixels."""

    frames: int = 0
    seconds: float = 0.0
    believed: int = 0
    alarms: int = 0
    highest: float = 0.0
    highest_at: str = ""
    digests: set[bytes] = field(default_factory=set)
    stricter: Counter[float] = field(default_factory=Counter)

    def add(self, other: _Tally) -> None:
        self.frames += other.frames
        self.seconds += other.seconds
        self.believed += other.believed
        self.alarms += other.alarms
        self.digests |= other.digests
        self.stricter.update(other.stricter)
        if other.highest > self.highest:
            self.highest, self.highest_at = other.highest, other.highest_at

    def figures(self) -> dict[str, Any]:
        hours = self.seconds / _HOUR_S
        return {
            "frames": self.frames,
            "distinct_frames": len(self.digests),
            "hours": round(hours, 4),
            "frames_at_enter_threshold": self.believed,
            "alarms": self.alarms,
            "alarms_per_hour": round(self.alarms / hours, 3) if hours else None,
            "alarms_per_hour_at_most": round(most_alarms(self.alarms) / hours, 3) if hours else None,
            "highest_score": round(self.highest, 4),
            "highest_at": self.highest_at,
        }


class FalseAlarms:
    """Counts the false alarms of a detector under `rules`; `keep` is a folder for the frames that fooled it."""

    def __init__(
        self, detector: Detector, rules: SentrySettings, *, standby_fps: float, keep: Path | None = None
    ) -> None:
        self._detector = detector
        self._rules = rules
        self._standby_fps = standby_fps
        self._keep = keep

    def count(
        self, sources: Sequence[EmptySource], progress: Callable[[int], None] = lambda _done: None
    ) -> dict[str, Any]:
        """The figures of each source and of all together; `progress` hears how many frames are done.

        Raises SourceError, and ModelError's kinds.
        """
        total = _Tally()
        by_source = []
        for source in sources:
            tally = _Tally()
            for stretch in source.stretches():
                tally.add(self._watch(stretch, _After(total.frames + tally.frames, progress)))
            by_source.append({"kind": source.kind, "source": source.text, **tally.figures()})
            total.add(tally)
        return {
            "model": self._detector.contract.name,
            "backend": self._detector.backend.name,
            "provider": self._detector.backend.provider,
            "enter_threshold": self._rules.enter_threshold,
            "stay_threshold": self._rules.stay_threshold,
            "validation": f"{self._rules.hits} of {self._rules.window}",
            "standby_fps": self._standby_fps,
            "assumption": "photos and demo at standby_fps, clips in their own time; every frame inferred (no motion "
            "gate); a fresh sentry for each photo, stretch and seed",
            "confidence": CONFIDENCE,
            "sources": by_source,
            "total": total.figures(),
            "alarms_by_threshold": {f"{enter:g}": total.stricter[enter] for enter in self._thresholds()},
            "model_sha256": self._detector.contract.sha256,
        }

    def _watch(self, stretch: Stretch, progress: Callable[[int], None]) -> _Tally:
        tally = _Tally()
        sentries = {
            enter: Sentry(
                replace(self._rules, enter_threshold=enter), standby_fps=self._standby_fps, now_ns=0, wall_ns=0
            )
            for enter in self._thresholds()
        }
        times: list[float] = []
        for at_s, picture in stretch.frames:
            times.append(at_s)
            tally.frames += 1
            tally.digests.add(hashlib.blake2b(picture.tobytes(), digest_size=16).digest())
            boxes = self._people(picture)
            height, width = picture.shape[:2]
            highest = max((box.score for box in boxes), default=0.0)
            if highest > tally.highest:
                tally.highest, tally.highest_at = highest, f"{stretch.name}, frame {tally.frames}"
            if any(box.score >= self._rules.enter_threshold for box in candidates(boxes, self._rules, width, height)):
                tally.believed += 1
                self._keep_picture(picture, boxes[0], stretch.name, tally.frames)
            now_ns = round(at_s * _NS) + _NS
            observation = Observation(
                capture_epoch=1,
                frame_number=tally.frames,
                captured_ns=now_ns,
                timestamp_ns=now_ns,
                inferred=True,
                width=width,
                height=height,
                boxes=boxes,
            )
            for enter, sentry in sentries.items():
                events = sentry.step(observation, now_ns=now_ns).events
                tally.stricter[enter] += sum(event.type is EventType.HUMAN_DETECTED for event in events)
            progress(tally.frames)
        tally.alarms = tally.stricter[self._rules.enter_threshold]
        tally.seconds = _duration(times, self._standby_fps)
        return tally

    def _thresholds(self) -> list[float]:
        own = self._rules.enter_threshold
        return [own, *(enter for enter in HIGHER if enter > own)]

    def _people(self, picture: npt.NDArray[np.uint8]) -> list[Box]:
        """Persons of any score, the best first."""
        height, width = picture.shape[:2]
        pixels = np.ascontiguousarray(picture).data
        self._detector.preprocessor.load(pixels, pixel_format=PixelFormat.RGB24, width=width, height=height)
        rows = self._detector.detect(width=width, height=height)
        rows = rows[rows["class_id"] == PERSON_CLASS_ID]
        return [Box(*row) for row in rows[["x1", "y1", "x2", "y2", "confidence", "class_id"]].tolist()]

    def _keep_picture(self, picture: npt.NDArray[np.uint8], box: Box, name: str, number: int) -> None:
        if self._keep is None:
            return
        self._keep.mkdir(parents=True, exist_ok=True)
        told = "".join(letter if letter.isalnum() else "_" for letter in name)
        corners = "_".join(f"{value:.0f}" for value in box[:4])
        (self._keep / f"{box.score:.3f}-{told}-{number}-{corners}.jpg").write_bytes(
            simplejpeg.encode_jpeg(np.ascontiguousarray(picture), 90, "RGB")
        )


@dataclass(frozen=True, slots=True)
class _After:
    """Tells `progress` what is done in a part that begins after `before`."""

    before: int
    progress: Callable[[int], None]

    def __call__(self, done: int) -> None:
        self.progress(self.before + done)


def _duration(times: Sequence[float], fps: float) -> float:
    """Seconds that frames stand for: as many steps as frames."""
    if len(times) < 2:
        return len(times) / fps
    return (times[-1] - times[0]) * len(times) / (len(times) - 1)


def most_alarms(seen: int) -> float:
    """The highest mean number of alarms of which as few as `seen` are still seen with 1 - CONFIDENCE (Poisson)."""
    low, high = float(seen), 2.0 * seen + 10.0
    for _ in range(60):
        mean = (low + high) / 2
        if sum(math.exp(k * math.log(mean) - mean - math.lgamma(k + 1)) for k in range(seen + 1)) > 1 - CONFIDENCE:
            low = mean
        else:
            high = mean
    return high
