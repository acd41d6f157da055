"""The detector as the service uses it: a baked model in a backend, its tensor, and its answers as detections."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

import numpy as np

from detr_sentry.errors import BackendError, ModelError, ModelRefusedError
from detr_sentry.inference.backends import open_backend
from detr_sentry.inference.choice import REFERENCE, Choice, Choices, key_of
from detr_sentry.inference.preprocess import Preprocessor
from detr_sentry.ipc.messages import CAPACITY, DETECTION_DTYPE, Detections
from detr_sentry.models.contract import load_baked
from detr_sentry.models.resolve import cache_dir, resolve_model
from detr_sentry.sentry.rules import zone_mask

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy.typing as npt

    from detr_sentry.inference.backends import Backend
    from detr_sentry.models.contract import ModelContract
    from detr_sentry.models.resolve import ResolvedModel
    from detr_sentry.sentry.rules import ZoneShape
    from detr_sentry.settings import ModelSettings

_SCORE, _CLASS = 4, 5
_log = logging.getLogger("detr_sentry.inference")


class Detector:
    """Finds the enabled classes in what was loaded into `preprocessor`. Belongs to one thread.

    `path` is the baked model's file, where there is one.
    """

    def __init__(
        self,
        contract: ModelContract,
        backend: Backend,
        *,
        class_ids: frozenset[int],
        floor: float,
        path: Path | None = None,
    ) -> None:
        self.contract = contract
        self.path = path
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
    """The detector that the settings name, warmed up, and whether it is the embedded one. Raises ModelError's kinds.

    With `backend: auto` it runs on the backend that the self-check chose for this model and machine, else on ONNX
    Runtime; a choice that fails to open is given up.
    """
    resolved = resolve_model(settings, state_dir)
    cache = cache_dir(settings, state_dir)
    if settings.backend != "auto":
        return _open(settings.backend, resolved, settings, cache, floor), resolved.embedded
    choices, key = Choices(cache), key_of(resolved.contract.sha256, settings.threads)
    name = choices.open_on(key)
    try:
        detector = _open(name, resolved, settings, cache, floor)
    except ModelError as error:
        if name == REFERENCE:
            raise
        _give_up(choices, key, name, error)
        return _open(REFERENCE, resolved, settings, cache, floor), resolved.embedded
    choices.proved(key)
    return detector, resolved.embedded


def reopen_detector(detector: Detector, settings: ModelSettings, cache: Path) -> bool:
    """Closes the detector's backend and opens the self-check's choice in its place; False if that does not run.

    ONNX Runtime runs then. Raises ModelError's kinds if the model's file has changed, or not even that opens.
    """
    assert detector.path is not None
    contract, data = load_baked(detector.path)
    if contract.sha256 != detector.contract.sha256:
        raise ModelRefusedError(f"{detector.path} has changed since it was opened")
    choices, key = Choices(cache), key_of(contract.sha256, settings.threads)
    name = choices.open_on(key)
    detector.backend.close()
    begun_s = time.monotonic()
    try:
        detector.backend = open_backend(name, data, contract, threads=settings.threads, cache=cache)
        detector.warm_up()
    except ModelError as error:
        _give_up(choices, key, name, error)
        detector.backend = open_backend(REFERENCE, data, contract, threads=settings.threads)
        detector.warm_up()
        return False
    choices.proved(key)
    _log.info("%s runs now; detection stood still for %.1f s", detector.backend.provider, time.monotonic() - begun_s)
    return True


def _give_up(choices: Choices, key: str, name: str, error: ModelError) -> None:
    _log.warning("back to ONNX Runtime, as %s was chosen before and fails now: %s", name, error)
    choices.put(key, Choice(backend=REFERENCE, provider="", reason=str(error)))


def _open(name: str, resolved: ResolvedModel, settings: ModelSettings, cache: Path, floor: float) -> Detector:
    backend = open_backend(name, resolved.data, resolved.contract, threads=settings.threads, cache=cache)
    class_ids = resolved.contract.class_ids(settings.labels)
    detector = Detector(resolved.contract, backend, class_ids=class_ids, floor=floor, path=resolved.path)
    detector.warm_up()
    return detector
