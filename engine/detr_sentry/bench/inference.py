"""`detr-sentry bench inference`: a model's time in every backend, and of what the engine does before and after it.

The backends of a model take turns, run by run, so that load which comes and goes hits all of them; `p50` and above are
of this machine as busy as it was, `min` is the best estimate of the work itself, and `ratio` compares minima with ONNX
Runtime's in float. RF-DETR's graphs carry random weights (see `rfdetr_shape`): they take the time, and find nothing.
"""

from __future__ import annotations

import logging
import os
import tempfile
from functools import partial
from importlib import metadata
from pathlib import Path
from time import perf_counter_ns, process_time_ns
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from detr_sentry.bench import rfdetr_shape
from detr_sentry.errors import ModelError
from detr_sentry.inference.backends import candidates, installed, open_backend
from detr_sentry.inference.model import Detector
from detr_sentry.inference.preprocess import Preprocessor
from detr_sentry.inference.synthetic import pictures
from detr_sentry.ipc.messages import PixelFormat
from detr_sentry.models.bake import bake
from detr_sentry.models.contract import load_baked
from detr_sentry.models.quantize import quantize_backbone
from detr_sentry.models.resolve import embedded_model

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from detr_sentry.inference.backends import Backend
    from detr_sentry.models.contract import ModelContract

REFERENCE = "onnxruntime"
LEAST_SPEEDUP = 1.8
"""Of OpenVINO against ONNX Runtime on the Nano-shaped graph, on a CPU that computes in BF16."""
_SMALL_ROUNDS, _LARGE_ROUNDS, _WARM_UP = 200, 20, 2
_DEIMV2 = ("atto", "femto")
_log = logging.getLogger("detr_sentry.bench")


def measure(*, quick: bool = False) -> dict[str, Any]:
    """The JSON of `bench inference`. Takes about two minutes on two cores, `quick` some seconds."""
    threads = min(len(os.sched_getaffinity(0)), 4)
    cv2.setNumThreads(1)
    models: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="detr-sentry-bench-") as folder:
        for name, path, rounds in _models(Path(folder), quick=quick):
            models[name] = _model(path, rounds, threads, Path(folder))
    result = {
        "threads": threads,
        "load_after": round(os.getloadavg()[0], 2),
        "versions": {name: metadata.version(name) for name in ("numpy", "onnx", *installed()) if name != "tensorrt"},
        "models": models,
        "preprocess": _preprocessing(10 if quick else 200),
        "postprocess_us": _postprocessing(50 if quick else 2000),
    }
    return result | {"budgets": {} if quick else _budgets(models)}


def _models(folder: Path, *, quick: bool) -> Iterator[tuple[str, Path, int]]:
    """Name, baked file and rounds of every model that can be had here."""
    small, large = (5, 2) if quick else (_SMALL_ROUNDS, _LARGE_ROUNDS)
    yield "embedded", embedded_model(), small
    shared = Path(os.environ.get("DETR_SENTRY_TEST_DATA", Path(__file__).parents[4] / "shared"))
    for size in _DEIMV2:
        export = shared / "models" / f"deimv2_hgnetv2_{size}_coco.onnx"
        if export.is_file():
            path = folder / f"{size}.onnx"
            bake(export, path, classes=["person"], name=f"deimv2-{size}")
            yield f"deimv2-{size}", path, small
        else:
            _log.warning("DEIMv2 %s is not measured: %s is not there", size, export)
    for name, shape in rfdetr_shape.SHAPES.items():
        if quick and name != "rfdetr-nano-shaped":
            continue
        path = folder / f"{name}.onnx"
        bake(rfdetr_shape.build(shape).SerializeToString(), path, classes=["person"], name=name)
        yield name, path, large
        path.unlink()


def _model(path: Path, rounds: int, threads: int, folder: Path) -> dict[str, Any]:
    contract, data = load_baked(path)
    image = pictures(contract.width, contract.height)[0]
    backends = _open_all(contract, data, threads, folder)
    times: dict[str, list[int]] = {name: [] for name in backends}
    cpu = dict.fromkeys(backends, 0)
    for turn in range(_WARM_UP + rounds):
        for name, backend in backends.items():
            begun_ns, cpu_ns = perf_counter_ns(), process_time_ns()
            backend.run(image)
            if turn >= _WARM_UP:
                times[name].append(perf_counter_ns() - begun_ns)
                cpu[name] += process_time_ns() - cpu_ns
    best = min(times[REFERENCE])
    figures = {
        name: {
            **_milliseconds(times[name]),
            "cpu_ms": round(cpu[name] / rounds / 1e6, 3),
            "ratio": round(best / min(times[name]), 2),
            "provider": backend.provider,
        }
        for name, backend in backends.items()
    }
    for backend in backends.values():
        backend.close()
    return figures


def _open_all(contract: ModelContract, data: bytes, threads: int, folder: Path) -> dict[str, Backend]:
    """Every backend that runs the model here, by the name under which its figures go."""
    backends = {REFERENCE: open_backend(REFERENCE, data, contract, threads=threads)}
    for name in candidates():
        try:
            backends[name.removesuffix(":CPU")] = open_backend(name, data, contract, threads=threads, cache=folder)
        except ModelError as error:
            _log.warning("%s is not measured: %s", name, error)
    try:
        int8, int8_contract = quantize_backbone(data, contract)
    except ModelError:  # no transformer in its backbone
        return backends
    backends["onnxruntime-int8"] = open_backend(REFERENCE, int8, int8_contract, threads=threads)
    return backends


def _preprocessing(rounds: int) -> dict[str, dict[str, float]]:
    """A 1080p frame into the tensor of a 384 x 384 model, by cameras' formats; `gate`: into the motion gate's."""
    from detr_sentry.bench.pipeline import make_frames

    width, height = 1920, 1080
    (jpeg,) = make_frames(1)
    noise = np.random.default_rng(3)
    frames = {
        PixelFormat.MJPEG: jpeg,
        PixelFormat.YUYV: noise.integers(0, 256, width * height * 2, np.uint8).tobytes(),
        PixelFormat.I420: noise.integers(0, 256, width * height * 3 // 2, np.uint8).tobytes(),
        PixelFormat.RGB24: noise.integers(0, 256, width * height * 3, np.uint8).tobytes(),
    }
    preprocessor = Preprocessor(384, 384)
    figures = {}
    for pixel_format, frame in frames.items():
        load = partial(preprocessor.load, memoryview(frame), pixel_format=pixel_format, width=width, height=height)
        figures[f"{pixel_format.name.lower()}_ms"] = _milliseconds(_sample(rounds, load))
    gate = partial(preprocessor.gray, memoryview(jpeg), pixel_format=PixelFormat.MJPEG, width=width, height=height)
    return {**figures, "mjpeg_gate_ms": _milliseconds(_sample(rounds, gate))}


def _postprocessing(rounds: int) -> dict[str, dict[str, float]]:
    """A model's 300 rows into detections, with 0, 5 and 100 of them above the threshold."""
    contract, data = load_baked(embedded_model())
    backend = open_backend(REFERENCE, data, contract, threads=1)
    detector = Detector(contract, backend, class_ids=frozenset({1}), floor=0.2)
    random = np.random.default_rng(5)
    figures = {}
    for count in (0, 5, 100):
        corners = random.uniform(0.0, 0.6, (300, 2))
        rows = np.concatenate([corners, corners + 0.3, np.zeros((300, 1)), np.ones((300, 1))], 1).astype(np.float32)
        rows[:count, 4] = 0.9
        times = _sample(rounds, partial(detector.select, rows, width=1920, height=1080))
        figures[str(count)] = {name: round(value, 1) for name, value in _shares(times, 1e3).items()}
    backend.close()
    return figures


def _sample(rounds: int, work: Callable[[], object]) -> list[int]:
    times = []
    for _ in range(rounds + _WARM_UP):
        begun_ns = perf_counter_ns()
        work()
        times.append(perf_counter_ns() - begun_ns)
    return times[_WARM_UP:]


def _milliseconds(times: Sequence[int]) -> dict[str, float]:
    shares = {f"{name}_ms": round(value, 3) for name, value in _shares(times, 1e6).items()}
    return {**shares, "rounds": len(times)}


def _shares(times: Sequence[int], unit: float) -> dict[str, float]:
    """Least, median, 95 and 99 of 100, in units of `unit` nanoseconds."""
    ordered = sorted(times)

    def at(share: int) -> float:
        return ordered[min(len(ordered) - 1, len(ordered) * share // 100)] / unit

    return {"min": ordered[0] / unit, "p50": at(50), "p95": at(95), "p99": at(99)}


def _budgets(models: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """OpenVINO's gain, judged where a CPU gives it BF16."""
    figures = models["rfdetr-nano-shaped"].get("openvino")
    if figures is None or not figures["provider"].endswith("BF16"):
        return {}
    speedup = figures["ratio"]
    return {
        "OpenVINO BF16 over ONNX Runtime, Nano-shaped": {
            "value": speedup,
            "limit": f">= {LEAST_SPEEDUP}",
            "met": speedup >= LEAST_SPEEDUP,
        }
    }
