"""`detr-sentry models`: its arguments, and the actions that look at models or bake one."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detr_sentry.model_commands import changes
from detr_sentry.models.bake import bake
from detr_sentry.models.build import add_build_arguments, run_build
from detr_sentry.models.catalog import read_catalog
from detr_sentry.models.export import VARIANTS
from detr_sentry.models.resolve import resolve_model
from detr_sentry.models.store import EMBEDDED, cache_dir, own_model, own_models, pulled_path

if TYPE_CHECKING:
    import argparse

    from detr_sentry.models.contract import ModelContract
    from detr_sentry.settings import Settings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `models`."""
    actions = parser.add_subparsers(title="actions", metavar="ACTION", dest="action", required=True)
    listing = actions.add_parser("list", help="the models that are known by name, and which are on this machine")
    info = actions.add_parser("info", help="what a model takes, gives and finds")
    info.add_argument("model", nargs="?", help="a name or a file (the model of the settings)")
    pulling = actions.add_parser("pull", help="fetch a catalogue model and bake it")
    pulling.add_argument("models", nargs="+", metavar="NAME", help="names of the catalogue: detr-sentry models list")
    pulling.add_argument("--mirror", help="base URL or folder that holds NAME.onnx (model.mirror of the settings)")
    importing = actions.add_parser("import", help="keep an own ONNX export, or a baked model, under a name")
    importing.add_argument("file", type=Path, help="an RF-DETR, DEIM or D-FINE export, or a baked model")
    exporting = actions.add_parser("export", help="turn an RF-DETR checkpoint into a model; needs the package rfdetr")
    exporting.add_argument("source", help="a catalogue name (rfdetr-medium), or an own .pth file")
    exporting.add_argument("--checkpoint", type=Path, metavar="FILE", help="the checkpoint of the catalogue name")
    exporting.add_argument("--variant", choices=tuple(VARIANTS), help="of an own checkpoint that does not say it")
    removing = actions.add_parser("remove", help="delete the files of a pulled or imported model")
    removing.add_argument("model", metavar="NAME", help="a name that `models list` shows as here")
    baking = actions.add_parser("bake", help="turn an RF-DETR, DEIM or D-FINE export into a sentry model file")
    baking.add_argument("source", type=Path, help="the exported ONNX file")
    baking.add_argument("destination", type=Path, help="the file to write")
    baking.add_argument(
        "--classes", help="names of the classes to report, with commas, or `all` (model.labels of the settings)"
    )
    add_build_arguments(actions)
    for action in (importing, exporting, baking):
        action.add_argument("--name", help="the model's name (that of the file)")
        action.add_argument("--labels", help="names of all the model's classes from class 0, if they are not COCO's")
        action.add_argument("--labels-file", type=Path, metavar="FILE", help="the same, one name a line")
        action.add_argument("--threshold", type=float, help="score from which a detection is believed (the family's)")
    for action in (importing, exporting):
        action.add_argument("--force", action="store_true", help="replace the model of this name")
    removing.add_argument("--force", action="store_true", help="even if it is in use")
    for action in (listing, info, pulling, importing, exporting, removing, baking):
        action.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace, settings: Settings) -> int:
    """Runs one action; raises ModelError's kinds and StorageError."""
    match arguments.action:
        case "list":
            return _list(settings, as_json=arguments.json)
        case "info":
            return _info(arguments, settings)
        case "pull":
            return changes.run_pull(arguments, settings)
        case "import":
            return changes.run_import(arguments, settings)
        case "export":
            return changes.run_export(arguments, settings)
        case "remove":
            return changes.run_remove(arguments, settings)
        case "build":
            return run_build(arguments, settings)
        case _:
            return _bake(arguments, settings)


def _list(settings: Settings, *, as_json: bool) -> int:
    cache = cache_dir(settings.model, settings.state_dir)
    own = own_models(cache)
    rows: list[dict[str, Any]] = []
    for entry in read_catalog().values():
        imported = own.pop(entry.name, None)
        here = entry.name == EMBEDDED or imported is not None or pulled_path(entry.name, cache).is_file()
        rows.append({**dataclasses.asdict(entry), "here": here, "own": False})
    for model in own.values():
        named = {"name": model.name, "title": f"your own, from {Path(model.origin).name}", "adapter": model.adapter}
        shape = {"input": model.input, "bytes": model.bytes, "classes": model.classes, "ap": None, "licence": "-"}
        rows.append({**named, **shape, "here": True, "own": True})
    if as_json:
        sys.stdout.write(json.dumps({"models": rows}, indent=2) + "\n")
        return 0
    width = max(len(row["name"]) for row in rows)
    for row in rows:
        size = f"{row['input'][0]}x{row['input'][1]}"
        accuracy = "AP   -  " if row["ap"] is None else f"AP {row['ap']:4.1f}"
        place = "here" if row["here"] else "export" if row["bytes"] is None else f"{row['bytes'] / 1e6:.0f} MB"
        sys.stdout.write(
            f"{row['name']:<{width}} {size:>8}  {accuracy}  {row['licence']:<11} {place:<7} {row['title']}\n"
        )
    return 0


def _info(arguments: argparse.Namespace, settings: Settings) -> int:
    model = settings.model
    if arguments.model:
        model = dataclasses.replace(model, name=arguments.model)
    cache = cache_dir(model, settings.state_dir)
    entry = read_catalog().get(model.name)
    own = own_model(model.name, cache)
    known: dict[str, Any] = (
        {} if entry is None else {key: value for key, value in dataclasses.asdict(entry).items() if value}
    )
    if entry is not None and own is None and model.name != EMBEDDED and not pulled_path(model.name, cache).is_file():
        _show({**known, "here": False}, as_json=arguments.json)
        return 0
    resolved = resolve_model(model, settings.state_dir)
    shown = {"path": str(resolved.path), "bytes": len(resolved.data), "embedded": resolved.embedded}
    about: dict[str, Any] = {key: known[key] for key in ("licence", "source", "ap", "ap50", "note") if key in known}
    origin = {} if own is None else {"origin": own.origin}
    _show({**changes.describe(resolved.contract), **shown, **about, **origin}, as_json=arguments.json)
    return 0


def _bake(arguments: argparse.Namespace, settings: Settings) -> int:
    names = tuple(name.strip() for name in (arguments.classes or "").split(",") if name.strip())
    contract: ModelContract = bake(
        arguments.source,
        arguments.destination,
        classes=None if arguments.classes == "all" else names or settings.model.labels,
        labels=changes.labels_of(arguments),
        name=arguments.name,
        threshold=changes.threshold_of(arguments),
    )
    _show({**changes.describe(contract), "path": str(arguments.destination)}, as_json=arguments.json)
    return 0


def _show(values: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        sys.stdout.write(json.dumps(values, indent=2) + "\n")
        return
    for key, value in values.items():
        match value:
            case dict():
                text = ", ".join(f"{number} {name}" for number, name in value.items())
            case [*_]:
                text = ", ".join(str(item) for item in value)
            case _:
                text = str(value)
        sys.stdout.write(f"{key:<14} {text}\n")
