"""`detr-sentry models build`: a faster form of a model for one runtime, as a file of its own; never the default."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detr_sentry.errors import BackendError, ModelError
from detr_sentry.models.bake import write_whole
from detr_sentry.models.quantize import quantize_backbone
from detr_sentry.models.resolve import cache_dir, resolve_model

if TYPE_CHECKING:
    import argparse

    from detr_sentry.models.resolve import ResolvedModel
    from detr_sentry.settings import Settings

BACKENDS = {"onnxruntime": ("int8",)}
"""Backend -> the precisions that can be built for it."""


def add_build_arguments(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The arguments of `models build`."""
    parser = subparsers.add_parser("build", help="make a faster form of a model for one runtime")
    parser.add_argument("model", nargs="?", help="a name or a file (the model of the settings)")
    parser.add_argument("--backend", choices=tuple(BACKENDS), required=True, help="the runtime to build for")
    parser.add_argument("--precision", choices=sorted({p for ps in BACKENDS.values() for p in ps}), required=True)
    parser.add_argument("--output", type=Path, metavar="FILE", help="the file to write (in the folder of models)")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run_build(arguments: argparse.Namespace, settings: Settings) -> int:
    """Builds and says what came out; raises ModelError's kinds and StorageError."""
    model = dataclasses.replace(settings.model, name=arguments.model or settings.model.name)
    resolved = resolve_model(model, settings.state_dir)
    offered = BACKENDS[arguments.backend]
    if arguments.precision not in offered:
        raise ModelError(f"{arguments.backend} builds {' and '.join(offered)}, not {arguments.precision}")
    shown = _build_int8(resolved, cache_dir(settings.model, settings.state_dir), arguments.output, settings)
    print(json.dumps(shown, indent=2) if arguments.json else "\n".join(f"{k:<14} {v}" for k, v in shown.items()))
    return 0


def _build_int8(resolved: ResolvedModel, cache: Path, output: Path | None, settings: Settings) -> dict[str, Any]:
    from detr_sentry.inference.selfcheck import compare

    data, contract = quantize_backbone(resolved.data, resolved.contract)
    path = output or cache / "built" / f"{contract.name[:64]}-{contract.sha256[:16]}.onnx"
    compared = compare(resolved.data, data, resolved.contract, threads=settings.model.threads)
    if not compared.finite:
        raise BackendError(f"{contract.name} gives numbers that are not finite")
    write_whole(path, data)
    return {
        "name": contract.name,
        "path": str(path),
        "precision": "int8, MatMuls of the backbone",
        "bytes": f"{len(data)} (float: {len(resolved.data)})",
        "speedup": round(compared.speedup, 2),
        "differs": compared.difference or "finds the same on the built-in pictures",
        "sha256": contract.sha256,
        "use": f"measure it first: detr-sentry eval FOLDER --model {path}; then model.name: {path}",
    }
