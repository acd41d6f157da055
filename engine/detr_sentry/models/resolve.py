"""The way from a model setting to a checked, baked model: what comes with the engine, a catalogue name, or a file."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from detr_sentry.errors import ModelError, ModelRefusedError
from detr_sentry.models.bake import bake
from detr_sentry.models.catalog import PLACES, read_catalog
from detr_sentry.models.contract import ModelContract, contract_of, is_baked, load_baked
from detr_sentry.models.graph import parse_model, read_bytes

if TYPE_CHECKING:
    from detr_sentry.settings import ModelSettings

EMBEDDED = "embedded"
_EMBEDDED_FILE = "person_detr.onnx"


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedModel:
    """What a model setting led to: a checked baked model, ready for a runtime."""

    path: Path
    contract: ModelContract
    data: bytes
    embedded: bool

    @property
    def name(self) -> str:
        """The model's own name."""
        return self.contract.name

    @property
    def width(self) -> int:
        """Of its input, in pixels."""
        return self.contract.width

    @property
    def height(self) -> int:
        """Of its input, in pixels."""
        return self.contract.height


def embedded_model() -> Path:
    """The detector that comes with the engine. Raises ModelError if this installation lacks it."""
    for place in PLACES:
        path = place / "embedded" / _EMBEDDED_FILE
        if path.is_file():
            return path
    raise ModelError(f"the embedded detector is missing from this installation ({PLACES[0] / 'embedded'})")


def cache_dir(settings: ModelSettings, state_dir: Path) -> Path:
    """Where pulled and baked models lie."""
    return settings.cache_dir or state_dir / "models"


def pulled_path(name: str, cache: Path) -> Path:
    """Where the file of a catalogue entry lies once it was pulled, just as published."""
    return cache / "pulled" / f"{name}.onnx"


def resolve_model(settings: ModelSettings, state_dir: Path = Path("state")) -> ResolvedModel:
    """The baked model that `settings.name` means, with the classes `settings.labels`.

    `embedded`, a catalogue name that was pulled, or a path; exports are baked into the cache under the hash of their
    content and classes, once. Raises ModelError and its kinds, saying what to do.
    """
    cache = cache_dir(settings, state_dir)
    if settings.name == EMBEDDED:
        path = embedded_model()
        contract, data = load_baked(path)
        contract.class_ids(settings.labels)
        return ResolvedModel(path=path, contract=contract, data=data, embedded=True)
    if "/" in settings.name or settings.name.endswith(".onnx"):
        return _from_file(Path(settings.name), settings, cache)
    return _from_catalog(settings, cache)


def _from_catalog(settings: ModelSettings, cache: Path) -> ResolvedModel:
    catalog = read_catalog()
    entry = catalog.get(settings.name)
    if entry is None:
        raise ModelError(f"model {settings.name!r} is not known; there is {', '.join(catalog)}, or a path to a file")
    path = pulled_path(entry.name, cache)
    if not path.is_file():
        raise ModelError(f"model {entry.name} is not on this machine yet: download {entry.url} to {path}")
    data = read_bytes(path)
    if hashlib.sha256(data).hexdigest() != entry.sha256:
        raise ModelRefusedError(f"{path}: its sha256 is not the catalogue's; delete it and fetch it again")
    return _baked_form(data, path, entry.name, settings, cache)


def _from_file(path: Path, settings: ModelSettings, cache: Path) -> ResolvedModel:
    return _baked_form(read_bytes(path), path, path.stem, settings, cache)


def _baked_form(data: bytes, path: Path, name: str, settings: ModelSettings, cache: Path) -> ResolvedModel:
    digest = hashlib.sha256(data + b"\0" + "\0".join(settings.labels).encode()).hexdigest()
    kept = cache / "baked" / f"{name[:64]}-{digest[:16]}.onnx"
    if kept.is_file():
        try:
            contract, baked = load_baked(kept)
        except ModelRefusedError:
            kept.unlink()
        else:
            return ResolvedModel(path=kept, contract=contract, data=baked, embedded=False)
    model = parse_model(data, str(path))
    if is_baked(model):
        contract = contract_of(model, data, str(path))
        contract.class_ids(settings.labels)
        return ResolvedModel(path=path, contract=contract, data=data, embedded=False)
    bake(data, kept, classes=settings.labels, name=name)
    contract, baked = load_baked(kept)
    return ResolvedModel(path=kept, contract=contract, data=baked, embedded=False)
