from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from detr_sentry.errors import ModelRefusedError, StorageError
from detr_sentry.models import contract, graph
from detr_sentry.models.bake import bake

Builder = Callable[..., onnx.ModelProto]
Harm = Callable[[onnx.ModelProto], None]


def external(model: onnx.ModelProto) -> None:
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../../etc/passwd")


def external_in_attribute(model: onnx.ModelProto) -> None:
    tensor = TensorProto(name="t", dims=[1], data_type=TensorProto.FLOAT, data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="weights.bin")
    model.graph.node.append(helper.make_node("Constant", [], ["unused"], value=tensor))


def foreign_domain(model: onnx.ModelProto) -> None:
    model.opset_import.append(helper.make_opsetid("com.example", 1))
    model.graph.node.append(helper.make_node("Shell", ["input"], ["unused"], domain="com.example"))


def foreign_operator_only(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("Shell", ["input"], ["unused"], domain="com.example"))


def unknown_operator(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("Shell", ["input"], ["unused"]))


def functions(model: onnx.ModelProto) -> None:
    node = helper.make_node("Identity", ["a"], ["b"])
    model.functions.append(helper.make_function("", "Mine", ["a"], ["b"], [node], [helper.make_opsetid("", 17)]))


def training(model: onnx.ModelProto) -> None:
    model.training_info.add()


def giant_initializer(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(TensorProto(name="huge", dims=[1 << 20, 1 << 20], data_type=TensorProto.FLOAT))


def negative_initializer(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(TensorProto(name="less", dims=[-1], data_type=TensorProto.FLOAT))


def giant_activation(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(numpy_helper.from_array(np.array([1 << 16, 1 << 16], np.int64), "bomb"))
    model.graph.node.append(helper.make_node("ConstantOfShape", ["bomb"], ["unused"]))


def giant_input(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_value = 1 << 15
    model.graph.input[0].type.tensor_type.shape.dim[3].dim_value = 1 << 15


def truncated_weights(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].raw_data = model.graph.initializer[0].raw_data[:-4]


def strange_type(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].data_type = 99


def sparse_weights(model: onnx.ModelProto) -> None:
    model.graph.sparse_initializer.add()


def sparse_attribute(model: onnx.ModelProto) -> None:
    values = numpy_helper.from_array(np.ones(1, np.float32), "values")
    values.data_location = TensorProto.EXTERNAL
    sparse = helper.make_sparse_tensor(values, numpy_helper.from_array(np.zeros(1, np.int64), "indices"), [4])
    model.graph.node.append(helper.make_node("Constant", [], ["unused"], sparse_value=sparse))


def no_default_operators(model: onnx.ModelProto) -> None:
    del model.opset_import[:]


def cycle(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("Identity", ["later"], ["sooner"]))
    model.graph.node.append(helper.make_node("Identity", ["sooner"], ["later"]))


def future_opset(model: onnx.ModelProto) -> None:
    model.opset_import[0].version = 999


def nested(model: onnx.ModelProto) -> None:
    body = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", [], [])
    for _ in range(12):
        inner = helper.make_node("If", ["c"], ["y"], then_branch=body, else_branch=body)
        body = helper.make_graph([inner], "g", [], [])
    model.graph.node.append(helper.make_node("If", ["c"], ["y"], then_branch=body, else_branch=body))


def foreign_in_subgraph(model: onnx.ModelProto) -> None:
    body = helper.make_graph([helper.make_node("Shell", ["x"], ["y"], domain="com.example")], "g", [], [])
    model.graph.node.append(helper.make_node("If", ["c"], ["y"], then_branch=body, else_branch=body))


def other_input_name(model: onnx.ModelProto) -> None:
    model.graph.input[0].name = "pixels"
    model.graph.node[0].input[0] = "pixels"


def other_output_name(model: onnx.ModelProto) -> None:
    model.graph.output[0].name = "boxes"
    model.graph.node[5].output[0] = "boxes"


def free_sides(model: onnx.ModelProto) -> None:
    for dim in model.graph.input[0].type.tensor_type.shape.dim[2:]:
        dim.dim_param = "side"


def integer_input(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.INT64


def our_prefix(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("Identity", ["x"], ["detr_sentry/weight_5"]))


def old_opset(model: onnx.ModelProto) -> None:
    model.opset_import[0].version = 9


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (external, "lies in another file"),
        (external_in_attribute, "lies in another file"),
        (foreign_domain, "operators of domain 'com.example'"),
        (foreign_operator_only, "operators of domain 'com.example'"),
        (foreign_in_subgraph, "operators of domain 'com.example'"),
        (unknown_operator, "not valid ONNX"),
        (functions, "model-local functions"),
        (training, "training graphs"),
        (giant_initializer, "claims 1099511627776 elements"),
        (negative_initializer, "negative dimension"),
        (giant_activation, "claims 4294967296 elements"),
        (giant_input, "claims 3221225472 elements"),
        (truncated_weights, "has 24572 bytes instead of 24576"),
        (strange_type, "is of type 99"),
        (sparse_weights, "sparse weights"),
        (sparse_attribute, "lies in another file"),
        (no_default_operators, "not valid ONNX"),
        (cycle, "not valid ONNX"),
        (future_opset, "opset 999; this build knows"),
        (nested, "nested deeper"),
        (other_input_name, r"expected RF-DETR: `input`.*; or DEIM.*; found pixels float\[1,3,64,64\]"),
        (other_output_name, "found input float"),
        (free_sides, r"found input float\[1,3,\?,\?\]"),
        (our_prefix, "which baking adds"),
        (old_opset, "opset"),
        (integer_input, "input int64"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_a_harmful_or_foreign_export_is_refused_with_the_reason(
    harm: Harm, reason: str, rfdetr: Builder, tmp_path: Path
) -> None:
    model = rfdetr()
    harm(model)

    with pytest.raises(ModelRefusedError, match=reason):
        bake(model.SerializeToString(), tmp_path / "baked.onnx")

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "data", [b"", b"GIF89a" * 50, bytes(1000), b"\x08\x08" * 3], ids=["empty", "gif", "zeros", "bits"]
)
def test_a_file_that_is_no_model_is_refused(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(data)

    with pytest.raises(ModelRefusedError, match="not an ONNX file"):
        contract.read_contract(tmp_path / "model.onnx")


def test_a_missing_file_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ModelRefusedError, match=r"gone.onnx: cannot be read: No such file"):
        contract.read_contract(tmp_path / "gone.onnx")


def test_a_file_beyond_the_limit_is_not_even_read(tmp_path: Path) -> None:
    with (tmp_path / "sparse.onnx").open("wb") as file:
        file.truncate(graph.MAX_FILE_BYTES + 1)

    with pytest.raises(ModelRefusedError, match="a detector has at most"):
        contract.read_contract(tmp_path / "sparse.onnx")


def test_a_baked_model_is_not_baked_again(rfdetr: Builder, tmp_path: Path) -> None:
    bake(rfdetr().SerializeToString(), tmp_path / "baked.onnx")

    with pytest.raises(ModelRefusedError, match="baked already"):
        bake(tmp_path / "baked.onnx", tmp_path / "again.onnx")


@pytest.mark.parametrize("classes", [["person", "unicorn"], []])
def test_unknown_or_no_classes_are_refused(classes: list[str], rfdetr: Builder, tmp_path: Path) -> None:
    with pytest.raises(ModelRefusedError, match="cannot find (unicorn|nothing); it finds person, bicycle"):
        bake(rfdetr().SerializeToString(), tmp_path / "baked.onnx", classes=classes)


def test_a_place_that_cannot_be_written_is_named(rfdetr: Builder, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")

    with pytest.raises(StorageError, match=r"file/baked.onnx: cannot be written"):
        bake(rfdetr().SerializeToString(), tmp_path / "file" / "baked.onnx")


def test_a_failed_write_leaves_nothing(rfdetr: Builder, tmp_path: Path) -> None:
    (tmp_path / "baked.onnx").mkdir()

    with pytest.raises(StorageError, match="cannot be written"):
        bake(rfdetr().SerializeToString(), tmp_path / "baked.onnx")

    assert [path.name for path in tmp_path.iterdir()] == ["baked.onnx"]


def remove(key: str) -> Harm:
    def harm(model: onnx.ModelProto) -> None:
        kept = {entry.key: entry.value for entry in model.metadata_props if entry.key != key}
        del model.metadata_props[:]
        helper.set_model_props(model, kept)

    return harm


def put(key: str, value: str) -> Harm:
    def harm(model: onnx.ModelProto) -> None:
        remove(key)(model)
        model.metadata_props.add(key=key, value=value)

    return harm


def second_input(model: onnx.ModelProto) -> None:
    model.graph.input.append(helper.make_tensor_value_info("more", TensorProto.FLOAT, [1]))


def wide_output(model: onnx.ModelProto) -> None:
    model.graph.output[0].type.tensor_type.shape.dim[2].dim_value = 7


def float_image(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (remove("detr_sentry.contract"), "not a baked model .* run `detr-sentry models bake`"),
        (put("detr_sentry.contract", "2"), "contract version '2'"),
        (remove("detr_sentry.name"), "lacks detr_sentry.name"),
        (remove("detr_sentry.source_sha256"), "lacks detr_sentry.source_sha256"),
        (put("detr_sentry.resize", "letterbox"), "resize rule 'letterbox'"),
        (put("detr_sentry.threshold", "high"), "not a score"),
        (put("detr_sentry.threshold", "1.5"), "not a score"),
        (put("detr_sentry.threshold", "nan"), "not a score"),
        (put("detr_sentry.labels", "person"), "not a JSON object"),
        (put("detr_sentry.labels", "[1]"), "not a JSON object"),
        (put("detr_sentry.labels", "{}"), "needs class ids"),
        (put("detr_sentry.labels", '{"70000": "person"}'), "needs class ids"),
        (put("detr_sentry.labels", '{"1": 5}'), "needs class ids"),
        (put("detr_sentry.layout", "mixed"), "layout 'mixed'; this engine knows 'coco' and 'contiguous'"),
        (put("detr_sentry.numbers", "[]"), "numbers is not a JSON object"),
        (put("detr_sentry.numbers", '{"1": 1}'), "does not fit detr_sentry.labels"),
        (second_input, "expected `image` uint8"),
        (wide_output, r"states detections float\[1,16,7\], but computes"),
        (float_image, "expected `image` uint8|not valid ONNX"),
    ],
)
def test_a_baked_model_that_breaks_the_contract_is_refused(
    harm: Harm, reason: str, rfdetr: Builder, tmp_path: Path
) -> None:
    path = tmp_path / "baked.onnx"
    bake(rfdetr().SerializeToString(), path)
    model = onnx.load(path)
    harm(model)
    path.write_bytes(model.SerializeToString())

    with pytest.raises(ModelRefusedError, match=reason):
        contract.read_contract(path)
