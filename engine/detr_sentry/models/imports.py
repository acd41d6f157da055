"""Taking a user's own model into the store: an export of a known family, or a file that is baked already."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from detr_sentry.errors import ModelError
from detr_sentry.models import store
from detr_sentry.models.bake import bake_graph
from detr_sentry.models.catalog import NAME, read_catalog
from detr_sentry.models.contract import contract_of, is_baked
from detr_sentry.models.graph import parse_model

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from detr_sentry.models.contract import ModelContract
    from detr_sentry.models.store import OwnModel

_SAYS_NOTHING = frozenset({"inference_model", "model", "best", "last", "backbone_model"})
"""Names that every exporter gives; a model deserves its own."""


def name_of(path: Path, name: str | None) -> str:
    """The name to import a file under. Raises ModelError if there is none, or if it means another model."""
    name = name or path.stem.lower().replace(" ", "-")
    if not NAME.fullmatch(name):
        raise ModelError(f"model name {name!r}: 1 to 48 of a-z, 0-9, -, _ and .; choose one with --name")
    if name in _SAYS_NOTHING or name.startswith("checkpoint"):
        raise ModelError(f"{path.name} says little about the model: give it a name with --name")
    if name.endswith(".onnx"):
        raise ModelError(f"model name {name!r}: means a file; choose one without .onnx")
    entry = read_catalog().get(name)
    if entry is not None and entry.export is None:
        raise ModelError(f"{name} is the catalogue's name of another model; choose one with --name")
    return name


def import_model(
    data: bytes,
    cache: Path,
    *,
    name: str,
    origin: str,
    labels: Mapping[int, str] | None = None,
    threshold: float | None = None,
    replace: bool = False,
    check: Callable[[ModelContract, bytes], None] | None = None,
) -> tuple[OwnModel, ModelContract]:
    """Keeps the model `data` as `name` after it was baked on trial, and returns it with the contract of that.

    `labels` are its classes by their numbers, `check` runs the baked form. Raises ModelRefusedError and what `check`
    raises, with nothing kept; ModelError if the name is taken and not to `replace`; StorageError.
    """
    if not replace and store.own_model(name, cache) is not None:
        raise ModelError(f"model {name} is here already; --force replaces it")
    model = parse_model(data, origin)
    if is_baked(model):
        if labels is not None or threshold is not None:
            raise ModelError(
                f"{origin}: is baked already, its labels and threshold are fixed; import the export itself"
            )
        baked = data
    else:
        digest = hashlib.sha256(data).hexdigest()
        baked = bake_graph(model, origin, source_sha256=digest, name=name, labels=labels, threshold=threshold)
    contract = contract_of(parse_model(baked, origin), baked, origin)
    if check is not None:
        check(contract, baked)
    kept = store.keep(
        data,
        cache,
        name=name,
        adapter=contract.adapter,
        layout=contract.layout,
        size=(contract.width, contract.height),
        classes=tuple(contract.labels.values()),
        origin=origin,
        labels=labels,
        threshold=threshold,
    )
    return kept, contract
