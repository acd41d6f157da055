"""The forms of a baked model that TensorRT is given: types are in the graph, as its strongly typed networks want them.

FP16 keeps the inputs and outputs, LayerNorm, softmax, the choice of queries and everything that makes or refines boxes
in FP32: with these in FP16 larger RF-DETRs lose accuracy. INT8 has explicit Q/DQ pairs around the MatMuls of the
backbone, with scales from the user's own pictures, and leaves the rest in FP32.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import onnx
from onnx import helper

from detr_sentry.errors import ModelError, ModelRefusedError
from detr_sentry.models.contract import ModelContract, contract_of
from detr_sentry.models.graph import check_model, metadata_of, parse_model
from detr_sentry.models.quantize import FLOAT_KEY, PRECISION_KEY, backbone_matmuls
from detr_sentry.models.surgery import PREFIX

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    import numpy.typing as npt

INT8_PRECISION = "int8-qdq-backbone"
_FULL_OPERATORS = (
    *("LayerNormalization", "InstanceNormalization", "Softmax", "TopK", "ReduceMax", "Exp", "Sin", "Cos", "Sigmoid"),
    *("Resize", "Range", "CumSum", "GridSample", "NonMaxSuppression"),
)
_FULL_PARTS = ("bbox_embed", "refpoint_embed", "ref_point_head")
"""Parts of RF-DETR's exports that make boxes."""


def to_half(data: bytes, contract: ModelContract) -> bytes:
    """The baked model `data` computing in FP16 but where the module says otherwise. Raises ModelRefusedError."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    model = parse_model(data, contract.name)
    if PRECISION_KEY in metadata_of(model):
        raise ModelRefusedError(f"{contract.name} is quantised; name the float model")
    _cast_first(model.graph, contract.name)
    full = [node.name for node in model.graph.node if _stays_full(node)]
    converted: onnx.ModelProto = convert_float_to_float16(
        model, keep_io_types=True, op_block_list=list(_FULL_OPERATORS), node_block_list=full
    )
    _sort(converted.graph)
    check_model(converted, contract.name)
    return bytes(converted.SerializeToString(deterministic=True))


def to_int8(
    data: bytes, contract: ModelContract, pictures: Sequence[npt.NDArray[np.uint8]]
) -> tuple[bytes, ModelContract]:
    """The baked model `data` with Q/DQ around its backbone's MatMuls, scaled by `pictures` uint8 [1,H,W,3].

    It is a baked model as well, which ONNX Runtime also runs, so that its accuracy can be measured anywhere. Raises
    ModelRefusedError where there is no transformer backbone, ModelError without pictures.
    """
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    model = parse_model(data, contract.name)
    if PRECISION_KEY in metadata_of(model):
        raise ModelRefusedError(f"{contract.name} is quantised already; name the float model")
    chosen = backbone_matmuls(model.graph)
    if not chosen:
        raise ModelRefusedError(f"{contract.name}: no MatMul lies in a part called `backbone`; INT8 has nothing to do")
    if not pictures:
        raise ModelError("INT8 needs pictures of the camera's own scene: --calibration DIR with JPEG files")
    _cast_first(model.graph, contract.name)
    with tempfile.TemporaryDirectory(prefix="detr-sentry-") as folder:
        path = Path(folder) / "int8.onnx"
        quantize_static(
            model,
            path,
            _Reader(pictures),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["MatMul"],
            nodes_to_quantize=chosen,
            per_channel=True,
            activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8,
            extra_options={"ActivationSymmetric": True, "WeightSymmetric": True},
        )
        quantised = onnx.load(path)
    props = metadata_of(model) | {
        "detr_sentry.name": f"{contract.name}-int8-qdq",
        PRECISION_KEY: INT8_PRECISION,
        FLOAT_KEY: contract.sha256,
    }
    del quantised.metadata_props[:]
    helper.set_model_props(quantised, dict(sorted(props.items())))
    for opset in [opset for opset in quantised.opset_import if opset.domain]:
        quantised.opset_import.remove(opset)
    check_model(quantised, contract.name)
    result = quantised.SerializeToString(deterministic=True)
    return result, contract_of(quantised, result, contract.name)


def _stays_full(node: onnx.NodeProto) -> bool:
    return node.name.startswith(PREFIX) or any(part in node.name for part in _FULL_PARTS)


def _cast_first(graph: onnx.GraphProto, what: str) -> None:
    """Turns the pixels into floats before they are transposed: TensorRT transposes no uint8."""
    readers = [node for node in graph.node if "image" in node.input]
    if [node.op_type for node in readers] == ["Cast"]:
        return
    casts = [node for node in graph.node if readers and readers[0].output[0] in node.input]
    if [node.op_type for node in readers] != ["Transpose"] or [node.op_type for node in casts] != ["Cast"]:
        raise ModelRefusedError(f"{what}: TensorRT needs a graph that begins with Transpose and Cast, as baked ones do")
    transpose, cast = readers[0], casts[0]
    cast.input[0], transpose.input[0] = "image", f"{PREFIX}pixels"
    cast.output[0], transpose.output[0] = transpose.input[0], cast.output[0]
    _sort(graph)


def _sort(graph: onnx.GraphProto) -> None:
    """Puts the nodes into an order in which every input is made before it is used; the converter appends its casts."""
    makers = {output: node for node in graph.node for output in node.output}
    ordered: list[onnx.NodeProto] = []
    placed: set[str] = set()
    for last in graph.node:
        waiting = [last]
        while waiting:
            node = waiting[-1]
            missing = [makers[name] for name in node.input if name in makers and name not in placed]
            if missing:
                waiting.extend(missing)
                continue
            waiting.pop()
            if node.output[0] not in placed:
                placed.update(node.output)
                ordered.append(node)
    kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in ordered]
    del graph.node[:]
    graph.node.extend(kept)


class _Reader:
    """Feeds the calibration one picture at a time."""

    def __init__(self, pictures: Sequence[npt.NDArray[np.uint8]]) -> None:
        self._pictures = list(pictures)
        self._place = 0

    def get_next(self) -> dict[str, npt.NDArray[np.uint8]] | None:
        """The next input, None after the last."""
        if self._place == len(self._pictures):
            return None
        self._place += 1
        return {"image": self._pictures[self._place - 1]}

    def rewind(self) -> None:
        """Starts again."""
        self._place = 0

    def __len__(self) -> int:
        return len(self._pictures)

    def set_range(self, start_index: int, end_index: int) -> None:
        """Keeps a part only."""
        self._pictures = self._pictures[start_index:end_index]
        self._place = 0
