from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnx import helper

from detr_sentry.errors import ModelRefusedError
from detr_sentry.models.bake import bake
from detr_sentry.models.classes import OWN_ID_BASE
from detr_sentry.models.coco import COCO_LABELS

Array = npt.NDArray[Any]
Builder = Callable[..., onnx.ModelProto]
Runner = Callable[..., list[Array]]
Reference = Callable[[Array, Array, list[int]], Array]


def baked_rows(model: onnx.ModelProto, tmp_path: Path, run: Runner, image: Array, **options: Any) -> Array:
    target = tmp_path / "baked.onnx"
    bake(model.SerializeToString(), target, **options)
    rows: Array = run(target.read_bytes(), {"image": image[None]})[0][0]
    return rows


@pytest.mark.parametrize(
    ("options", "folded"),
    [
        ({}, True),
        ({"bias": False}, True),
        ({"shared_weight": True}, True),
        ({"batch": "N"}, True),
        ({"opset": 16}, True),
        ({"opset": 18}, True),
        ({"opset": 19}, True),
        ({"opset": 20}, True),
        ({"opset": 21}, True),
        ({"opset": 22}, True),
        ({"pads": 8}, False),
    ],
    ids=[
        "plain",
        "no bias",
        "weight read twice",
        "free batch",
        *(f"opset {n}" for n in (16, 18, 19, 20, 21, 22)),
        "padding",
    ],
)
def test_pixels_give_what_the_export_gives_after_official_preprocessing(
    options: dict[str, Any],
    folded: bool,
    rfdetr: Builder,
    run_model: Runner,
    rfdetr_reference: Reference,
    imagenet: Callable[[Array], Array],
    noise: Array,
    tmp_path: Path,
    coco_ids: list[int],
) -> None:
    model = rfdetr(**options)
    boxes, logits, *_ = run_model(model, {"input": imagenet(noise).astype(np.float32)})

    rows = baked_rows(model, tmp_path, run_model, noise)

    expected = rfdetr_reference(boxes[0], logits[0], coco_ids)
    operators = [node.op_type for node in onnx.load(tmp_path / "baked.onnx").graph.node]
    np.testing.assert_allclose(rows[:, :5], expected[:, :5], rtol=0, atol=1e-5)
    np.testing.assert_array_equal(rows[:, 5], expected[:, 5])
    assert folded == ("Sub" not in operators)


def test_a_half_precision_export_takes_pixels_and_gives_float32(
    rfdetr: Builder,
    run_model: Runner,
    rfdetr_reference: Reference,
    imagenet: Callable[[Array], Array],
    noise: Array,
    tmp_path: Path,
) -> None:
    model = rfdetr(half=True)
    boxes, logits = run_model(model, {"input": imagenet(noise).astype(np.float16)})

    rows = baked_rows(model, tmp_path, run_model, noise, classes=["person"])

    assert rows.dtype == np.float32
    np.testing.assert_allclose(rows, rfdetr_reference(boxes[0], logits[0], [1]), rtol=0, atol=4e-3)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    boxes=hnp.arrays(np.float32, (5, 4), elements=st.floats(-0.25, 1.25, width=32)),
    logits=hnp.arrays(np.float32, (5, 7), elements=st.floats(-30, 30, width=32)),
    enabled=st.sets(st.integers(0, 6), min_size=1),
)
def test_any_heads_equal_the_float64_reference(
    boxes: Array,
    logits: Array,
    enabled: set[int],
    heads: Builder,
    run_model: Runner,
    rfdetr_reference: Reference,
    tmp_path: Path,
) -> None:
    labels = {slot: f"class {slot}" for slot in range(7)}
    image = np.zeros((32, 32, 3), np.uint8)

    rows = baked_rows(
        heads(boxes, logits), tmp_path, run_model, image, labels=labels, classes=[labels[slot] for slot in enabled]
    )

    expected = rfdetr_reference(boxes, logits, sorted(enabled))
    np.testing.assert_allclose(rows[:, :5], expected[:, :5], rtol=0, atol=1e-6)
    np.testing.assert_array_equal(rows[:, 5], OWN_ID_BASE + expected[:, 5])


def test_a_disabled_class_cannot_hide_a_person(heads: Builder, run_model: Runner, tmp_path: Path) -> None:
    logits = np.full((1, 91), -9.0)
    logits[0, 18], logits[0, 1] = 4.0, 1.0
    image = np.zeros((32, 32, 3), np.uint8)

    rows = baked_rows(heads(np.full((1, 4), 0.5), logits), tmp_path, run_model, image, classes=["person"])

    assert pytest.approx(1 / (1 + np.exp(-1.0)), abs=1e-6) == rows[0, 4]
    assert rows[0, 5] == 1


def test_unused_slots_never_win(heads: Builder, run_model: Runner, tmp_path: Path) -> None:
    logits = np.full((1, 91), -9.0)
    logits[0, 0], logits[0, 12], logits[0, 90] = 9.0, 8.0, -1.0
    image = np.zeros((32, 32, 3), np.uint8)

    rows = baked_rows(heads(np.full((1, 4), 0.5), logits), tmp_path, run_model, image)

    assert rows[0, 5] == 90


def test_a_model_of_other_classes_needs_their_names(rfdetr: Builder, tmp_path: Path) -> None:
    data = rfdetr(slots=3).SerializeToString()

    with pytest.raises(ModelRefusedError, match="name them"):
        bake(data, tmp_path / "baked.onnx")

    contract = bake(data, tmp_path / "baked.onnx", labels={0: "cat", 2: "person"}, classes=["person"])
    assert contract.labels == {1: "person"}


def test_labels_beyond_the_slots_are_refused(rfdetr: Builder, tmp_path: Path) -> None:
    with pytest.raises(ModelRefusedError, match="outside the 3 class slots"):
        bake(rfdetr(slots=3).SerializeToString(), tmp_path / "baked.onnx", labels={3: "person"})


def test_the_contract_says_what_was_baked(rfdetr: Builder, tmp_path: Path) -> None:
    source = tmp_path / "rf-detr-tiny.onnx"
    source.write_bytes(rfdetr().SerializeToString())

    contract = bake(source, tmp_path / "baked.onnx", classes=["person", "dog"], threshold=0.3)

    assert contract.name == "rf-detr-tiny"
    assert contract.labels == {1: "person", 18: "dog"}
    assert (contract.width, contract.height, contract.queries) == (64, 64, 16)
    assert contract.threshold == pytest.approx(0.3)
    assert (contract.adapter, contract.resize) == ("rfdetr", "stretch")


def test_the_same_export_bakes_to_the_same_bytes(rfdetr: Builder, tmp_path: Path) -> None:
    for name in ("a", "b"):
        bake(rfdetr().SerializeToString(), tmp_path / name)

    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def weights_from_constant_node(model: onnx.ModelProto) -> None:
    tensor = next(entry for entry in model.graph.initializer if entry.name == "patch.weight")
    model.graph.initializer.remove(tensor)
    model.graph.node.insert(0, helper.make_node("Constant", [], ["patch.weight"], value=tensor))


def weights_computed(model: onnx.ModelProto) -> None:
    tensor = next(entry for entry in model.graph.initializer if entry.name == "patch.weight")
    tensor.name = "patch.weight.stored"
    model.graph.node.insert(0, helper.make_node("Neg", [tensor.name], ["patch.weight.less"]))
    model.graph.node.insert(1, helper.make_node("Neg", ["patch.weight.less"], ["patch.weight"]))


def read_by_two(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("ReduceMean", ["input"], ["brightness"], keepdims=0))
    model.graph.output.append(helper.make_tensor_value_info("brightness", onnx.TensorProto.FLOAT, []))


def read_by_pooling(model: onnx.ModelProto) -> None:
    model.graph.node[0].CopyFrom(helper.make_node("AveragePool", ["input"], ["x"], kernel_shape=[1, 1], strides=[1, 1]))


def identity_first(model: onnx.ModelProto) -> None:
    model.graph.node[0].CopyFrom(helper.make_node("Identity", ["input"], ["x"]))


def automatic_padding(model: onnx.ModelProto) -> None:
    conv = model.graph.node[1]
    conv.attribute.remove(next(entry for entry in conv.attribute if entry.name == "pads"))
    conv.attribute.append(helper.make_attribute("auto_pad", "SAME_UPPER"))


@pytest.mark.parametrize(
    ("change", "folded"),
    [
        (weights_from_constant_node, True),
        (identity_first, True),
        (weights_computed, False),
        (read_by_two, False),
        (read_by_pooling, False),
        (automatic_padding, False),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_normalisation_is_folded_only_where_that_is_exact(
    change: Callable[[onnx.ModelProto], None],
    folded: bool,
    rfdetr: Builder,
    run_model: Runner,
    imagenet: Callable[[Array], Array],
    noise: Array,
    tmp_path: Path,
) -> None:
    model = rfdetr()
    change(model)
    boxes, logits, *_ = run_model(model, {"input": imagenet(noise).astype(np.float32)})

    rows = baked_rows(model, tmp_path, run_model, noise, classes=["person"])

    operators = [node.op_type for node in onnx.load(tmp_path / "baked.onnx").graph.node]
    assert folded == ("Sub" not in operators)
    np.testing.assert_allclose(rows[:, 4], 1 / (1 + np.exp(-logits[0, :, 1].astype(np.float64))), rtol=0, atol=1e-5)
    np.testing.assert_allclose(rows[:, 2] - rows[:, 0], boxes[0, :, 2], rtol=0, atol=1e-5)


def test_the_weights_that_were_folded_are_not_kept_twice(rfdetr: Builder, tmp_path: Path) -> None:
    for name, options in (("once", {}), ("twice", {"shared_weight": True})):
        bake(rfdetr(**options).SerializeToString(), tmp_path / name)
    kept = {name: [entry.name for entry in onnx.load(tmp_path / name).graph.initializer] for name in ("once", "twice")}

    assert "patch.weight" not in kept["once"]
    assert "patch.weight" in kept["twice"]


@pytest.mark.parametrize("classes", [["person"], ["person", "dog"]], ids=["one class", "two classes"])
def test_an_export_whose_shapes_only_it_states_bakes_to_the_same(
    classes: list[str], rfdetr: Builder, opaque: Builder, run_model: Runner, noise: Array, tmp_path: Path
) -> None:
    plain = baked_rows(rfdetr(), tmp_path, run_model, noise, classes=classes)
    rows = baked_rows(opaque(), tmp_path, run_model, noise, classes=classes)

    np.testing.assert_array_equal(plain, rows)


@pytest.mark.parametrize("classes", [["person"], ["person", "dog"]], ids=["one class", "two classes"])
def test_a_single_class_needs_no_search_for_the_best(classes: list[str], rfdetr: Builder, tmp_path: Path) -> None:
    bake(rfdetr().SerializeToString(), tmp_path / "baked.onnx", classes=classes)

    operators = {node.op_type for node in onnx.load(tmp_path / "baked.onnx").graph.node}
    assert (len(classes) > 1) == ("ArgMax" in operators) == ("ReduceMax" in operators)


def test_extra_outputs_are_left_out(rfdetr: Builder, run_model: Runner, noise: Array, tmp_path: Path) -> None:
    """Segmentation exports have `masks` besides."""
    model = rfdetr()
    model.graph.node.append(helper.make_node("MatMul", ["tokens", "boxes.weight"], ["masks"]))
    model.graph.output.append(helper.make_tensor_value_info("masks", onnx.TensorProto.FLOAT, [1, 16, 4]))

    rows = baked_rows(model, tmp_path, run_model, noise)

    np.testing.assert_array_equal(rows, baked_rows(rfdetr(), tmp_path, run_model, noise))


@pytest.mark.parametrize(
    ("names", "labels", "layout"),
    [
        ({"0": "cat", "1": "person"}, {1: "person", 17: "cat"}, "contiguous"),
        ({str(number): name for number, name in COCO_LABELS.items()}, COCO_LABELS, "coco"),
        ({}, COCO_LABELS, "coco"),
    ],
    ids=["fine-tuned", "COCO", "none"],
)
def test_the_class_names_that_newer_exports_carry_are_used(
    names: dict[str, str], labels: dict[int, str], layout: str, rfdetr: Builder, tmp_path: Path
) -> None:
    model = rfdetr()
    statistics = {"means": [0.485, 0.456, 0.406], "stds": [0.229, 0.224, 0.225]}
    content = json.dumps({"class_id_to_name": names, **statistics})
    model.metadata_props.add(key="rfdetr_inference", value=content)

    contract = bake(model.SerializeToString(), tmp_path / "baked.onnx")

    assert (dict(contract.labels), contract.layout) == (labels, layout)
    named = bake(model.SerializeToString(), tmp_path / "baked.onnx", labels={0: "person"})
    assert dict(named.numbers) == {1: 0}
