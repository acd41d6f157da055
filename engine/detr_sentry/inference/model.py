"""The detector as the service uses it: a baked model in a backend, its tensor, and its answers as detections."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from detr_sentry.errors import BackendError, ModelRefusedError
from detr_sentry.inference.backends import open_backend
from detr_sentry.inference.preprocess import Preprocessor
from detr_sentry.ipc.messages import CAPACITY, DETECTION_DTYPE, Detections
from detr_sentry.models.resolve import cache_dir, resolve_model
from detr_sentry.sentry.rules import zone_mask

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy.typing as npt

    from detr_sentry.inference.backends import Backend
    from detr_sentry.models.contract import ModelContract
    from detr_sentry.sentry.rules import ZoneShape
    from detr_sentry.settings import ModelSettings

_SCORE, _CLASS = 4, 5


class Detector:
    """Finds the enabled classes in what was loaded into `preprocessor`. Belongs to one thread."""

    def __init__(self, contract: ModelContract, backend: Backend, *, class_ids: frozenset[int], floor: float) -> None:
        self.contract = contract
        self.backend = backend
        self.preprocessor = Preprocessor(contract.width, contract.height)
        self.floor = floor
        self._enabled = np.zeros(1 << 16, np.bool_)
        self._enabled[list(class_ids)] = True

    def detect(self, *, width: int, height: int, zones: Sequence[ZoneShape] = ()) -> Detections:
        """Detections in pixels of a source picture of `width` x `height`, best score first.

        Raises BackendError if the runtime fails or the model gives anything but finite numbers.
        """
        return self.select(self.backend.run(self.preprocessor.tensor), width=width, height=height, zones=zones)

    def select(
        self, rows: npt.NDArray[np.float32], *, width: int, height: int, zones: Sequence[ZoneShape] = ()
    ) -> Detections:
        """The detections among a model's `rows` float32 [Q,6]: enabled, of at least the floor's score, with an area."""
        if not np.isfinite(rows).all():
            raise BackendError(f"model {self.contract.name} gave numbers that are not finite")
        ids = rows[:, _CLASS].clip(0, (1 << 16) - 1).astype(np.uint16)
        rows = rows[(rows[:, _SCORE] >= self.floor) & self._enabled[ids]]
        boxes = rows[:, :4] * np.array([width, height, width, height], np.float32)
        np.clip(boxes, 0.0, np.array([width, height, width, height], np.float32), out=boxes)
        solid = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
        order = np.flatnonzero(solid)[np.argsort(-rows[solid, _SCORE], kind="stable")][:CAPACITY]
        found = np.zeros(len(order), DETECTION_DTYPE)
        for column, name in enumerate(("x1", "y1", "x2", "y2")):
            found[name] = boxes[order, column]
        found["confidence"] = rows[order, _SCORE]
        found["class_id"] = rows[order, _CLASS]
        if zones:
            for row in found:
                corners = float(row["x1"]), float(row["y1"]), float(row["x2"]), float(row["y2"])
                row["zone_mask"] = zone_mask(zones, *corners, width, height)
        return found

    def warm_up(self) -> None:
        """One run on gray, so that the first frame is as fast as the rest and a model that answers nonsense is refused.

        Raises ModelRefusedError or BackendError.
        """
        self.preprocessor.tensor.fill(114)
        rows = self.backend.run(self.preprocessor.tensor)
        if not np.isfinite(rows).all():
            raise ModelRefusedError(f"model {self.contract.name} gives numbers that are not finite on a gray picture")
        if not ((rows[:, _SCORE] >= 0.0) & (rows[:, _SCORE] <= 1.0)).all():
            raise ModelRefusedError(f"model {self.contract.name} gives scores outside 0..1; it must apply the sigmoid")


def open_detector(settings: ModelSettings, state_dir: Path, *, floor: float) -> tuple[Detector, bool]:
    """The detector that the settings name, warmed up, and whether it is the embedded one. Raises ModelError's kinds."""
    resolved = resolve_model(settings, state_dir)
    backend = open_backend(
        settings.backend,
        resolved.data,
        resolved.contract,
        threads=settings.threads,
        cache=cache_dir(settings, state_dir),
    )
    class_ids = resolved.contract.class_ids(settings.labels)
    detector = Detector(resolved.contract, backend, class_ids=class_ids, floor=floor)
    detector.warm_up()
    return detector, resolved.embedded
