"""Exports that lie about their tensors, hold numbers that are none, or keep weights elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from detr_sentry.errors import ModelRefusedError
from detr_sentry.inference.model import open_detector
from detr_sentry.models.bake import bake
from detr_sentry.settings import ModelSettings

Builder = Callable[..., onnx.ModelProto]
Harm = Callable[[onnx.ModelProto], None]


def five_numbers_a_box(model: onnx.ModelProto) -> None:
    model.graph.output[0].type.tensor_type.shape.dim[2].dim_value = 5


def rows_that_differ(model: onnx.ModelProto) -> None:
    model.graph.output[1].type.tensor_type.shape.dim[1].dim_value = 7


def flat_labels(model: onnx.ModelProto) -> None:
    del model.graph.output[1].type.tensor_type.shape.dim[2]


def no_shapes(model: onnx.ModelProto) -> None:
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")


def swapped_outputs(model: onnx.ModelProto) -> None:
    model.graph.node[5].output[0], model.graph.node[6].output[0] = "labels", "dets"


def batch_of_two(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2


def lying_rows(model: onnx.ModelProto) -> None:
    for value in model.graph.output:
        value.type.tensor_type.shape.dim[1].dim_value = 9


def giant_rows(model: onnx.ModelProto) -> None:
    for value in model.graph.output:
        value.type.tensor_type.shape.dim[1].dim_value = 1 << 20


def nan_weight(model: onnx.ModelProto) -> None:
    values = np.zeros(4, np.float32)
    values[2] = np.nan
    model.graph.initializer.append(numpy_helper.from_array(values, "poison"))


def nan_half_weight(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(numpy_helper.from_array(np.array([np.nan], np.float16), "poison"))


def nan_in_float_data(model: onnx.ModelProto) -> None:
    tensor = TensorProto(name="poison", dims=[2], data_type=TensorProto.FLOAT, float_data=[1.0, float("nan")])
    model.graph.initializer.append(tensor)


def nan_in_double_data(model: onnx.ModelProto) -> None:
    tensor = TensorProto(name="poison", dims=[1], data_type=TensorProto.DOUBLE, double_data=[float("nan")])
    model.graph.node.append(helper.make_node("Constant", [], ["unused"], value=tensor))


def other_statistics(model: onnx.ModelProto) -> None:
    model.metadata_props.add(key="rfdetr_inference", value='{"means": [0.5, 0.5, 0.5]}')


def broken_statistics(model: onnx.ModelProto) -> None:
    model.metadata_props.add(key="rfdetr_inference", value='{"means": ["x"]}')


def names_that_are_none(model: onnx.ModelProto) -> None:
    model.metadata_props.add(key="rfdetr_inference", value='{"class_id_to_name": {"0": 5}}')


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (five_numbers_a_box, r"states dets float\[1,16,5\], but computes dets float\[1,16,4\]"),
        (rows_that_differ, r"states labels float\[1,7,91\], but computes labels float\[1,16,91\]"),
        (flat_labels, r"states labels float\[1,16\], but computes labels float\[1,16,91\]"),
        (no_shapes, "not valid ONNX"),
        (swapped_outputs, r"states dets float\[1,16,4\], but computes dets float\[1,16,91\]"),
        (batch_of_two, r"found input float\[2,3,64,64\]|not valid ONNX|but computes"),
        (lying_rows, r"states dets float\[1,9,4\], but computes"),
        (giant_rows, r"states dets float\[1,1048576,4\], but computes"),
        (nan_weight, r"tensor 'poison' holds numbers that are none \(NaN\)"),
        (nan_half_weight, r"tensor 'poison' holds numbers that are none \(NaN\)"),
        (nan_in_float_data, r"tensor 'poison' holds numbers that are none \(NaN\)"),
        (nan_in_double_data, r"tensor 'poison' holds numbers that are none \(NaN\)"),
        (other_statistics, "other means and deviations than ImageNet's"),
        (broken_statistics, "is not what rfdetr writes"),
        (names_that_are_none, "is not what rfdetr writes"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_an_export_that_lies_is_refused_with_the_reason(
    harm: Harm, reason: str, rfdetr: Builder, tmp_path: Path
) -> None:
    model = rfdetr()
    harm(model)

    with pytest.raises(ModelRefusedError, match=reason):
        bake(model.SerializeToString(), tmp_path / "baked.onnx")

    assert list(tmp_path.iterdir()) == []


def no_box_column(model: onnx.ModelProto) -> None:
    del model.graph.output[0].type.tensor_type.shape.dim[2]


def unknown_rows(model: onnx.ModelProto) -> None:
    for value in model.graph.output:
        value.type.tensor_type.shape.dim[1].Clear()


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (five_numbers_a_box, r"expected RF-DETR.* found .*dets float\[1,16,5\]"),
        (rows_that_differ, r"expected RF-DETR.* found .*labels float\[1,7,91\]"),
        (no_box_column, r"states dets float\[1,16\], but computes dets float\[\?,\?,\?\]"),
        (giant_rows, "model: claims 1048576 queries; at most 4096"),
        (unknown_rows, "the number of its queries is not fixed"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_shapes_that_only_the_export_states_are_checked_too(
    harm: Harm, reason: str, opaque: Builder, tmp_path: Path
) -> None:
    model = opaque()
    harm(model)

    with pytest.raises(ModelRefusedError, match=reason):
        bake(model.SerializeToString(), tmp_path / "baked.onnx")


@pytest.mark.parametrize("kind", ["traversal", "absolute", "link", "hard link"])
def test_weights_in_another_file_are_never_opened_and_no_session_is_made(
    kind: str, rfdetr: Builder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file lies where a runtime that follows the path would find the weights."""
    (tmp_path / "models").mkdir()
    secret = tmp_path / "secret.bin"
    model = rfdetr()
    tensor = model.graph.initializer[0]
    secret.write_bytes(tensor.raw_data)
    location = {"traversal": "../secret.bin", "absolute": str(secret)}.get(kind, "weights.bin")
    if kind == "link":
        (tmp_path / "models" / "weights.bin").symlink_to(secret)
    if kind == "hard link":
        (tmp_path / "models" / "weights.bin").hardlink_to(secret)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    path = tmp_path / "models" / "model.onnx"
    path.write_bytes(model.SerializeToString())
    opened: list[object] = []
    monkeypatch.setattr(onnxruntime, "InferenceSession", lambda *_, **__: opened.append(_))

    with pytest.raises(ModelRefusedError, match=r"model\.onnx: tensor '.*' lies in another file"):
        open_detector(ModelSettings(name=str(path)), tmp_path / "state", floor=0.2)

    assert opened == []
    assert not (tmp_path / "state").exists()


def test_infinite_weights_are_legitimate(rfdetr: Builder, tmp_path: Path) -> None:
    """Attention masks are made of them."""
    model = rfdetr()
    model.graph.initializer.append(numpy_helper.from_array(np.array([-np.inf, 1.0], np.float32), "mask"))

    assert bake(model.SerializeToString(), tmp_path / "baked.onnx").queries == 16


def deim_ranks(model: onnx.ModelProto) -> None:
    del model.graph.output[2].type.tensor_type.shape.dim[1]


def deim_five_numbers(model: onnx.ModelProto) -> None:
    model.graph.output[1].type.tensor_type.shape.dim[2].dim_value = 5


def deim_size_as_float(model: onnx.ModelProto) -> None:
    model.graph.input[1].type.tensor_type.elem_type = TensorProto.FLOAT


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (deim_ranks, r"states scores float\[1\], but computes"),
        (deim_five_numbers, r"states boxes float\[1,4,5\], but computes"),
        (deim_size_as_float, "expected RF-DETR: .* found images"),
    ],
    ids=["ranks", "five numbers", "size as float"],
)
def test_a_foreign_deim_export_is_refused(harm: Harm, reason: str, deim: Builder, tmp_path: Path) -> None:
    model = deim(labels=np.zeros(4), boxes=np.ones((4, 4)), scores=np.ones(4))
    harm(model)

    with pytest.raises(ModelRefusedError, match=reason):
        bake(model.SerializeToString(), tmp_path / "baked.onnx")


def test_a_deim_export_whose_outputs_differ_in_rows_is_refused(deim: Builder, tmp_path: Path) -> None:
    model = deim(labels=np.zeros(4), boxes=np.ones((4, 4)), scores=np.ones(4))
    boxes = next(tensor for tensor in model.graph.initializer if tensor.name == "shares")
    boxes.CopyFrom(numpy_helper.from_array(np.ones((1, 9, 4), np.float32), "shares"))
    model.graph.output[1].type.tensor_type.shape.dim[1].dim_value = 9

    with pytest.raises(ModelRefusedError, match=r"model: its outputs disagree on the number of queries: \[4, 9\]"):
        bake(model.SerializeToString(), tmp_path / "baked.onnx")
