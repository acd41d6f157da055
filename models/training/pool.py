"""A pool of composed views with the teacher's lessons, each used a few times with fresh light and noise.

The teacher sees the clean view, the student a disturbed one: it learns to see through the disturbance. View numbers alone
decide what is in the pool, so a resumed run rebuilds it exactly.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor

from data import Composer, View, merge_teacher
from losses import Truth, make_truth
from photometric import disturb
from teacher import Teacher


@dataclass(frozen=True, slots=True)
class Batch:
    """Student pictures uint8 [B, S, S, 3], their truth and the teacher's maps [B, C, h, w] (not yet standardised)."""

    image: Tensor
    truth: Truth
    maps: list[Tensor]


class Pool:
    """Holds `capacity` views; `refresh` replaces the oldest ones."""

    def __init__(self, composer: Composer, teacher: Teacher, *, size: int, capacity: int) -> None:
        self.composer, self.teacher, self.size, self.capacity = composer, teacher, size, capacity
        self.grids = (size // 16, size // 32)
        self.images = np.empty((capacity, size, size, 3), np.uint8)
        self.maps = [np.empty((capacity, g, g, 96), np.float16) for g in self.grids]
        self.views: list[View | None] = [None] * capacity

    def refresh(self, first: int, count: int, *, mosaic: bool) -> None:
        """Compose and label views first .. first + count - 1; each lands in slot number % capacity."""
        for start in range(first, first + count, 8):
            numbers = range(start, min(start + 8, first + count))
            views = [self.composer.view(number, mosaic=mosaic) for number in numbers]
            lessons = self.teacher.teach([view.image for view in views], self.grids)
            for number, view, lesson in zip(numbers, views, lessons, strict=True):
                slot = number % self.capacity
                self.images[slot] = cv2.resize(view.image, (self.size, self.size), interpolation=cv2.INTER_LINEAR)
                for store, feature in zip(self.maps, lesson.features, strict=True):
                    store[slot] = feature
                merge_teacher(view, lesson.persons)
                view.image = np.empty((0, 0, 3), np.uint8)
                self.views[slot] = view

    def statistics(self) -> list[tuple[Tensor, Tensor]]:
        """Mean and deviation [1, C, 1, 1] of each teacher map over a part of the pool."""
        result = []
        for store in self.maps:
            sample = torch.from_numpy(store[:512].astype(np.float32)).reshape(-1, store.shape[-1])
            result.append((sample.mean(0)[None, :, None, None], sample.std(0).clamp(min=1e-3)[None, :, None, None]))
        return result

    def batches(self, rng: np.random.Generator, batch: int, strength: float) -> Iterator[Batch]:
        """One pass over the pool in random order, flipped and disturbed."""
        order = rng.permutation(self.capacity)
        for start in range(0, self.capacity - batch + 1, batch):
            slots = order[start : start + batch]
            images, boxes, weights, ignore = [], [], [], []
            maps: list[list[np.ndarray]] = [[] for _ in self.maps]
            for slot in slots:
                view = self.views[slot]
                image = disturb(self.images[slot], rng, strength=strength)
                flip = rng.random() < 0.5
                images.append(image[:, ::-1] if flip else image)
                boxes.append(_flip(view.boxes) if flip else view.boxes)
                ignore.append(_flip(view.ignore) if flip else view.ignore)
                weights.append(view.weights)
                for part, store in zip(maps, self.maps, strict=True):
                    part.append(store[slot][:, ::-1] if flip else store[slot])
            yield Batch(
                torch.from_numpy(np.stack(images)),
                make_truth(boxes, weights, ignore),
                [torch.from_numpy(np.stack(part)).permute(0, 3, 1, 2) for part in maps],
            )


def _flip(boxes: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(np.stack([1 - boxes[:, 2], boxes[:, 1], 1 - boxes[:, 0], boxes[:, 3]], -1))


@dataclass(frozen=True, slots=True)
class RoundEnd:
    """Stands in the stream after the last batch of a round."""


class Feed:
    """Makes the batches of endless rounds in a thread of its own, ahead of the training by at most `ahead` batches."""

    def __init__(
        self, pool: Pool, *, fresh: int, batch: int, seed: int, first_round: int, plain: Callable[[], bool]
    ) -> None:
        self.pool, self.fresh, self.batch, self.seed, self.plain = pool, fresh, batch, seed, plain
        self.ready: queue.Queue[Batch | RoundEnd | BaseException] = queue.Queue(maxsize=48)
        threading.Thread(target=self._work, args=(first_round,), daemon=True).start()

    def _work(self, number: int) -> None:
        try:
            old = self.pool.capacity - self.fresh
            self.pool.refresh(number * self.fresh, old, mosaic=not self.plain())
            while True:
                plain = self.plain()
                self.pool.refresh(number * self.fresh + old, self.fresh, mosaic=not plain)
                rng = np.random.default_rng([self.seed, number, 1])
                for batch in self.pool.batches(rng, self.batch, 0.5 if plain else 1.0):
                    self.ready.put(batch)
                self.ready.put(RoundEnd())
                number += 1
        except BaseException as error:  # noqa: BLE001 - it is raised again in the training thread
            self.ready.put(error)

    def round(self) -> Iterator[Batch]:
        """The batches of one round."""
        while True:
            item = self.ready.get()
            if isinstance(item, RoundEnd):
                return
            if isinstance(item, BaseException):
                raise item
            yield item
