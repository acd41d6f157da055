"""`detr-sentry models`: list what is known, show what a model is, bake an export."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detr_sentry.errors import ModelError
from detr_sentry.models.bake import bake
from detr_sentry.models.catalog import read_catalog
from detr_sentry.models.resolve import EMBEDDED, cache_dir, pulled_path, resolve_model

if TYPE_CHECKING:
    import argparse

    from detr_sentry.models.contract import ModelContract
    from detr_sentry.settings import Settings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `models`."""
    actions = parser.add_subparsers(title="actions", metavar="ACTION", dest="action", required=True)
    listing = actions.add_parser("list", help="the models that are known by name")
    info = actions.add_parser("info", help="what a model takes, gives and finds")
    info.add_argument("model", nargs="?", help="embedded, a catalogue name or a file (the model of the settings)")
    baking = actions.add_parser("bake", help="turn an RF-DETR, DEIM or D-FINE export into a sentry model")
    baking.add_argument("source", type=Path, help="the exported ONNX file")
    baking.add_argument("destination", type=Path, help="the file to write")
    baking.add_argument(
        "--classes", help="names of the classes to report, with commas, or `all` (model.labels of the settings)"
    )
    baking.add_argument("--labels", help="names of all the model's classes from class 0, if they are not COCO's")
    baking.add_argument("--name", help="the model's name (that of the file)")
    baking.add_argument("--threshold", type=float, help="score from which a detection is believed (the family's)")
    for action in (listing, info, baking):
        action.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace, settings: Settings) -> int:
    """Runs one action; raises ModelError's kinds."""
    match arguments.action:
        case "list":
            return _list(settings, as_json=arguments.json)
        case "info":
            return _info(arguments, settings)
        case _:
            return _bake(arguments, settings)


def _list(settings: Settings, *, as_json: bool) -> int:
    cache = cache_dir(settings.model, settings.state_dir)
    rows = [
        {**dataclasses.asdict(entry), "here": entry.name == EMBEDDED or pulled_path(entry.name, cache).is_file()}
        for entry in read_catalog().values()
    ]
    if as_json:
        print(json.dumps({"models": rows}, indent=2))
        return 0
    for row in rows:
        size = f"{row['input'][0]}x{row['input'][1]}"
        accuracy = "AP   -  " if row["ap"] is None else f"AP {row['ap']:4.1f}"
        here = "here" if row["here"] else f"{row['bytes'] / 1e6:.0f} MB"
        print(f"{row['name']:<14} {size:>8}  {accuracy}  {row['licence']:<11} {here:<7} {row['title']}")
    return 0


def _info(arguments: argparse.Namespace, settings: Settings) -> int:
    model = settings.model
    if arguments.model:
        model = dataclasses.replace(model, name=arguments.model)
    resolved = resolve_model(model, settings.state_dir)
    shown = {"path": str(resolved.path), "bytes": len(resolved.data), "embedded": resolved.embedded}
    _show({**_describe(resolved.contract), **shown}, as_json=arguments.json)
    return 0


def _bake(arguments: argparse.Namespace, settings: Settings) -> int:
    classes = None if arguments.classes == "all" else _names(arguments.classes) or settings.model.labels
    labels = dict(enumerate(_names(arguments.labels))) if arguments.labels else None
    if arguments.threshold is not None and not 0.0 <= arguments.threshold <= 1.0:
        raise ModelError(f"--threshold {arguments.threshold:g}: a score lies between 0 and 1")
    contract = bake(
        arguments.source,
        arguments.destination,
        classes=classes,
        labels=labels,
        name=arguments.name,
        threshold=arguments.threshold,
    )
    _show({**_describe(contract), "path": str(arguments.destination)}, as_json=arguments.json)
    return 0


def _names(text: str | None) -> tuple[str, ...]:
    return tuple(name.strip() for name in (text or "").split(",") if name.strip())


def _describe(contract: ModelContract) -> dict[str, Any]:
    return {key: value for key, value in dataclasses.asdict(contract).items() if key != "labels"} | {
        "labels": {str(number): name for number, name in contract.labels.items()}
    }


def _show(values: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(values, indent=2))
        return
    for key, value in values.items():
        text = ", ".join(f"{number} {name}" for number, name in value.items()) if key == "labels" else value
        print(f"{key:<14} {text}")
