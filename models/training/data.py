"""Photos, drawn figures and empty scenes, and the views made of them.

A view is one square training picture with its truth. Its geometry (crop, scale, mosaic) is a pure function of the seed and
the view's number, so a resumed run sees the same views as an unbroken one. Boxes are x1 y1 x2 y2 in 0..1 of the view.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

VIEW = 416  # views are composed at the teacher's size; the student gets them resized
KEEP = 0.3  # a box with a smaller visible share is ignored, not taught
NO_BOXES = np.zeros((0, 4), np.float32)


@dataclass(frozen=True, slots=True)
class Photo:
    """A picture RGB uint8 with its persons and the areas that say nothing (crowds), in pixels."""

    image: np.ndarray
    boxes: np.ndarray
    ignore: np.ndarray


@dataclass(slots=True)
class View:
    """A composed picture with its truth; `weights` are 1 for people marked by hand, else the teacher's score."""

    image: np.ndarray
    boxes: np.ndarray = field(default_factory=lambda: NO_BOXES)
    ignore: np.ndarray = field(default_factory=lambda: NO_BOXES)
    weights: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))


def load_coco(folder: Path, split: str | None) -> tuple[list[Photo], list[dict[str, object]]]:
    """All photos of a split (None: all), and their COCO image records in the same order."""
    index = json.loads((folder / "annotations.json").read_text())
    marks: dict[int, list[dict[str, object]]] = {}
    for mark in index["annotations"]:
        marks.setdefault(mark["image_id"], []).append(mark)
    records = [record for record in index["images"] if split is None or record["split"] == split]
    photos = []
    for record in records:
        image = cv2.cvtColor(cv2.imread(str(folder / "images" / record["file_name"])), cv2.COLOR_BGR2RGB)
        boxes, ignore = [], []
        for mark in marks.get(record["id"], []):
            x, y, w, h = mark["bbox"]
            (ignore if mark["iscrowd"] else boxes).append((x, y, x + w, y + h))
        photos.append(Photo(image, _boxes(boxes), _boxes(ignore)))
    return photos, records


def _boxes(rows: list[tuple[float, ...]]) -> np.ndarray:
    return np.asarray(rows, np.float32).reshape(-1, 4)


def load_demo(seeds: range, frames: int) -> list[Photo]:
    """Frames of the demo scene with its drawn figure, a third of them empty; [] when the engine cannot be imported."""
    try:
        from detr_sentry.capture.demo import DemoScene
    except ImportError:
        return []
    photos = []
    for seed in seeds:
        rng = np.random.default_rng([seed, 77])
        scene = DemoScene(seed=seed, period_s=40.0, width=640, height=360)
        for number in range(frames):
            empty = number % 3 == 2
            moment = rng.uniform(0.0, 9.9) + rng.integers(2) * 30.1 if empty else rng.uniform(10.1, 29.9)
            at = 40.0 * int(rng.integers(50)) + moment  # every period has another visitor
            image = cv2.resize(scene.frame(float(at)), (416, 234), interpolation=cv2.INTER_LINEAR)
            boxes = _boxes(list(scene.truth(float(at)))) * (416 / 640)
            photos.append(Photo(image, boxes, NO_BOXES))
    return photos


class Composer:
    """Makes view number n from the photos."""

    def __init__(self, photos: list[Photo], demo: list[Photo], seed: int) -> None:
        self.photos, self.demo, self.seed = photos, demo, seed

    def view(self, number: int, *, mosaic: bool = True) -> View:
        """Compose one view; with `mosaic` off (the last part of a run) only whole scenes are shown."""
        rng = np.random.default_rng([self.seed, number])
        draw = rng.random()
        if self.demo and draw < 0.05:
            return self._single(rng, self.demo[rng.integers(len(self.demo))], 0.25)
        if draw < 0.19:
            return self._negative(rng)
        if mosaic and draw < 0.58:
            return self._mosaic(rng)
        return self._single(rng, self.photos[rng.integers(len(self.photos))], 0.5 if mosaic else 0.3)

    def _single(self, rng: np.random.Generator, photo: Photo, strength: float) -> View:
        canvas = np.full((VIEW, VIEW, 3), rng.integers(0, 256, 3), np.uint8)
        scale = float(np.exp(rng.uniform(-0.8, 1.0) * strength))
        boxes, ignore = _paste(rng, canvas, photo, (0, 0, VIEW, VIEW), scale, 0.4 * strength)
        return _view(canvas, boxes, ignore)

    def _mosaic(self, rng: np.random.Generator) -> View:
        canvas = np.empty((VIEW, VIEW, 3), np.uint8)
        mx, my = (rng.uniform(0.3, 0.7, 2) * VIEW).astype(int)
        tiles = [(0, 0, mx, my), (mx, 0, VIEW, my), (0, my, mx, VIEW), (mx, my, VIEW, VIEW)]
        if rng.random() < 0.4:  # two halves keep larger people in the mix
            tiles = (
                [(0, 0, mx, VIEW), (mx, 0, VIEW, VIEW)]
                if rng.random() < 0.7
                else [(0, 0, VIEW, my), (0, my, VIEW, VIEW)]
            )
        parts = []
        for tile in tiles:
            photo = self.photos[rng.integers(len(self.photos))]
            parts.append(_paste(rng, canvas, photo, tile, float(rng.uniform(0.45, 1.05)), 0.2))
        return _view(canvas, np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts]))

    def _negative(self, rng: np.random.Generator) -> View:
        """Nobody: one to four person-free windows of training photos, now and then a drawn texture."""
        canvas = np.empty((VIEW, VIEW, 3), np.uint8)
        half = VIEW // 2
        tiles = (
            [(0, 0, VIEW, VIEW)]
            if rng.random() < 0.6
            else [(x, y, x + half, y + half) for x in (0, half) for y in (0, half)]
        )
        for x1, y1, x2, y2 in tiles:
            patch = self._empty_window(rng) if rng.random() < 0.9 else _texture(rng)
            canvas[y1:y2, x1:x2] = cv2.resize(patch, (x2 - x1, y2 - y1), interpolation=cv2.INTER_LINEAR)
        return View(canvas)

    def _empty_window(self, rng: np.random.Generator) -> np.ndarray:
        """The largest of some windows that touch no mark."""
        best: np.ndarray | None = None
        for _ in range(24):
            photo = self.photos[rng.integers(len(self.photos))]
            h, w = photo.image.shape[:2]
            cw, ch = (rng.uniform(0.3, 1.0, 2) * (w, h)).astype(int)
            x, y = int(rng.integers(0, w - cw + 1)), int(rng.integers(0, h - ch + 1))
            marks = np.concatenate([photo.boxes, photo.ignore])
            touches = (marks[:, 0] < x + cw) & (marks[:, 2] > x) & (marks[:, 1] < y + ch) & (marks[:, 3] > y)
            if not touches.any() and (best is None or cw * ch > best.shape[0] * best.shape[1]):
                best = photo.image[y : y + ch, x : x + cw]
        return _texture(rng) if best is None else best


def _texture(rng: np.random.Generator) -> np.ndarray:
    """Soft random colour fields with bars and discs: structure without a person."""
    cells = int(rng.integers(2, 12))
    image = cv2.resize(
        rng.integers(0, 256, (cells, cells, 3)).astype(np.uint8), (208, 208), interpolation=cv2.INTER_CUBIC
    )
    for _ in range(int(rng.integers(0, 9))):
        colour = [int(c) for c in rng.integers(0, 256, 3)]
        x, y, w, h = (int(v) for v in rng.integers(0, 208, 4))
        if rng.random() < 0.7:
            cv2.rectangle(image, (x, y), (x + w // 3 + 3, y + h), colour, -1)
        else:
            cv2.circle(image, (x, y), w // 4 + 2, colour, -1)
    return image


def _paste(
    rng: np.random.Generator,
    canvas: np.ndarray,
    photo: Photo,
    tile: tuple[int, int, int, int],
    scale: float,
    skew: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Warp a photo into a tile of the canvas; the boxes come back in pixels of the canvas, clipped to the tile.

    Scale 1 is the whole photo stretched over the whole canvas (what the detector sees in use)."""
    x1, y1, x2, y2 = tile
    h, w = photo.image.shape[:2]
    ratio = float(np.exp(rng.uniform(-skew, skew)))
    sx, sy = VIEW / w * scale * ratio, VIEW / h * scale / ratio
    spare_x, spare_y = (x2 - x1) - w * sx, (y2 - y1) - h * sy
    tx, ty = rng.uniform(0, 1) * spare_x, rng.uniform(0, 1) * spare_y
    if len(photo.boxes) and spare_x < 0 and rng.random() < 0.7:  # a crop that keeps somebody in sight
        box = photo.boxes[rng.integers(len(photo.boxes))]
        tx = np.clip((x2 - x1) * rng.uniform(0.2, 0.8) - (box[0] + box[2]) / 2 * sx, spare_x, 0)
    if len(photo.boxes) and spare_y < 0 and rng.random() < 0.7:
        box = photo.boxes[rng.integers(len(photo.boxes))]
        ty = np.clip((y2 - y1) * rng.uniform(0.3, 0.7) - (box[1] + box[3]) / 2 * sy, spare_y, 0)
    matrix = np.array([[sx, 0, tx + (sx - 1) / 2], [0, sy, ty + (sy - 1) / 2]], np.float64)
    fill = [int(c) for c in rng.integers(0, 256, 3)]
    canvas[y1:y2, x1:x2] = cv2.warpAffine(
        photo.image,
        matrix,
        (x2 - x1, y2 - y1),
        flags=cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=fill,
    )
    kept: list[np.ndarray] = []
    for boxes in (photo.boxes, photo.ignore):
        moved = boxes * np.array([sx, sy, sx, sy], np.float32) + np.array([tx, ty, tx, ty], np.float32)
        inside = moved.copy()
        inside[:, 0::2] = moved[:, 0::2].clip(0, x2 - x1)
        inside[:, 1::2] = moved[:, 1::2].clip(0, y2 - y1)
        share = _area(inside) / np.maximum(_area(moved), 1e-6)
        kept.append(np.concatenate([inside + np.array([x1, y1, x1, y1], np.float32), share[:, None]], 1))
    people, crowd = kept
    size = np.minimum(people[:, 2] - people[:, 0], (people[:, 3] - people[:, 1]) / 1.5)
    good = (people[:, 4] >= KEEP) & (size >= 3.0)
    unsure = ~good & (people[:, 4] > 0)
    return people[good, :4], np.concatenate([people[unsure, :4], crowd[crowd[:, 4] > 0, :4]])


def _area(boxes: np.ndarray) -> np.ndarray:
    return (boxes[:, 2] - boxes[:, 0]).clip(0) * (boxes[:, 3] - boxes[:, 1]).clip(0)


def _view(canvas: np.ndarray, boxes: np.ndarray, ignore: np.ndarray) -> View:
    unit = np.float32(1.0 / VIEW)
    return View(canvas, boxes * unit, ignore * unit, np.ones(len(boxes), np.float32))


def overlap(a: np.ndarray, b: np.ndarray, *, of_first: bool = False) -> np.ndarray:
    """Intersection over union (or over the first's own area) of all pairs [len(a), len(b)]."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:4], b[None, :, 2:4])
    common = (high - low).clip(0).prod(-1)
    own = _area(a)[:, None]
    return common / np.maximum(own if of_first else own + _area(b)[None] - common, 1e-9)


def merge_teacher(view: View, persons: np.ndarray, *, sure: float = 0.5, unsure: float = 0.2) -> None:
    """Add people that only the teacher sees: sure ones as soft truth, doubtful ones as areas that say nothing."""
    fresh = np.ones(len(persons), bool)
    if len(view.boxes):
        fresh &= overlap(persons[:, :4], view.boxes).max(1, initial=0) < 0.4
    if len(view.ignore):
        fresh &= overlap(persons[:, :4], view.ignore, of_first=True).max(1, initial=0) < 0.6
    taught = fresh & (persons[:, 4] >= sure)
    doubtful = fresh & ~taught & (persons[:, 4] >= unsure)
    view.boxes = np.concatenate([view.boxes, persons[taught, :4]])
    view.weights = np.concatenate([view.weights, persons[taught, 4]])
    view.ignore = np.concatenate([view.ignore, persons[doubtful, :4]])
