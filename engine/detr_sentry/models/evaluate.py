"""`detr-sentry eval`: a model's accuracy on photos with known boxes, by the engine's own preprocessing and backend.

The data set is COCO's: a folder with `annotations.json` and `images/`, or both named. AP is COCO's, IoU .50 to .95,
over the categories that both the model and the data set know; `person_ap` is over persons alone.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import simplejpeg

from detr_sentry.errors import BadFrameError, ModelError
from detr_sentry.ipc.messages import PixelFormat

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterable, Mapping

    import numpy.typing as npt

    from detr_sentry.inference.model import Detector
    from detr_sentry.settings import Settings

RESIZES = ("stretch", "area", "letterbox")
LETTERBOX_GRAY = 114
FLOOR = 0.001
"""AP integrates over all scores; COCO's evaluation takes the 100 best of a picture."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `eval`."""
    parser.add_argument("folder", type=Path, nargs="?", help="folder with annotations.json and images/")
    parser.add_argument("--annotations", type=Path, help="COCO annotations (FOLDER/annotations.json)")
    parser.add_argument("--images", type=Path, help="folder of the photos (FOLDER/images)")
    parser.add_argument("--model", help="embedded, a catalogue name or a file (the model of the settings)")
    parser.add_argument("--backend", help="the backend (that of the settings)")
    parser.add_argument("--resize", choices=RESIZES, default="stretch", help="how photos become the model's input")
    parser.add_argument("--split", help="only images whose `split` is this, in data sets that say so")
    parser.add_argument("--limit", type=int, help="only the first so many images")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace, settings: Settings) -> int:
    """Evaluates and prints; raises ModelError's kinds."""
    annotations = arguments.annotations or (arguments.folder and arguments.folder / "annotations.json")
    images = arguments.images or (arguments.folder and arguments.folder / "images")
    if annotations is None or images is None:
        raise ModelError("name a folder with annotations.json and images/, or --annotations and --images")
    result = evaluate(
        dataclasses.replace(
            settings,
            model=dataclasses.replace(
                settings.model,
                name=arguments.model or settings.model.name,
                backend=arguments.backend or settings.model.backend,
            ),
        ),
        annotations,
        images,
        resize=arguments.resize,
        split=arguments.split,
        limit=arguments.limit,
    )
    if arguments.json:
        print(json.dumps(result, indent=2))
    else:
        for key, value in result.items():
            print(f"{key:<14} {value:.4f}" if isinstance(value, float) else f"{key:<14} {value}")
    return 0


def evaluate(
    settings: Settings,
    annotations: Path,
    images: Path,
    *,
    resize: str = "stretch",
    split: str | None = None,
    limit: int | None = None,
) -> dict[str, Any]:
    """The accuracy of the model of `settings` as the JSON of `eval`; AP as shares, 0..1, None where there is no truth.

    An export is baked with all classes that the data set and COCO share. Raises ModelError's kinds.
    """
    from detr_sentry.inference.model import open_detector

    truth = _read_truth(annotations, split, limit)
    names = {category["name"]: category["id"] for category in truth["categories"]}
    model = dataclasses.replace(settings.model, labels=_labels_for(settings, names))
    detector, _ = open_detector(model, settings.state_dir, floor=FLOOR)
    categories = {number: names[name] for number, name in detector.contract.labels.items() if name in names}
    found = []
    for record in truth["images"]:
        data = (images / record["file_name"]).read_bytes()
        try:
            rows = _detect(detector, data, record, resize)
        except (BadFrameError, ValueError) as error:
            raise ModelError(f"{images / record['file_name']}: {error}") from error
        found += _as_coco(rows, record["id"], categories)
    everything = _ap(truth, found, sorted(set(categories.values())))
    person = _ap(truth, found, [names["person"]]) if names.get("person") in categories.values() else (None, None)
    return {
        "model": detector.contract.name,
        "backend": detector.backend.name,
        "provider": detector.backend.provider,
        "resize": resize,
        "images": len(truth["images"]),
        "categories": len(categories),
        "ap": everything[0],
        "ap50": everything[1],
        "person_ap": person[0],
        "person_ap50": person[1],
        "model_sha256": detector.contract.sha256,
    }


def _read_truth(annotations: Path, split: str | None, limit: int | None) -> dict[str, Any]:
    try:
        truth: dict[str, Any] = json.loads(annotations.read_text(encoding="utf-8"))
        images = [record for record in truth["images"] if split is None or record.get("split") == split][:limit]
        kept = {record["id"] for record in images}
        marks = [mark for mark in truth["annotations"] if mark["image_id"] in kept]
        truth = {"info": {}, "categories": truth["categories"], "images": images, "annotations": marks}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{annotations}: not COCO annotations: {error!r}") from error
    if not images:
        raise ModelError(f"{annotations}: no images{f' of split {split!r}' if split else ''}")
    return truth


def _labels_for(settings: Settings, names: Mapping[str, int]) -> tuple[str, ...]:
    """The classes to bake an export with: COCO's that the data set has. A baked model keeps its own."""
    from detr_sentry.models.coco import COCO_LABELS
    from detr_sentry.models.contract import contract_of, is_baked
    from detr_sentry.models.graph import parse_model, read_bytes
    from detr_sentry.models.resolve import EMBEDDED, embedded_model

    shared = tuple(name for name in COCO_LABELS.values() if name in names)
    name = settings.model.name
    path = embedded_model() if name == EMBEDDED else Path(name)
    if path.is_file():
        data = read_bytes(path)
        model = parse_model(data, str(path))
        if is_baked(model):
            return tuple(contract_of(model, data, str(path)).labels.values())
    if not shared:
        raise ModelError(f"the data set's categories are not COCO's: {', '.join(names)}")
    return shared


def _detect(detector: Detector, data: bytes, record: Mapping[str, Any], resize: str) -> Iterable[Any]:
    """Detections in pixels of the photo."""
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
    try:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    except ImportError as error:
        raise ModelError("eval needs pycocotools: pip install 'detr-sentry[eval]'") from error
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
