"""Graphs that tests of several areas run."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pytest

if TYPE_CHECKING:
    import onnx

Array = npt.NDArray[Any]


def build_heads(boxes: Array, logits: Array) -> onnx.ModelProto:
    """An RF-DETR export that answers with these boxes [Q,4] and logits [Q,C] whatever it sees."""
    from onnx import TensorProto, helper, numpy_helper

    nodes = [
        helper.make_node("ReduceMean", ["input"], ["mean"], keepdims=0),
        helper.make_node("Sub", ["mean", "mean"], ["nothing"]),
        helper.make_node("Add", ["boxes", "nothing"], ["dets"]),
        helper.make_node("Add", ["logits", "nothing"], ["labels"]),
    ]
    constants = [
        numpy_helper.from_array(boxes[None].astype(np.float32), "boxes"),
        numpy_helper.from_array(logits[None].astype(np.float32), "logits"),
    ]
    graph = helper.make_graph(
        nodes,
        "main",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, 32, 32])],
        [
            helper.make_tensor_value_info("dets", TensorProto.FLOAT, [1, *boxes.shape]),
            helper.make_tensor_value_info("labels", TensorProto.FLOAT, [1, *logits.shape]),
        ],
        constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.fixture(scope="session")
def heads() -> Callable[..., onnx.ModelProto]:
    return build_heads
