"""The actions of `detr-sentry models` that change what is on this machine: pull, import, export, remove."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detr_sentry.errors import ModelError
from detr_sentry.inference.backends import open_backend
from detr_sentry.inference.model import Detector
from detr_sentry.ipc.heartbeat import read_heartbeat
from detr_sentry.ipc.layout import Layout
from detr_sentry.models import store
from detr_sentry.models.catalog import read_catalog
from detr_sentry.models.classes import read_labels, split_labels
from detr_sentry.models.contract import load_baked
from detr_sentry.models.export import VARIANTS, export_checkpoint
from detr_sentry.models.graph import read_bytes
from detr_sentry.models.imports import import_model, name_of
from detr_sentry.models.progress import Progress
from detr_sentry.models.pull import address_of, is_here, pull
from detr_sentry.models.resolve import resolve_model

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

    from detr_sentry.models.catalog import CatalogEntry
    from detr_sentry.models.contract import ModelContract
    from detr_sentry.settings import Settings


def run_pull(arguments: argparse.Namespace, settings: Settings) -> int:
    """`models pull`: fetches, checks and bakes each of the named models."""
    catalog = read_catalog()
    unknown = [name for name in arguments.models if name not in catalog]
    if unknown:
        raise ModelError(f"the catalogue has no {', '.join(unknown)}; it has {', '.join(catalog)}")
    for name in arguments.models:
        _pull(catalog[name], arguments, settings)
    return 0


def _pull(entry: CatalogEntry, arguments: argparse.Namespace, settings: Settings) -> None:
    cache = store.cache_dir(settings.model, settings.state_dir)
    source = address_of(entry, arguments.mirror or settings.model.mirror)
    with Progress(entry.name, entry.bytes or 0, sys.stderr) as progress:
        progress.note(
            f"{entry.title}: licence {entry.licence}, {entry.source}" + (f" ({entry.note})" * bool(entry.note))
        )
        if is_here(entry, cache):
            progress.note(f"{entry.name} is here already")
        else:
            progress.note(f"from {source}")
            pull(entry, cache, progress=progress, mirror=arguments.mirror or settings.model.mirror)
    _ready(entry.name, settings, as_json=arguments.json)


def run_import(arguments: argparse.Namespace, settings: Settings) -> int:
    """`models import`: checks, tries and keeps a file."""
    name = name_of(arguments.file, arguments.name)
    _import(
        read_bytes(arguments.file),
        name=name,
        origin=str(arguments.file.absolute()),
        labels=labels_of(arguments),
        arguments=arguments,
        settings=settings,
    )
    return 0


def run_export(arguments: argparse.Namespace, settings: Settings) -> int:
    """`models export`: makes the ONNX file with `rfdetr`, and imports it."""
    catalog = read_catalog()
    entry = catalog.get(arguments.source)
    if entry is not None and entry.export is None:
        raise ModelError(f"{entry.name} is published as a whole model: `detr-sentry models pull {entry.name}`")
    if entry is not None:
        sys.stderr.write(f"{entry.title}: licence {entry.licence}, {entry.source}\n")
        checkpoint, class_name = arguments.checkpoint, entry.export
        name = arguments.name or entry.name
    else:
        checkpoint, class_name = Path(arguments.source), VARIANTS.get(arguments.variant)
        name = arguments.name
    name = name_of(checkpoint or Path(arguments.source), name)
    with tempfile.TemporaryDirectory(prefix="detr-sentry-export-") as folder:
        data, labels = export_checkpoint(checkpoint, Path(folder), class_name=class_name)
    origin = str(checkpoint.absolute()) if checkpoint else f"{class_name} of rfdetr"
    named = labels_of(arguments) or labels
    _import(data, name=name, origin=origin, labels=named, arguments=arguments, settings=settings)
    return 0


def run_remove(arguments: argparse.Namespace, settings: Settings) -> int:
    """`models remove`: deletes a model's files and says which."""
    name = arguments.model
    if name == store.EMBEDDED:
        raise ModelError("the embedded detector comes with the engine and cannot be removed")
    cache = store.cache_dir(settings.model, settings.state_dir)
    user = None if arguments.force else _user_of(name, cache, settings)
    if user:
        raise ModelError(f"model {name} is in use: {user}; choose another model first, or use --force")
    files = store.remove(name, cache)
    if arguments.json:
        _say(json.dumps({"removed": [str(path) for path in files]}, indent=2))
    for path in () if arguments.json else files:
        _say(f"removed {path}")
    return 0


def describe(contract: ModelContract) -> dict[str, Any]:
    """A contract as JSON-ready values."""
    values = dataclasses.asdict(contract)
    return {key: value for key, value in values.items() if key not in {"labels", "numbers"}} | {
        key: {str(number): value for number, value in values[key].items()} for key in ("labels", "numbers")
    }


def labels_of(arguments: argparse.Namespace) -> dict[int, str] | None:
    """The labels of `--labels` or `--labels-file`. Raises ModelError."""
    if arguments.labels and arguments.labels_file:
        raise ModelError("--labels and --labels-file say the same: give one of them")
    if arguments.labels_file:
        return read_labels(arguments.labels_file)
    return split_labels(arguments.labels) if arguments.labels else None


def threshold_of(arguments: argparse.Namespace) -> float | None:
    """The score of `--threshold`. Raises ModelError."""
    threshold: float | None = arguments.threshold
    if threshold is not None and not 0.0 <= threshold <= 1.0:
        raise ModelError(f"--threshold {threshold:g}: a score lies between 0 and 1")
    return threshold


def _import(
    data: bytes,
    *,
    name: str,
    origin: str,
    labels: Mapping[int, str] | None,
    arguments: argparse.Namespace,
    settings: Settings,
) -> None:
    cache = store.cache_dir(settings.model, settings.state_dir)
    _, contract = import_model(
        data,
        cache,
        name=name,
        origin=origin,
        labels=labels,
        threshold=threshold_of(arguments),
        replace=arguments.force,
        check=_check_answers,
    )
    missing = [label for label in settings.model.labels if label not in contract.labels.values()]
    if missing:
        sys.stderr.write(
            f"It cannot find {', '.join(missing)}, which model.labels asks for; it finds "
            f"{', '.join(contract.labels.values())}: name some of these in model.labels\n"
        )
        _say(f"{name} is kept in {cache}")
    else:
        _ready(name, settings, as_json=arguments.json)


def _check_answers(contract: ModelContract, baked: bytes) -> None:
    """Runs a baked model once, on gray. Raises ModelRefusedError or BackendError if it answers nonsense."""
    backend = open_backend("onnxruntime", baked, contract)
    try:
        Detector(contract, backend, class_ids=frozenset(contract.labels), floor=0.0).warm_up()
    finally:
        backend.close()


def _ready(name: str, settings: Settings, *, as_json: bool) -> None:
    """Bakes the model as the settings want it, and says how to use it."""
    resolved = resolve_model(dataclasses.replace(settings.model, name=name), settings.state_dir)
    if as_json:
        _say(json.dumps({**describe(resolved.contract), "path": str(resolved.path)}, indent=2))
        return
    found = ", ".join(resolved.contract.labels.values())
    _say(f"{name} is ready ({resolved.width}x{resolved.height}, finds {found}): make run MODEL={name}")


def _user_of(name: str, cache: Path, settings: Settings) -> str | None:
    """Who uses a model: the settings, or the engine that runs with them."""
    if settings.model.name == name:
        return "it is model.name of the settings"
    titles = {name}
    with contextlib.suppress(ModelError):
        own = store.own_model(name, cache)
        if own is not None and own.labels is None:
            titles.add(load_baked(own.file)[0].name)
    beat = read_heartbeat(Layout(settings.shm_root, settings.instance).heartbeat("inference"))
    if beat is not None and not beat.overdue(time.monotonic_ns()) and beat.status.get("model") in titles:
        return f"the running engine (process {beat.pid}) runs it"
    return None


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
