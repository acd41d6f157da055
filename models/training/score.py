"""Person AP by pycocotools, for any function that turns an RGB picture into detections [Q, 6] (0..1, score, class)."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from data import Photo

Detect = Callable[[np.ndarray], np.ndarray]


def person_ap(
    folder: Path, split: str | None, photos: list[Photo], records: list[dict[str, object]], detect: Detect
) -> dict[str, float]:
    """AP, AP50 and the per-size AP of the photos of one split."""
    index = json.loads((folder / "annotations.json").read_text())
    known = {record["id"] for record in records}
    index["images"] = [record for record in index["images"] if record["id"] in known]
    index["annotations"] = [mark for mark in index["annotations"] if mark["image_id"] in known]
    results = []
    for photo, record in zip(photos, records, strict=True):
        for x1, y1, x2, y2, value, _ in detect(photo.image).tolist():
            w, h = record["width"], record["height"]
            box = [x1 * w, y1 * h, (x2 - x1) * w, (y2 - y1) * h]
            results.append({"image_id": record["id"], "category_id": 1, "bbox": box, "score": value})
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = index
        truth.createIndex()
        judge = COCOeval(truth, truth.loadRes(results), "bbox")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    names = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")
    people = sum(1 for mark in index["annotations"] if not mark["iscrowd"])
    return {
        **{n: round(float(v), 4) for n, v in zip(names, judge.stats, strict=False)},
        "photos": len(photos),
        "people": people,
    }
