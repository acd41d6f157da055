"""A model's accuracy on photos with known boxes, by the engine's own preprocessing and backend.

The data set is COCO's: a folder with `annotations.json` and `images/`, or both named. AP is COCO's, IoU .50 to .95,
over the categories that both the model and the data set know; `person_ap` is over persons alone.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import simplejpeg

from detr_sentry.errors import BadFrameError, ModelError
from detr_sentry.inference.model import open_detector
from detr_sentry.ipc.messages import PixelFormat
from detr_sentry.models.coco import COCO_LABELS
from detr_sentry.models.contract import contract_of, is_baked
from detr_sentry.models.graph import parse_model, read_bytes
from detr_sentry.models.resolve import EMBEDDED, embedded_model
from detr_sentry.models.store import cache_dir, own_model

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    import numpy.typing as npt

    from detr_sentry.inference.model import Detector
    from detr_sentry.settings import Settings

RESIZES = ("stretch", "area", "letterbox")
LETTERBOX_GRAY = 114
FLOOR = 0.001
"""AP integrates over all scores; COCO's evaluation takes the 100 best of a picture."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSet:
    """Photos and their truth in COCO's form; `name` is for people."""

    name: str
    images: Path
    truth: Mapping[str, Any]

    @property
    def categories(self) -> dict[str, int]:
        """Category names and their numbers here."""
        return {category["name"]: category["id"] for category in self.truth["categories"]}

    @property
    def photos(self) -> list[dict[str, Any]]:
        """The image records."""
        photos: list[dict[str, Any]] = self.truth["images"]
        return photos


def read_data_set(annotations: Path, images: Path, *, split: str | None = None, limit: int | None = None) -> DataSet:
    """The photos of `split` (of all), at most `limit`, the first in the file's order. Raises ModelError."""
    try:
        truth: dict[str, Any] = json.loads(annotations.read_text(encoding="utf-8"))
        photos = [record for record in truth["images"] if split is None or record.get("split") == split][:limit]
        kept = {record["id"] for record in photos}
        marks = [mark for mark in truth["annotations"] if mark["image_id"] in kept]
        truth = {"info": {}, "categories": truth["categories"], "images": photos, "annotations": marks}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{annotations}: not COCO annotations: {error!r}") from error
    if not photos:
        raise ModelError(f"{annotations}: no images{f' of split {split!r}' if split else ''}")
    name = annotations.parent.name + (f" {split}" if split else "")
    return DataSet(name=name, images=images, truth=truth)


def require_pycocotools() -> None:
    """Raises ModelError that says how to install it, before anything has taken time."""
    if find_spec("pycocotools") is None:
        raise ModelError("AP needs pycocotools, which is not installed: pip install 'detr-sentry[eval]'")


def evaluate(
    settings: Settings,
    data: DataSet,
    *,
    resize: str = "stretch",
    progress: Callable[[int], None] = lambda _done: None,
) -> dict[str, Any]:
    """The accuracy of the model of `settings` as the JSON of `eval`; AP as shares, 0..1, None where there is no truth.

    An export is baked with all classes that the data set and COCO share. `progress` hears how many photos are done.
    Raises ModelError's kinds.
    """
    require_pycocotools()
    names = data.categories
    model = dataclasses.replace(settings.model, labels=_labels_for(settings, names))
    detector, _ = open_detector(model, settings.state_dir, floor=FLOOR)
    try:
        categories = {number: names[name] for number, name in detector.contract.labels.items() if name in names}
        found = []
        for done, record in enumerate(data.photos, start=1):
            path = data.images / record["file_name"]
            try:
                rows = _detect(detector, path.read_bytes(), record, resize)
            except (BadFrameError, ValueError, OSError) as error:
                raise ModelError(f"{path}: {error}") from error
            found += _as_coco(rows, record["id"], categories)
            progress(done)
        backend = detector.backend.name, detector.backend.provider, detector.backend.threads
    finally:
        detector.backend.close()
    everything = _ap(data.truth, found, sorted(set(categories.values())))
    person = _ap(data.truth, found, [names["person"]]) if names.get("person") in categories.values() else (None, None)
    return {
        "data": data.name,
        "model": detector.contract.name,
        "backend": backend[0],
        "provider": backend[1],
        "threads": backend[2],
        "resize": resize,
        "input": [detector.contract.width, detector.contract.height],
        "images": len(data.photos),
        "marks": sum(not mark.get("iscrowd") for mark in data.truth["annotations"]),
        "categories": len(categories),
        "ap": everything[0],
        "ap50": everything[1],
        "person_ap": person[0],
        "person_ap50": person[1],
        "model_sha256": detector.contract.sha256,
        "source_sha256": detector.contract.source_sha256,
    }


def _labels_for(settings: Settings, names: Mapping[str, int]) -> tuple[str, ...]:
    """The classes to bake an export with: its own or COCO's that the data set has. A baked model keeps its own."""
    name = settings.model.name
    own = None if "/" in name else own_model(name, cache_dir(settings.model, settings.state_dir))
    path = embedded_model() if name == EMBEDDED else own.file if own else Path(name)
    if path.is_file():
        data = read_bytes(path)
        model = parse_model(data, str(path))
        if is_baked(model):
            return tuple(contract_of(model, data, str(path)).labels.values())
    known = own.classes if own else COCO_LABELS.values()
    shared = tuple(label for label in known if label in names)
    if not shared:
        raise ModelError(f"the data set's categories are not {'the model' if own else 'COCO'}'s: {', '.join(names)}")
    return shared


def _detect(detector: Detector, data: bytes, record: Mapping[str, Any], resize: str) -> Iterable[Any]:
    """Detections in pixels of the photo as its record gives them."""
    height, width, _, _ = simplejpeg.decode_jpeg_header(data)
    size = {"width": width, "height": height}
    if resize == "stretch":
        detector.preprocessor.load(memoryview(data), pixel_format=PixelFormat.MJPEG, **size)
        rows = detector.detect(**size)
    else:
        photo = simplejpeg.decode_jpeg(data)
        place = _RESIZERS[resize](photo, detector.preprocessor.tensor[0])
        raw = detector.backend.run(detector.preprocessor.tensor).copy()
        raw[:, :4] = (raw[:, :4] - np.tile(place[:2], 2)) / np.tile(place[2:], 2)
        rows = detector.select(raw, **size)
    scale = record["width"] / width, record["height"] / height
    for row in rows:
        for name, factor in zip(("x1", "y1", "x2", "y2"), scale * 2, strict=True):
            row[name] *= factor
    return rows


def _area(photo: npt.NDArray[np.uint8], tensor: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    cv2.resize(photo, (tensor.shape[1], tensor.shape[0]), dst=tensor, interpolation=cv2.INTER_AREA)
    return np.array([0, 0, 1, 1], np.float32)


def _letterbox(photo: npt.NDArray[np.uint8], tensor: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """The photo in the middle of gray, its shape kept; returns its place (x, y, w, h) as shares of the tensor."""
    high, wide = tensor.shape[:2]
    scale = min(high / photo.shape[0], wide / photo.shape[1])
    width, height = round(photo.shape[1] * scale), round(photo.shape[0] * scale)
    left, top = (wide - width) // 2, (high - height) // 2
    tensor.fill(LETTERBOX_GRAY)
    tensor[top : top + height, left : left + width] = cv2.resize(photo, (width, height))
    return np.array([left / wide, top / high, width / wide, height / high], np.float32)


_RESIZERS: dict[str, Callable[[npt.NDArray[np.uint8], npt.NDArray[np.uint8]], npt.NDArray[np.float32]]] = {
    "area": _area,
    "letterbox": _letterbox,
}


def _as_coco(rows: Iterable[Any], image_id: int, categories: Mapping[int, int]) -> list[dict[str, Any]]:
    return [
        {
            "image_id": image_id,
            "category_id": categories[int(row["class_id"])],
            "bbox": [float(row["x1"]), float(row["y1"]), float(row["x2"] - row["x1"]), float(row["y2"] - row["y1"])],
            "score": float(row["confidence"]),
        }
        for row in rows
        if int(row["class_id"]) in categories
    ]


def _ap(
    truth: Mapping[str, Any], found: list[dict[str, Any]], categories: list[int]
) -> tuple[float | None, float | None]:
    """AP and AP50 over `categories`."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    found = [entry for entry in found if entry["category_id"] in categories]
    if not any(mark["category_id"] in categories for mark in truth["annotations"]):
        return None, None
    if not found:
        return 0.0, 0.0
    with contextlib.redirect_stdout(io.StringIO()):
        index = COCO()
        index.dataset = dict(truth)
        index.createIndex()
        judge = COCOeval(index, index.loadRes(found), "bbox")
        judge.params.catIds = categories
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return round(float(judge.stats[0]), 4), round(float(judge.stats[1]), 4)
