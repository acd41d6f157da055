"""The way from a model setting to a checked, baked model: the embedded one, an imported one, the catalogue, a file."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from detr_sentry.errors import ModelError, ModelRefusedError
from detr_sentry.models.bake import REVISION, bake
from detr_sentry.models.catalog import PLACES, read_catalog
from detr_sentry.models.contract import ModelContract, contract_of, is_baked, load_baked
from detr_sentry.models.graph import parse_model, read_bytes
from detr_sentry.models.store import EMBEDDED, baked_path, cache_dir, own_model, own_models, pulled_path

if TYPE_CHECKING:
    from collections.abc import Mapping

    from detr_sentry.models.catalog import CatalogEntry
    from detr_sentry.settings import ModelSettings

__all__ = ["EMBEDDED", "ResolvedModel", "absent", "cache_dir", "embedded_model", "pulled_path", "resolve_model"]

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


def resolve_model(settings: ModelSettings, state_dir: Path = Path("state")) -> ResolvedModel:
    """The baked model that `settings.name` means, with the classes `settings.labels`.

    `embedded`, an imported model, a catalogue name that was pulled, or a path; exports are baked into the cache under
    the hash of their content and classes, once. Raises ModelError and its kinds, saying what to do.
    """
    cache = cache_dir(settings, state_dir)
    if settings.name == EMBEDDED:
        path = embedded_model()
        contract, data = load_baked(path)
        contract.class_ids(settings.labels)
        return ResolvedModel(path=path, contract=contract, data=data, embedded=True)
    if "/" in settings.name or settings.name.endswith(".onnx"):
        path = Path(settings.name)
        return _baked_form(read_bytes(path), path, path.stem, settings, cache)
    return _from_store(settings, cache)


def absent(entry: CatalogEntry) -> ModelError:
    """What to say and do about a catalogue entry that is not on this machine."""
    if entry.export is not None:
        return ModelError(
            f"model {entry.name} is not on this machine yet, and is published as a checkpoint only: where the package "
            f"rfdetr is installed, `detr-sentry models export {entry.name}`"
        )
    return ModelError(f"model {entry.name} is not on this machine yet: `detr-sentry models pull {entry.name}`")


def _from_store(settings: ModelSettings, cache: Path) -> ResolvedModel:
    own = own_model(settings.name, cache)
    if own is not None:
        data = _checked(own.file, own.sha256, "its manifest's; import it again")
        return _baked_form(data, own.file, own.name, settings, cache, labels=own.labels, threshold=own.threshold)
    catalog = read_catalog()
    entry = catalog.get(settings.name)
    if entry is None:
        known = ", ".join([*catalog, *own_models(cache)])
        raise ModelError(f"model {settings.name!r} is not known; there is {known}, or a path to a file")
    path = pulled_path(entry.name, cache)
    if not path.is_file():
        raise absent(entry)
    data = _checked(path, entry.sha256, f"the catalogue's; `detr-sentry models pull {entry.name}` fetches it anew")
    return _baked_form(data, path, entry.name, settings, cache)


def _checked(path: Path, sha256: str | None, whose: str) -> bytes:
    data = read_bytes(path)
    if hashlib.sha256(data).hexdigest() != sha256:
        raise ModelRefusedError(f"{path}: its sha256 is not {whose}")
    return data


def _baked_form(
    data: bytes,
    path: Path,
    name: str,
    settings: ModelSettings,
    cache: Path,
    *,
    labels: Mapping[int, str] | None = None,
    threshold: float | None = None,
) -> ResolvedModel:
    rules = json.dumps([REVISION, settings.labels, None if labels is None else sorted(labels.items()), threshold])
    kept = baked_path(name, hashlib.sha256(data + b"\0" + rules.encode()).hexdigest(), cache)
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
    bake(data, kept, classes=settings.labels, labels=labels, name=name, threshold=threshold)
    contract, baked = load_baked(kept)
    return ResolvedModel(path=kept, contract=contract, data=baked, embedded=False)
