"""The TensorRT backend. Its calls are tested against stand-ins that record them: TensorRT itself was not run here.

What is real: the graphs given to TensorRT run in ONNX Runtime (test_half.py), and the last test has TensorRT-RTX parse
and build them where `tensorrt_rtx` is installed; it needs no GPU.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import simplejpeg

from detr_sentry.bench.rfdetr_shape import Shape, build
from detr_sentry.errors import BackendError, ModelError
from detr_sentry.inference import backends
from detr_sentry.inference.backends import open_backend, tensorrt
from detr_sentry.inference.backends.tensorrt_build import WORKSPACE_BYTES, build_engine, check_version, engine_path
from detr_sentry.models.bake import bake
from detr_sentry.models.build import add_build_arguments, run_build
from detr_sentry.models.contract import ModelContract, load_baked
from detr_sentry.models.half import to_half, to_int8
from detr_sentry.settings import ModelSettings, Settings
from tests.engine.inference.fake_tensorrt import Calls, FakeCuda, FakeTensorRt

SIDE, QUERIES = 64, 8
SHAPES = {"image": (1, SIDE, SIDE, 3), "detections": (1, QUERIES, 6)}
VERSIONS = ("10.16.1.11", "11.4.0.106")


class Rig(SimpleNamespace):
    trt: FakeTensorRt
    cuda: FakeCuda
    calls: Calls


@pytest.fixture(params=VERSIONS)
def rig(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Rig:
    calls: Calls = []
    cuda = FakeCuda(calls)
    made = Rig(trt=FakeTensorRt(calls, cuda, request.param, dict(SHAPES)), cuda=cuda, calls=calls)
    monkeypatch.setattr(tensorrt, "load_modules", lambda: (made.trt, cuda))
    monkeypatch.setitem(backends.BACKENDS, "tensorrt", ("json",))
    return made


@pytest.fixture(scope="module")
def baked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("shaped") / "tiny.onnx"
    bake(build(Shape(SIDE, 1, queries=QUERIES)).SerializeToString(), path, classes=["person"], name="tiny")
    return path


def built(path: Path, state_dir: Path, *words: str) -> int:
    parser = argparse.ArgumentParser()
    add_build_arguments(parser.add_subparsers(dest="action"))
    arguments = parser.parse_args(["build", str(path), "--backend", "tensorrt", "--json", *words])
    return run_build(arguments, Settings(state_dir=state_dir, model=ModelSettings(threads=1)))


def test_the_engine_is_built_strongly_typed_with_a_timing_cache(rig: Rig, tmp_path: Path) -> None:
    timings = tmp_path / "timing.cache"
    first = build_engine(rig.trt, b"graph", timing_cache=timings)
    second = build_engine(rig.trt, b"graph", timing_cache=timings)
    flag = 1 << 1 if rig.trt.__version__.startswith("10.") else 0

    assert first == second == b"engine of " + rig.trt.__version__.encode()
    assert timings.read_bytes() == b"timings"
    assert [("create_network", flag), ("parse", 5), ("limit", "workspace", WORKSPACE_BYTES)] == rig.calls[:3]
    assert [("timing_cache", b""), ("set_timing_cache", False), ("build", "network")] == rig.calls[3:6]
    assert rig.calls[9] == ("timing_cache", b"timings")


def test_what_tensorrt_cannot_read_or_build_is_an_error_with_its_reason(rig: Rig) -> None:
    rig.trt.parses = False
    with pytest.raises(BackendError, match="does not read the graph: unsupported node Frobnicate"):
        build_engine(rig.trt, b"graph")
    rig.trt.parses, rig.trt.builds = True, False
    with pytest.raises(BackendError, match="builds no engine"):
        build_engine(rig.trt, b"graph")


def test_an_engine_holds_for_one_model_version_gpu_and_precision(tmp_path: Path) -> None:
    first = {"model_sha256": "ab" * 32, "precision": "fp16", "version": "11.4.0", "gpu": "NVIDIA L4, SM 8.9"}
    others = {"model_sha256": "cd" * 32, "precision": "int8", "version": "11.5.0", "gpu": "NVIDIA L4, SM 9.0"}
    paths = {engine_path(tmp_path, **first), *(engine_path(tmp_path, **{**first, k: v}) for k, v in others.items())}

    assert len(paths) == 5
    assert {path.parent for path in paths} == {tmp_path / "tensorrt"}


@pytest.mark.parametrize(("version", "well"), [("10.15.9", False), ("9.3", False), ("10.16.0", True), ("11.0", True)])
def test_older_versions_are_refused(version: str, well: bool) -> None:
    if well:
        check_version(SimpleNamespace(__version__=version))
        return
    with pytest.raises(BackendError, match=r"too old: this engine needs 10\.16"):
        check_version(SimpleNamespace(__version__=version))


def test_build_then_open_runs_one_graph_on_pinned_memory(
    rig: Rig, baked: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status = built(baked, tmp_path, "--precision", "fp16")
    shown = json.loads(capsys.readouterr().out)
    del rig.calls[:]
    contract, data = load_baked(baked)
    backend = open_backend("tensorrt", data, contract, cache=tmp_path / "models")
    opening = [call[0] for call in rig.calls]
    del rig.calls[:]
    scores = [float(backend.run(np.full(SHAPES["image"], level, np.uint8))[0, 4]) for level in (51, 204)]
    running = [call[0] for call in rig.calls]
    provider = backend.provider
    backend.close()

    assert status == 0
    assert Path(shown["engine"]).is_file()
    assert shown["gpu"] == "Test GPU, SM 8.9"
    assert scores == pytest.approx([0.2, 0.8])
    assert running == ["launch", "synchronize"] * 2
    one_run = ["copy", "execute", "copy"]
    assert opening == [
        *("properties", "stream", "host_alloc", "malloc", "host_alloc", "malloc", "address", "address"),
        *(*one_run, "synchronize", "begin_capture", *one_run, "end_capture", "instantiate"),
    ]
    assert provider == f"TensorRT {'.'.join(rig.trt.__version__.split('.')[:2])} FP16"
    assert rig.cuda.memory == {}


def test_int8_is_a_model_of_its_own_with_its_own_engine(
    rig: Rig, baked: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "photos").mkdir()
    noise = np.random.default_rng(1)
    for number in range(2):
        photo = simplejpeg.encode_jpeg(noise.integers(0, 256, (48, 96, 3), np.uint8))
        (tmp_path / "photos" / f"{number}.jpg").write_bytes(photo)
    built(baked, tmp_path, "--precision", "int8", "--calibration", str(tmp_path / "photos"))
    capsys.readouterr()
    (path,) = (tmp_path / "models" / "built").iterdir()
    contract, data = load_baked(path)
    backend = open_backend("tensorrt", data, contract, cache=tmp_path / "models")
    provider = backend.provider
    backend.close()

    assert contract.name == "tiny-int8-qdq"
    assert provider.endswith("INT8")
    with pytest.raises(BackendError, match="there is no TensorRT engine of tiny"):
        open_backend("tensorrt", load_baked(baked)[1], load_baked(baked)[0], cache=tmp_path / "models")
    with pytest.raises(ModelError, match="quantised already"):
        built(path, tmp_path, "--precision", "fp16")


@pytest.mark.parametrize("content", [None, "empty", "broken"])
def test_int8_without_usable_pictures_is_refused(content: str | None, rig: Rig, baked: Path, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    if content == "broken":
        (folder / "a.jpg").write_bytes(b"no JPEG")
    words = () if content is None else ("--calibration", str(folder))

    with pytest.raises(ModelError, match=r"a\.jpg: " if content == "broken" else "--calibration DIR"):
        built(baked, tmp_path, "--precision", "int8", *words)


@pytest.fixture
def engine(rig: Rig, baked: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    built(baked, tmp_path, "--precision", "fp16")
    return Path(json.loads(capsys.readouterr().out)["engine"])


def test_engines_that_do_not_fit_are_refused(rig: Rig, baked: Path, engine: Path, tmp_path: Path) -> None:
    contract, data = load_baked(baked)
    rig.trt.shapes["detections"] = (1, 300, 6)
    with pytest.raises(BackendError, match=r"instead of .*build it again"):
        open_backend("tensorrt", data, contract, cache=tmp_path / "models")
    engine.write_bytes(b"garbage")
    with pytest.raises(BackendError, match="is not an engine that TensorRT"):
        open_backend("tensorrt", data, contract, cache=tmp_path / "models")
    with pytest.raises(BackendError, match="needs the folder of models"):
        open_backend("tensorrt", data, contract)


def test_errors_of_cuda_and_wrong_tensors_are_backend_errors(
    rig: Rig, baked: Path, engine: Path, tmp_path: Path
) -> None:
    contract, data = load_baked(baked)
    backend = open_backend("tensorrt", data, contract, cache=tmp_path / "models")
    image = np.zeros(SHAPES["image"], np.uint8)
    with pytest.raises(BackendError, match="takes uint8"):
        backend.run(image[:, :-1])
    rig.cuda.fail = "launch"
    with pytest.raises(BackendError, match="CUDA failed: 2"):
        backend.run(image)
    rig.cuda.fail = None
    backend.interrupt()
    with pytest.raises(BackendError, match="terminate"):
        backend.run(image)
    backend.close()


def test_without_tensorrt_the_error_says_where_to_read(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(tensorrt, "import_module", missing)

    with pytest.raises(BackendError, match=r"No module named 'tensorrt'.*docs/backends\.md"):
        tensorrt.load_modules()


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None,
    reason="NOT RUN: tensorrt_rtx is not installed, so no TensorRT has parsed these graphs here",
)
@pytest.mark.parametrize("form", ["fp16", "int8"])
def test_tensorrt_rtx_parses_and_builds_the_graphs(form: str, baked: Path) -> None:
    contract, data = load_baked(baked)
    pictures = [np.full(SHAPES["image"], level, np.uint8) for level in (0, 255)]
    forms: dict[str, Callable[[bytes, ModelContract], bytes]] = {
        "fp16": to_half,
        "int8": lambda model, contract: to_int8(model, contract, pictures)[0],
    }
    made = build_engine(importlib.import_module("tensorrt_rtx"), forms[form](data, contract))

    assert len(made) > 1 << 20
