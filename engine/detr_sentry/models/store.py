"""Where models lie on this machine: `pulled/` as published, `own/` what users imported, `baked/` what is made of both.

An own model is a file `NAME-HASH.onnx` and a manifest `NAME.json` that names it: replacing the manifest replaces the
model at once.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detr_sentry.errors import ModelError, StorageError
from detr_sentry.models.bake import write_whole
from detr_sentry.models.catalog import NAME

if TYPE_CHECKING:
    from collections.abc import Mapping

    from detr_sentry.models.catalog import CatalogEntry
    from detr_sentry.settings import ModelSettings

EMBEDDED = "embedded"
_FORMAT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnModel:
    """A model that a user imported.

    `file` lies in the store and has `sha256`; `labels` are the classes by the model's own numbers, None where the file
    itself says them; `layout` is how it numbers them; `input` is width, height; `origin` is the file it came from.
    """

    name: str
    file: Path
    sha256: str
    bytes: int
    adapter: str
    layout: str
    input: tuple[int, int]
    classes: tuple[str, ...]
    origin: str
    labels: Mapping[int, str] | None = None
    threshold: float | None = None


def cache_dir(settings: ModelSettings, state_dir: Path) -> Path:
    """Where pulled, imported and baked models lie."""
    return settings.cache_dir or state_dir / "models"


def pulled_path(name: str, cache: Path) -> Path:
    """Where the file of a catalogue entry lies once it was pulled, just as published."""
    return cache / "pulled" / f"{name}.onnx"


def part_path(entry: CatalogEntry, cache: Path) -> Path:
    """Where a pull collects what it has got so far."""
    return cache / "pulled" / f".{entry.name}-{str(entry.sha256)[:16]}.part"


def baked_path(name: str, digest: str, cache: Path) -> Path:
    """Where the baked form of a model lies; `digest` is of all that it was made from."""
    return cache / "baked" / f"{name[:64]}-{digest[:16]}.onnx"


def keep(
    data: bytes,
    cache: Path,
    *,
    name: str,
    adapter: str,
    layout: str,
    size: tuple[int, int],
    classes: tuple[str, ...],
    origin: str,
    labels: Mapping[int, str] | None,
    threshold: float | None,
) -> OwnModel:
    """Keeps the checked model file `data` as `name`, in the place of an older one. Raises ModelError, StorageError."""
    if not NAME.fullmatch(name):
        raise ModelError(f"model name {name!r}: 1 to 48 of a-z, 0-9, -, _ and ., beginning with a letter or digit")
    digest = hashlib.sha256(data).hexdigest()
    model = OwnModel(
        name=name,
        file=cache / "own" / f"{name}-{digest[:16]}.onnx",
        sha256=digest,
        bytes=len(data),
        adapter=adapter,
        layout=layout,
        input=size,
        classes=classes,
        origin=origin,
        labels=labels,
        threshold=threshold,
    )
    write_whole(model.file, data)
    manifest = {"format": _FORMAT, **asdict(model), "file": model.file.name}
    write_whole(_manifest(name, cache), (json.dumps(manifest, indent=2) + "\n").encode())
    for old in _named(cache / "own", name):
        if old != model.file:
            old.unlink(missing_ok=True)
    return model


def own_model(name: str, cache: Path) -> OwnModel | None:
    """The imported model called `name`, or None. Raises ModelError if its manifest is spoiled."""
    path = _manifest(name, cache)
    if not NAME.fullmatch(name) or not path.is_file():
        return None
    try:
        content: dict[str, Any] = json.loads(path.read_bytes())
        width, height = content["input"]
        labels = content["labels"]
        known = {
            **content,
            "file": cache / "own" / Path(content["file"]).name,
            "input": (int(width), int(height)),
            "classes": tuple(content["classes"]),
            "labels": None if labels is None else {int(number): str(label) for number, label in labels.items()},
        }
        if known.pop("format") == _FORMAT:
            return OwnModel(**known)
        reason = "another format"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f"{type(error).__name__}: {error}"
    raise ModelError(f"{path}: is spoiled ({reason}); import the model again")


def own_models(cache: Path) -> dict[str, OwnModel]:
    """All imported models by name, without those whose manifest is spoiled."""
    found: dict[str, OwnModel] = {}
    for path in sorted((cache / "own").glob("*.json")):
        with contextlib.suppress(ModelError):
            model = own_model(path.stem, cache)
            if model is not None:
                found[model.name] = model
    return found


def files_of(name: str, cache: Path) -> list[Path]:
    """Every file that belongs to the model called `name`: what was pulled, imported, begun and baked."""
    candidates = [
        pulled_path(name, cache),
        _manifest(name, cache),
        *_named(cache / "own", name),
        *_named(cache / "baked", name),
        *_named(cache / "pulled", f".{name}", ".part"),
    ]
    return [path for path in candidates if path.is_file()]


def remove(name: str, cache: Path) -> list[Path]:
    """Removes all files of a model and returns which. Raises ModelError if there are none, StorageError."""
    files = files_of(name, cache)
    if not files:
        raise ModelError(f"model {name} has no files in {cache}")
    for path in files:
        try:
            path.unlink()
        except OSError as error:
            raise StorageError(f"{path}: cannot be removed: {error.strerror}") from error
    return files


def _manifest(name: str, cache: Path) -> Path:
    return cache / "own" / f"{name}.json"


def _named(folder: Path, name: str, suffix: str = ".onnx") -> list[Path]:
    """The files `NAME-HASH.SUFFIX` in a folder."""
    pattern = re.compile(re.escape(name) + r"-[0-9a-f]{16}" + re.escape(suffix))
    return sorted(path for path in folder.iterdir() if pattern.fullmatch(path.name)) if folder.is_dir() else []
