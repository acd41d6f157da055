"""Small graphs with the tensors of the known exports, and a runner for them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from detr_sentry import cli
from detr_sentry.models.coco import COCO_LABELS

Array = npt.NDArray[Any]
SIDE, PATCH, HIDDEN = 64, 16, 8
QUERIES = (SIDE // PATCH) ** 2
MEAN = np.array([0.485, 0.456, 0.406])
STD = np.array([0.229, 0.224, 0.225])

GraphBuilder = Callable[..., onnx.ModelProto]
Runner = Callable[..., list[Array]]
Command = Callable[..., tuple[int, str, str]]


def build_rfdetr(
    *,
    seed: int = 1,
    slots: int = 91,
    pads: int = 0,
    bias: bool = True,
    shared_weight: bool = False,
    half: bool = False,
    batch: int | str = 1,
    side: int | str = SIDE,
    opset: int = 17,
) -> onnx.ModelProto:
    """Random weights in RF-DETR's shape: a no-op Cast, a patch embedding, and two heads over its tokens."""
    random = np.random.default_rng(seed)
    real = np.float16 if half else np.float32
    kind = TensorProto.FLOAT16 if half else TensorProto.FLOAT
    queries = ((SIDE + 2 * pads - PATCH) // PATCH + 1) ** 2

    def constant(name: str, *shape: int, scale: float) -> TensorProto:
        return numpy_helper.from_array((random.standard_normal(shape) * scale).astype(real), name)

    weights = [
        constant("patch.weight", HIDDEN, 3, PATCH, PATCH, scale=0.05),
        constant("boxes.weight", HIDDEN, 4, scale=0.7),
        constant("classes.weight", HIDDEN, slots, scale=1.5),
        numpy_helper.from_array(np.array([1, HIDDEN, queries], np.int64), "tokens.shape"),
    ]
    conv = ["x", "patch.weight"]
    if bias:
        weights.append(constant("patch.bias", HIDDEN, scale=0.5))
        conv.append("patch.bias")
    nodes = [
        helper.make_node("Cast", ["input"], ["x"], to=kind),
        helper.make_node("Conv", conv, ["patches"], kernel_shape=[PATCH] * 2, strides=[PATCH] * 2, pads=[pads] * 4),
        helper.make_node("Reshape", ["patches", "tokens.shape"], ["flat"]),
        helper.make_node("Transpose", ["flat"], ["tokens"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["tokens", "boxes.weight"], ["raw"]),
        helper.make_node("Sigmoid", ["raw"], ["dets"]),
        helper.make_node("MatMul", ["tokens", "classes.weight"], ["labels"]),
    ]
    if shared_weight:
        nodes.append(helper.make_node("ReduceMax", ["patch.weight"], ["weight.max"], keepdims=0))
    outputs = [
        helper.make_tensor_value_info("dets", kind, [batch, queries, 4]),
        helper.make_tensor_value_info("labels", kind, [batch, queries, slots]),
    ]
    if shared_weight:
        outputs.append(helper.make_tensor_value_info("weight.max", kind, []))
    graph = helper.make_graph(
        nodes, "main", [helper.make_tensor_value_info("input", kind, [batch, 3, side, side])], outputs, weights
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def build_opaque(**options: Any) -> onnx.ModelProto:
    """As `build_rfdetr`, with output shapes that only a run can tell: what a free batch makes of an export."""
    model = build_rfdetr(**options)
    graph = model.graph
    shapes = {value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in graph.output}
    graph.node.append(helper.make_node("ReduceMean", ["patches"], ["mean"], keepdims=0))
    graph.node.append(helper.make_node("Sub", ["mean", "mean"], ["nothing"]))
    graph.node.append(helper.make_node("Cast", ["nothing"], ["zero"], to=TensorProto.INT64))
    for node in list(graph.node):
        if node.output[0] in shapes:
            name = node.output[0]
            node.output[0] = f"{name}.known"
            graph.initializer.append(numpy_helper.from_array(np.array(shapes[name], np.int64), f"{name}.shape"))
            graph.node.append(helper.make_node("Add", [f"{name}.shape", "zero"], [f"{name}.told"]))
            graph.node.append(helper.make_node("Reshape", [f"{name}.known", f"{name}.told"], [name]))
    return model


def build_deim(
    *, labels: Array, boxes: Array, scores: Array, opset: int = 17, half: bool = False, bright: bool = False
) -> onnx.ModelProto:
    """A DEIM export that answers with these labels, boxes (shares), scores; `bright`: scores times the mean pixel."""
    real, kind = (np.float16, TensorProto.FLOAT16) if half else (np.float32, TensorProto.FLOAT)
    nodes = [
        helper.make_node("ReduceMean", ["images"], ["mean"], keepdims=0),
        helper.make_node("Cast", ["orig_target_sizes"], ["sizes"], to=kind),
        helper.make_node("Concat", ["sizes", "sizes"], ["scale"], axis=1),
        helper.make_node("Mul", ["shares", "scale"], ["boxes"]),
        helper.make_node("Mul", ["given", "mean" if bright else "one"], ["scores"]),
        helper.make_node("Identity", ["classes"], ["labels"]),
    ]
    count = len(labels)
    constants = [
        numpy_helper.from_array(boxes[None].astype(real), "shares"),
        numpy_helper.from_array(scores[None].astype(real), "given"),
        numpy_helper.from_array(labels[None].astype(np.int64), "classes"),
        numpy_helper.from_array(np.array(1.0, real), "one"),
    ]
    graph = helper.make_graph(
        nodes,
        "main",
        [
            helper.make_tensor_value_info("images", kind, ["N", 3, 32, 32]),
            helper.make_tensor_value_info("orig_target_sizes", TensorProto.INT64, ["N", 2]),
        ],
        [
            helper.make_tensor_value_info("labels", TensorProto.INT64, [1, count]),
            helper.make_tensor_value_info("boxes", kind, [1, count, 4]),
            helper.make_tensor_value_info("scores", kind, [1, count]),
        ],
        constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def execute(model: bytes | onnx.ModelProto, feed: dict[str, Array]) -> list[Array]:
    """All outputs of a model, by ONNX Runtime on one thread."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    data = model if isinstance(model, bytes) else model.SerializeToString()
    session = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    outputs: list[Array] = session.run(None, feed)
    return outputs


def expect_rfdetr(boxes: Array, logits: Array, enabled: list[int]) -> Array:
    """What the official post-processing says in float64, the best of the `enabled` slots: [Q,6]."""
    boxes, logits = boxes.astype(np.float64), logits.astype(np.float64)[:, enabled]
    best = logits.argmax(1)
    score = 1 / (1 + np.exp(-logits[np.arange(len(logits)), best]))
    corners = np.concatenate([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2], 1)
    return np.column_stack([corners, score, np.array(enabled)[best]])


def normalise(image: Array) -> Array:
    """RF-DETR's own preprocessing of uint8 [H,W,3], in float64."""
    scaled: Array = ((image / 255.0 - MEAN) / STD).transpose(2, 0, 1)[None]
    return scaled


@pytest.fixture(scope="session")
def rfdetr() -> GraphBuilder:
    return build_rfdetr


@pytest.fixture(scope="session")
def opaque() -> GraphBuilder:
    return build_opaque


@pytest.fixture(scope="session")
def deim() -> GraphBuilder:
    return build_deim


@pytest.fixture(scope="session")
def run_model() -> Runner:
    return execute


@pytest.fixture(scope="session")
def rfdetr_reference() -> Callable[[Array, Array, list[int]], Array]:
    return expect_rfdetr


@pytest.fixture(scope="session")
def imagenet() -> Callable[[Array], Array]:
    return normalise


@pytest.fixture
def noise() -> Array:
    """A uint8 picture [64,64,3]."""
    return np.random.default_rng(7).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)


@pytest.fixture(scope="session")
def coco_ids() -> list[int]:
    return sorted(COCO_LABELS)


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Where models lie for the commands of a test, whatever this machine's settings and proxies are."""
    for name in [name for name in os.environ if name.startswith("DETR_SENTRY_") or name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("DETR_SENTRY_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("DETR_SENTRY_SHM_ROOT", str(tmp_path / "shm"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "state" / "models"


@pytest.fixture
def command(cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """`detr-sentry models`: returns the status, what was printed, and what was said on stderr."""

    def call(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["detr-sentry", "models", *words])
        status = cli.main(["models", *words])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return call
