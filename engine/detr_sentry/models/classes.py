"""The classes of a model: its own class numbers, the ids that the engine publishes, and their names.

A person is published as COCO's id 1 whatever model found it, because the sentry's rules ask for that id. A class that
carries a COCO name gets COCO's id; any other class gets `OWN_ID_BASE` plus its own number.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from detr_sentry.errors import ModelRefusedError
from detr_sentry.models.coco import COCO_LABELS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

UNUSED = "-"
"""Stands in a list of names for a number that no class has."""
OWN_ID_BASE = 100
"""Above COCO's 90, so that an id has one meaning."""
MAX_CLASSES = 4096
MAX_NAME = 64
MAX_QUERIES = 4096
"""Rows of an output; detectors have 100 to 900."""
_MAX_LABELS_BYTES = 1 << 20

COCO, CONTIGUOUS = "coco", "contiguous"
"""Layouts: the model's class numbers are COCO's sparse ids, or count from 0 without a background class."""

_COCO_IDS = {name: number for number, name in COCO_LABELS.items()}


@dataclass(frozen=True, slots=True)
class ModelClass:
    """One class: its number in the model (slot of the logits, value of `labels`), the published id, the name."""

    number: int
    id: int
    name: str


@dataclass(frozen=True, slots=True)
class ClassTable:
    """All classes of a model, in the order of their numbers, and which layout those numbers have."""

    layout: str
    classes: tuple[ModelClass, ...]

    def enabled(self, names: Sequence[str] | None, what: str) -> list[ModelClass]:
        """The classes called `names` (None: all). Raises ModelRefusedError if one is missing or none is asked for."""
        if names is None:
            return list(self.classes)
        missing = [name for name in names if name not in {entry.name for entry in self.classes}]
        if missing or not names:
            found = ", ".join(entry.name for entry in self.classes)
            raise ModelRefusedError(f"{what}: cannot find {', '.join(missing) or 'nothing'}; it finds {found}")
        return [entry for entry in self.classes if entry.name in names]


def coco_sparse() -> ClassTable:
    """COCO's classes under their sparse ids, as in RF-DETR's 91 slots."""
    return ClassTable(COCO, tuple(ModelClass(number, number, name) for number, name in COCO_LABELS.items()))


def coco_contiguous() -> ClassTable:
    """COCO's 80 classes counted from 0, as in DEIM and D-FINE."""
    entries = enumerate(COCO_LABELS.items())
    return ClassTable(CONTIGUOUS, tuple(ModelClass(index, number, name) for index, (number, name) in entries))


def own_classes(labels: Mapping[int, str], what: str) -> ClassTable:
    """The classes of a fine-tuned model by their numbers. Raises ModelRefusedError."""
    entries = [_own(number, name, what) for number, name in sorted(labels.items())]
    names = [entry.name for entry in entries]
    if not entries or len(set(names)) != len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise ModelRefusedError(f"{what}: {'names a class twice: ' + ', '.join(twice) if twice else 'has no classes'}")
    return ClassTable(CONTIGUOUS, tuple(entries))


def read_labels(path: Path) -> dict[int, str]:
    """The names in a text file, one a line, from class 0; `-` where a number has no class. Raises ModelRefusedError."""
    try:
        if path.stat().st_size > _MAX_LABELS_BYTES:
            raise ModelRefusedError(f"{path}: too large for a list of class names")
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ModelRefusedError(f"{path}: cannot be read as text: {error}") from error
    while lines and not lines[-1].strip():
        lines.pop()
    return _numbered(lines)


def split_labels(text: str) -> dict[int, str]:
    """The names in a text with commas, from class 0; `-` for a number without a class."""
    return _numbered(text.split(","))


def _numbered(names: Sequence[str]) -> dict[int, str]:
    return {number: name.strip() for number, name in enumerate(names) if name.strip() != UNUSED}


def _own(number: int, name: str, what: str) -> ModelClass:
    known = _COCO_IDS.get(name.casefold())
    if not 0 <= number < MAX_CLASSES:
        raise ModelRefusedError(f"{what}: class number {number}; a model has at most {MAX_CLASSES} classes, from 0")
    if not name or len(name) > MAX_NAME or not name.isprintable():
        raise ModelRefusedError(f"{what}: class {number} needs a name of 1 to {MAX_NAME} printable characters")
    if known is not None:
        return ModelClass(number, known, name.casefold())
    return ModelClass(number, OWN_ID_BASE + number, name)
