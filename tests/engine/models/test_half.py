"""The graphs that TensorRT is given, run by ONNX Runtime."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from detr_sentry.bench.rfdetr_shape import Shape, build
from detr_sentry.errors import ModelError, ModelRefusedError
from detr_sentry.inference.backends import open_backend
from detr_sentry.inference.selfcheck import differences
from detr_sentry.inference.synthetic import pictures
from detr_sentry.models.bake import bake
from detr_sentry.models.contract import ModelContract, load_baked
from detr_sentry.models.half import to_half, to_int8
from detr_sentry.models.quantize import quantize_backbone
from detr_sentry.models.resolve import embedded_model


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[ModelContract, bytes]:
    path = tmp_path_factory.mktemp("shaped") / "tiny.onnx"
    bake(build(Shape(64, 1, queries=8)).SerializeToString(), path, classes=["person"], name="tiny")
    return load_baked(path)


def types_into(graph: onnx.GraphProto, operator: str, part: str = "") -> set[int]:
    """Element types of the first inputs of these nodes, as shape inference sees them."""
    kinds = {value.name: value.type.tensor_type.elem_type for value in (*graph.value_info, *graph.input)}
    kinds |= {tensor.name: tensor.data_type for tensor in graph.initializer}
    return {kinds[node.input[0]] for node in graph.node if node.op_type == operator and part in node.name}


def test_fp16_computes_in_half_but_for_what_boxes_need(tiny: tuple[ModelContract, bytes]) -> None:
    contract, data = tiny
    half = to_half(data, contract)
    graph = onnx.shape_inference.infer_shapes(onnx.load_from_string(half)).graph

    assert types_into(graph, "MatMul", "backbone") == types_into(graph, "MatMul", "decoder") == {TensorProto.FLOAT16}
    assert types_into(graph, "MatMul", "bbox_embed") == {TensorProto.FLOAT}
    for operator in ("LayerNormalization", "Softmax", "TopK", "GridSample"):
        assert types_into(graph, operator) == {TensorProto.FLOAT}
    assert graph.input[0].type.tensor_type.elem_type == TensorProto.UINT8
    assert graph.output[0].type.tensor_type.elem_type == TensorProto.FLOAT
    assert len(half) < 0.55 * len(data)


def test_uint8_goes_into_a_cast_only_as_tensorrt_wants_it(tiny: tuple[ModelContract, bytes]) -> None:
    contract, data = tiny
    for typed in (to_half(data, contract), to_int8(data, contract, pictures(64, 64))[0]):
        graph = onnx.load_from_string(typed).graph
        assert [node.op_type for node in graph.node if "image" in node.input] == ["Cast"]


@pytest.mark.parametrize("source", ["embedded", "atto", "femto"])
def test_fp16_of_real_models_finds_the_same(source: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    path = embedded_model()
    if source != "embedded":
        export = request.getfixturevalue("shared_dir") / "models" / f"deimv2_hgnetv2_{source}_coco.onnx"
        path = tmp_path / "baked.onnx"
        bake(export, path, classes=["person"])
    contract, data = load_baked(path)
    reference = open_backend("onnxruntime", data, contract, threads=1)
    half = open_backend("onnxruntime", to_half(data, contract), contract, threads=1)
    found = [differences(reference.run(image), half.run(image)) for image in pictures(contract.width, contract.height)]

    assert found == [""] * 4


def test_int8_has_pairs_around_the_backbone_only_and_symmetric_scales(tiny: tuple[ModelContract, bytes]) -> None:
    contract, data = tiny
    typed, made = to_int8(data, contract, pictures(64, 64))
    graph = onnx.load_from_string(typed).graph
    makers = {name: node for node in graph.node for name in node.output}
    quantised = {
        node.name
        for node in graph.node
        if node.op_type == "MatMul"
        and all(name in makers and makers[name].op_type == "DequantizeLinear" for name in node.input)
    }
    zeros = [tensor for tensor in graph.initializer if tensor.name.endswith("zero_point")]
    reference = open_backend("onnxruntime", data, contract, threads=1)
    int8 = open_backend("onnxruntime", typed, made, threads=1)
    image = pictures(64, 64)[0]
    expected, actual = reference.run(image), int8.run(image)

    assert len(quantised) == 12 * 6
    assert all("backbone" in name for name in quantised)
    assert zeros
    assert not any(np.any(onnx.numpy_helper.to_array(tensor)) for tensor in zeros)
    assert np.abs(np.sort(expected[:, 4]) - np.sort(actual[:, 4])).max() < 0.05
    assert made.name == "tiny-int8-qdq"


def test_what_cannot_be_converted_is_refused(tiny: tuple[ModelContract, bytes]) -> None:
    contract, data = tiny
    quantised = quantize_backbone(data, contract)
    embedded, embedded_data = load_baked(embedded_model())

    with pytest.raises(ModelRefusedError, match="is quantised; name the float model"):
        to_half(*quantised)
    with pytest.raises(ModelRefusedError, match="quantised already"):
        to_int8(*quantised, pictures(64, 64))
    with pytest.raises(ModelRefusedError, match="no MatMul lies in a part called `backbone`"):
        to_int8(embedded_data, embedded, pictures(64, 64))
    with pytest.raises(ModelError, match="--calibration DIR"):
        to_int8(data, contract, [])
