"""The catalogue of known models, and the way from a setting to a checked, baked model."""

from __future__ import annotations

import hashlib
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detr_sentry.errors import ModelError, ModelRefusedError
from detr_sentry.models.bake import bake
from detr_sentry.models.contract import ModelContract, contract_of, is_baked, load_baked
from detr_sentry.models.graph import parse_model, read_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping

    from detr_sentry.settings import ModelSettings

EMBEDDED = "embedded"
_EMBEDDED_FILE = "person_detr.onnx"
_PACKAGE = Path(__file__).parent
_REPOSITORY = _PACKAGE.parents[2] / "models"


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogEntry:
    """A model that the project knows. `ap` values are the publisher's, on COCO val2017, 0..100; None: not published.

    `url` is None for what comes with the engine. `sha256` is of the file at `url`, `bytes` its size.
    """

    name: str
    title: str
    adapter: str
    licence: str
    source: str
    input: tuple[int, int]
    url: str | None = None
    sha256: str | None = None
    bytes: int | None = None
    ap: float | None = None
    ap50: float | None = None
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedModel:
    """What a model setting led to: a checked baked model, ready for a runtime."""

    path: Path
    contract: ModelContract
    data: bytes
    embedded: bool


def embedded_model() -> Path:
    """The detector that comes with the engine. Raises ModelError if this installation lacks it."""
    for folder in (_PACKAGE / "embedded", _REPOSITORY / "embedded"):
        if (folder / _EMBEDDED_FILE).is_file():
            return folder / _EMBEDDED_FILE
    raise ModelError(f"the embedded detector is missing from this installation ({_PACKAGE / 'embedded'})")


def read_catalog(path: Path | None = None) -> dict[str, CatalogEntry]:
    """The catalogue by name. Raises ModelError, naming the file and entry, if it is not well formed."""
    path = path or next(
        (file for file in (_PACKAGE / "catalog.toml", _REPOSITORY / "catalog.toml") if file.is_file()), None
    )
    if path is None:
        raise ModelError("the model catalogue is missing from this installation")
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8")).get("model", [])
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise ModelError(f"{path}: {error}") from error
    entries = [_entry(table, path) for table in tables]
    names = [entry.name for entry in entries]
    if len(set(names)) != len(names):
        raise ModelError(f"{path}: a name occurs twice among {', '.join(names)}")
    return {entry.name: entry for entry in entries}


def cache_dir(settings: ModelSettings, state_dir: Path) -> Path:
    """Where pulled and baked models lie."""
    return settings.cache_dir or state_dir / "models"


def pulled_path(name: str, cache: Path) -> Path:
    """Where the file of a catalogue entry lies once it was pulled, just as published."""
    return cache / "pulled" / f"{name}.onnx"


def resolve_model(settings: ModelSettings, state_dir: Path) -> ResolvedModel:
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


def _entry(table: Mapping[str, Any], path: Path) -> CatalogEntry:
    where = f"{path}: model {table.get('name', '?')!r}"
    try:
        width, height = table["input"]
        entry = CatalogEntry(**{**table, "input": (int(width), int(height))})
    except (TypeError, ValueError, KeyError) as error:
        raise ModelError(f"{where}: {error}") from error
    if entry.url is not None and (not entry.url.startswith("https://") or len(entry.sha256 or "") != 64):
        raise ModelError(f"{where}: needs an https URL and the sha256 of the file there")
    return entry
