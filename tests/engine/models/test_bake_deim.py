from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import onnx
import pytest
import simplejpeg
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnx import helper, numpy_helper

from detr_sentry.errors import ModelRefusedError
from detr_sentry.models.bake import bake
from detr_sentry.models.coco import COCO_LABELS

Array = npt.NDArray[Any]
Builder = Callable[..., onnx.ModelProto]
Runner = Callable[..., list[Array]]

EXPECTED = json.loads((Path(__file__).parent / "expected_detections.json").read_text())
CONTIGUOUS = sorted(COCO_LABELS)


def photo(shared_dir: Path, name: str) -> Array:
    data = (shared_dir / "persondata" / "train_val" / "images" / name).read_bytes()
    picture: Array = simplejpeg.decode_jpeg(data)
    return picture


@pytest.mark.parametrize("variant", ["atto", "femto"])
def test_real_models_equal_their_exports_to_the_last_bit(
    variant: str, shared_dir: Path, run_model: Runner, tmp_path: Path
) -> None:
    source = shared_dir / "models" / f"deimv2_hgnetv2_{variant}_coco.onnx"
    side = bake(source, tmp_path / "baked.onnx").width
    picture = cv2.resize(photo(shared_dir, EXPECTED["photos"][0]["file"]), (side, side))
    planes = np.ascontiguousarray((picture.astype(np.float32) / 255).transpose(2, 0, 1)[None])

    labels, boxes, scores = run_model(
        source.read_bytes(), {"images": planes, "orig_target_sizes": np.ones((1, 2), np.int64)}
    )
    rows = run_model((tmp_path / "baked.onnx").read_bytes(), {"image": picture[None]})[0][0]

    np.testing.assert_array_equal(rows[:, :4], boxes[0])
    np.testing.assert_array_equal(rows[:, 4], scores[0])
    np.testing.assert_array_equal(rows[:, 5], [CONTIGUOUS[label] for label in labels[0]])


@pytest.mark.parametrize("record", EXPECTED["photos"], ids=lambda record: record["file"][-16:-4])
def test_femto_finds_the_known_people(
    record: dict[str, Any], shared_dir: Path, run_model: Runner, tmp_path: Path
) -> None:
    bake(shared_dir / "models" / EXPECTED["model"], tmp_path / "baked.onnx", classes=["person"])
    picture = cv2.resize(photo(shared_dir, record["file"]), (416, 416), interpolation=cv2.INTER_LINEAR)

    rows = run_model((tmp_path / "baked.onnx").read_bytes(), {"image": picture[None]})[0][0]
    found = rows[rows[:, 4] >= EXPECTED["threshold"]]
    found = found[np.argsort(-found[:, 4])]

    np.testing.assert_allclose(found[:, :5], np.array(record["people"]), atol=2e-3)
    assert set(found[:, 5]) == {1.0}


def test_classes_are_mapped_and_disabled_ones_score_nothing(deim: Builder, run_model: Runner, tmp_path: Path) -> None:
    labels, boxes = np.array([0, 16, 79, 0]), np.random.default_rng(3).random((4, 4))
    scores = np.array([0.9, 0.8, 0.7, 0.2])

    bake(
        deim(labels=labels, boxes=boxes, scores=scores).SerializeToString(),
        tmp_path / "baked.onnx",
        classes=["person", "toothbrush"],
    )
    rows = run_model((tmp_path / "baked.onnx").read_bytes(), {"image": np.zeros((1, 32, 32, 3), np.uint8)})[0][0]

    np.testing.assert_array_equal(rows[:, 5], [1, 18, 90, 1])
    np.testing.assert_allclose(rows[:, 4], [0.9, 0.0, 0.7, 0.2], atol=1e-7)
    np.testing.assert_allclose(rows[:, :4], boxes, atol=1e-7)


@pytest.mark.parametrize(("opset", "half"), [(12, False), (17, True), (18, False)])
def test_pixels_are_divided_by_255_and_nothing_else(
    opset: int, half: bool, deim: Builder, run_model: Runner, tmp_path: Path
) -> None:
    model = deim(labels=np.array([0]), boxes=np.ones((1, 4)), scores=np.ones(1), opset=opset, half=half, bright=True)

    bake(model.SerializeToString(), tmp_path / "baked.onnx")
    rows = run_model((tmp_path / "baked.onnx").read_bytes(), {"image": np.full((1, 32, 32, 3), 51, np.uint8)})[0][0]

    assert rows.dtype == np.float32
    assert rows[0, 4] == pytest.approx(0.2, abs=1e-3 if half else 1e-6)


def test_a_model_whose_number_of_rows_depends_on_the_picture_is_refused(deim: Builder, tmp_path: Path) -> None:
    model = deim(labels=np.zeros(4), boxes=np.ones((4, 4)), scores=np.ones(4))
    for name, node in zip(("boxes", "scores", "labels"), list(model.graph.node)[-3:], strict=True):
        node.output[0] = f"all {name}"
        model.graph.node.append(helper.make_node("Compress", [f"all {name}", "chosen"], [name], axis=1))
    model.graph.node.append(helper.make_node("Greater", ["given", "mean"], ["above"]))
    model.graph.node.append(helper.make_node("Squeeze", ["above"], ["chosen"]))
    nodes = {node.output[0]: node for node in model.graph.node}
    order = ["mean", "sizes", "scale", "above", "chosen", *(f"all {name}" for name in ("boxes", "scores", "labels"))]
    del model.graph.node[:]
    model.graph.node.extend(nodes[name] for name in [*order, "boxes", "scores", "labels"])
    for value in model.graph.output:
        value.type.tensor_type.shape.dim[1].dim_param = "found"

    with pytest.raises(ModelRefusedError, match="number of its queries is not fixed"):
        bake(model.SerializeToString(), tmp_path / "baked.onnx")


def test_the_rows_are_those_of_the_top_k_where_shapes_are_lost(deim: Builder, tmp_path: Path) -> None:
    model = deim(labels=np.zeros(4), boxes=np.ones((4, 4)), scores=np.array([0.1, 0.4, 0.3, 0.2]))
    nodes = list(model.graph.node)
    score = next(node for node in nodes if node.output[0] == "scores")
    score.output[0] = "unsorted"
    model.graph.initializer.append(numpy_helper.from_array(np.array([4], np.int64), "count"))
    model.graph.initializer.append(numpy_helper.from_array(np.array([1, -1], np.int64), "flat"))
    later = [
        helper.make_node("NonZero", ["unsorted"], ["found"]),  # a shape that only the data tell
        helper.make_node("Shape", ["found"], ["found.shape"]),
        helper.make_node("Gather", ["found.shape", "last"], ["found.count"], axis=0),
        helper.make_node("Concat", ["one.row", "found.count"], ["row"], axis=0),
        helper.make_node("Reshape", ["unsorted", "row"], ["scattered"]),
        helper.make_node("TopK", ["scattered", "count"], ["scores", "order"], axis=1),
    ]
    model.graph.initializer.append(numpy_helper.from_array(np.array([1], np.int64), "last"))
    model.graph.initializer.append(numpy_helper.from_array(np.array([1], np.int64), "one.row"))
    model.graph.node.extend(later)
    for value in model.graph.output:
        value.type.tensor_type.shape.dim[1].dim_param = "rows"

    assert bake(model.SerializeToString(), tmp_path / "baked.onnx").queries == 4


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    labels=hnp.arrays(np.int64, 6, elements=st.integers(0, 79)),
    boxes=hnp.arrays(np.float32, (6, 4), elements=st.floats(-0.25, 1.25, width=32)),
    scores=hnp.arrays(np.float32, 6, elements=st.floats(0, 1, width=32)),
    enabled=st.sets(st.sampled_from(CONTIGUOUS), min_size=1),
)
def test_any_answers_equal_the_float64_reference(
    labels: Array, boxes: Array, scores: Array, enabled: set[int], deim: Builder, run_model: Runner, tmp_path: Path
) -> None:
    model = deim(labels=labels, boxes=boxes, scores=scores)
    classes = [COCO_LABELS[number] for number in enabled]

    bake(model.SerializeToString(), tmp_path / "baked.onnx", classes=classes)
    rows = run_model((tmp_path / "baked.onnx").read_bytes(), {"image": np.zeros((1, 32, 32, 3), np.uint8)})[0][0]

    ids = np.array(CONTIGUOUS)[labels]
    shown = np.where(np.isin(ids, sorted(enabled)), scores.astype(np.float64), 0.0)
    np.testing.assert_allclose(rows, np.column_stack([boxes.astype(np.float64), shown, ids]), rtol=0, atol=1e-6)
