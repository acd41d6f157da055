"""`models build --backend onnxruntime --precision int8`, on a small graph with RF-DETR's names."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from detr_sentry.bench.rfdetr_shape import Shape, build
from detr_sentry.errors import ModelError, ModelRefusedError
from detr_sentry.inference.backends import open_backend
from detr_sentry.inference.synthetic import pictures
from detr_sentry.models.bake import bake
from detr_sentry.models.build import add_build_arguments, run_build
from detr_sentry.models.contract import ModelContract, load_baked
from detr_sentry.models.graph import metadata_of
from detr_sentry.models.quantize import _multiplies_exactly, backbone_matmuls, quantize_backbone
from detr_sentry.models.resolve import embedded_model
from detr_sentry.settings import ModelSettings, Settings

LAYERS = 1


@pytest.fixture(scope="module")
def baked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("shaped") / "tiny.onnx"
    bake(build(Shape(64, LAYERS, queries=8)).SerializeToString(), path, classes=["person"], name="tiny")
    return path


@pytest.fixture(scope="module")
def int8(baked: Path) -> tuple[bytes, ModelContract]:
    contract, data = load_baked(baked)
    return quantize_backbone(data, contract)


def arguments_for(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_build_arguments(parser.add_subparsers(dest="action"))
    return parser.parse_args(["build", *words])


def test_the_backbone_is_int8_and_the_decoder_is_not(baked: Path, int8: tuple[bytes, ModelContract]) -> None:
    before = onnx.load(baked).graph
    after = onnx.load_from_string(int8[0]).graph
    integer = [node.name for node in after.node if node.op_type == "MatMulInteger"]
    floats = [node.name for node in after.node if node.op_type == "MatMul"]

    assert len(integer) == len(backbone_matmuls(before)) == 12 * 6
    assert all("backbone" in name for name in integer)
    assert sum("decoder" in name for name in floats) == sum(
        "decoder" in node.name for node in before.node if node.op_type == "MatMul"
    )
    assert not any(node.op_type == "ConvInteger" for node in after.node)


def test_the_file_says_what_it_is_and_gives_nearly_the_same(baked: Path, int8: tuple[bytes, ModelContract]) -> None:
    contract, data = load_baked(baked)
    props = metadata_of(onnx.load_from_string(int8[0]))
    float_backend = open_backend("onnxruntime", data, contract, threads=1)
    int8_backend = open_backend("onnxruntime", int8[0], int8[1], threads=1)
    image = pictures(contract.width, contract.height)[0]
    expected, actual = float_backend.run(image), int8_backend.run(image)

    assert int8[1].name == "tiny-int8"
    assert (props["detr_sentry.precision"], props["detr_sentry.float_sha256"]) == (
        "int8-dynamic-backbone",
        contract.sha256,
    )
    assert np.abs(np.sort(expected[:, 4]) - np.sort(actual[:, 4])).max() < 0.05
    assert not np.array_equal(expected, actual)
    assert len(int8[0]) < 0.5 * len(data)


def test_the_command_writes_a_model_that_runs(baked: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = Settings(state_dir=tmp_path, model=ModelSettings(threads=1))
    status = run_build(arguments_for(str(baked), "--backend", "onnxruntime", "--precision", "int8", "--json"), settings)
    shown = json.loads(capsys.readouterr().out)
    contract, _ = load_baked(Path(shown["path"]))

    assert status == 0
    assert Path(shown["path"]).parent == tmp_path / "models" / "built"
    assert (contract.name, contract.sha256) == ("tiny-int8", shown["sha256"])
    assert shown["speedup"] > 0


def test_what_cannot_be_quantised_is_refused(baked: Path, int8: tuple[bytes, ModelContract]) -> None:
    contract, data = load_baked(embedded_model())

    with pytest.raises(ModelRefusedError, match="no MatMul lies in a part called `backbone`"):
        quantize_backbone(data, contract)
    with pytest.raises(ModelRefusedError, match="quantised already"):
        quantize_backbone(*int8)


@pytest.mark.parametrize(
    ("flags", "exact"),
    [
        ("flags: avx2 avx512_vnni", True),
        ("flags: avx_vnni", True),
        ("Features: fp asimd", True),
        ("flags: avx2", False),
    ],
)
def test_a_bit_is_spared_where_the_cpu_would_clip(flags: str, exact: bool, tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text(flags)

    assert _multiplies_exactly(tmp_path / "cpuinfo") == exact
    assert not _multiplies_exactly(tmp_path / "none")


def test_a_precision_that_the_backend_does_not_have_is_refused(baked: Path, tmp_path: Path) -> None:
    arguments = arguments_for(str(baked), "--backend", "onnxruntime", "--precision", "int8")
    arguments.precision = "fp16"

    with pytest.raises(ModelError, match="onnxruntime builds int8, not fp16"):
        run_build(arguments, Settings(state_dir=tmp_path, model=ModelSettings(threads=1)))
