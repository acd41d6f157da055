"""`detr-sentry models build`: a faster form of a model for one runtime, as a file of its own; never the default."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import simplejpeg

from detr_sentry.errors import BackendError, BadFrameError, ModelError
from detr_sentry.models.bake import write_whole
from detr_sentry.models.quantize import quantize_backbone
from detr_sentry.models.resolve import cache_dir, resolve_model

if TYPE_CHECKING:
    import argparse

    import numpy as np
    import numpy.typing as npt

    from detr_sentry.models.contract import ModelContract
    from detr_sentry.models.resolve import ResolvedModel
    from detr_sentry.settings import Settings

BACKENDS = {"onnxruntime": ("int8",), "tensorrt": ("fp16", "int8")}
"""Backend -> the precisions that can be built for it."""
MOST_PICTURES = 200


def add_build_arguments(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The arguments of `models build`."""
    parser = subparsers.add_parser("build", help="make a faster form of a model for one runtime")
    parser.add_argument("model", nargs="?", help="a name or a file (the model of the settings)")
    parser.add_argument("--backend", choices=tuple(BACKENDS), required=True, help="the runtime to build for")
    parser.add_argument("--precision", choices=sorted({p for ps in BACKENDS.values() for p in ps}), required=True)
    parser.add_argument(
        "--calibration", type=Path, metavar="DIR", help="JPEG pictures of the camera's scene, for TensorRT's int8"
    )
    parser.add_argument("--output", type=Path, metavar="FILE", help="the file to write (in the folder of models)")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run_build(arguments: argparse.Namespace, settings: Settings) -> int:
    """Builds and says what came out; raises ModelError's kinds and StorageError."""
    model = dataclasses.replace(settings.model, name=arguments.model or settings.model.name)
    resolved = resolve_model(model, settings.state_dir)
    offered = BACKENDS[arguments.backend]
    if arguments.precision not in offered:
        raise ModelError(f"{arguments.backend} builds {' and '.join(offered)}, not {arguments.precision}")
    cache = cache_dir(settings.model, settings.state_dir)
    if arguments.backend == "tensorrt":
        shown = _build_tensorrt(resolved, cache, arguments)
    else:
        shown = _build_int8(resolved, cache, arguments.output, settings)
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


def _build_tensorrt(resolved: ResolvedModel, cache: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """An engine for this machine's GPU; for INT8 also the quantised model, which any runtime can evaluate."""
    from detr_sentry.inference.backends.tensorrt import gpu_name, load_modules, precision_of
    from detr_sentry.inference.backends.tensorrt_build import build_engine, engine_path
    from detr_sentry.models.half import to_half, to_int8

    trt, cuda = load_modules()
    gpu = gpu_name(cuda)
    contract = resolved.contract
    if precision_of(resolved.data, contract) != "fp16":
        raise ModelError(f"{contract.name} is quantised already; name the float model")
    if arguments.precision == "int8":
        pictures = calibration_pictures(arguments.calibration, contract)
        typed, contract = to_int8(resolved.data, contract, pictures)
        path = arguments.output or cache / "built" / f"{contract.name[:64]}-{contract.sha256[:16]}.onnx"
        write_whole(path, typed)
        use = f"measure it first; then model.name: {path} and model.backend: tensorrt"
    else:
        typed, use = to_half(resolved.data, contract), "model.backend: tensorrt, or auto"
    engine = engine_path(
        cache, model_sha256=contract.sha256, precision=arguments.precision, version=trt.__version__, gpu=gpu
    )
    write_whole(engine, build_engine(trt, typed, timing_cache=engine.with_name("timing.cache")))
    return {"name": contract.name, "engine": str(engine), "gpu": gpu, "tensorrt": trt.__version__, "use": use}


def calibration_pictures(folder: Path | None, contract: ModelContract) -> list[npt.NDArray[np.uint8]]:
    """The JPEG files of `folder` as a model's inputs, at most `MOST_PICTURES`. Raises ModelError."""
    from detr_sentry.inference.preprocess import Preprocessor
    from detr_sentry.ipc.messages import PixelFormat

    files = sorted([*folder.rglob("*.jpg"), *folder.rglob("*.jpeg")])[:MOST_PICTURES] if folder else []
    if not files:
        raise ModelError("INT8 needs pictures of the camera's own scene: --calibration DIR with JPEG files")
    preprocessor = Preprocessor(contract.width, contract.height)
    pictures = []
    for file in files:
        data = file.read_bytes()
        try:
            height, width, _, _ = simplejpeg.decode_jpeg_header(data)
            preprocessor.load(memoryview(data), pixel_format=PixelFormat.MJPEG, width=width, height=height)
        except (BadFrameError, ValueError) as error:
            raise ModelError(f"{file}: {error}") from error
        pictures.append(preprocessor.tensor.copy())
    return pictures
