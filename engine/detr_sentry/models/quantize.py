"""Dynamic INT8 of a baked model's backbone, for ONNX Runtime on a CPU: about twice as fast, at some cost in accuracy.

Only the backbone's MatMuls with constant weights become INT8; activations are quantised as they come, so no calibration
is needed. The decoder stays float: quantised, it loses nearly all accuracy in DETRs, and ONNX Runtime refuses some of
it. Convolutions stay float as well: ONNX Runtime's INT8 ones are slower (a Nano-shaped graph on two cores: 266 ms in
float, 112 ms with INT8 MatMuls, 158 ms with INT8 convolutions too).
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import onnx
from onnx import helper

from detr_sentry.errors import ModelRefusedError
from detr_sentry.models.contract import ModelContract, contract_of
from detr_sentry.models.graph import check_model, metadata_of, parse_model

PRECISION_KEY, FLOAT_KEY = "detr_sentry.precision", "detr_sentry.float_sha256"
PRECISION = "int8-dynamic-backbone"


def quantize_backbone(data: bytes, contract: ModelContract) -> tuple[bytes, ModelContract]:
    """The INT8 form of the baked model `data`, and its contract: the same but for name and hash.

    Its metadata say what was quantised and name the float model's hash. Raises ModelRefusedError where the model has no
    named backbone with MatMuls, as convolutional ones.
    """
    model = parse_model(data, contract.name)
    if PRECISION_KEY in metadata_of(model):
        raise ModelRefusedError(f"{contract.name} is quantised already; name the float model")
    chosen = backbone_matmuls(model.graph)
    if not chosen:
        raise ModelRefusedError(
            f"{contract.name}: no MatMul lies in a part called `backbone`; INT8 is for transformer backbones (RF-DETR)"
        )
    quantised = _quantise(model, chosen)
    props = metadata_of(model) | {
        "detr_sentry.name": f"{contract.name}-int8",
        PRECISION_KEY: PRECISION,
        FLOAT_KEY: contract.sha256,
    }
    del quantised.metadata_props[:]
    helper.set_model_props(quantised, dict(sorted(props.items())))
    used = {node.domain for node in quantised.graph.node}
    for opset in [opset for opset in quantised.opset_import if opset.domain not in {"", *used}]:
        quantised.opset_import.remove(opset)
    check_model(quantised, contract.name)
    result = quantised.SerializeToString(deterministic=True)
    return result, contract_of(quantised, result, contract.name)


def backbone_matmuls(graph: onnx.GraphProto) -> list[str]:
    """Names of the MatMuls with constant weights in parts called `backbone`."""
    constants = {tensor.name for tensor in graph.initializer}
    return [
        node.name
        for node in graph.node
        if node.op_type == "MatMul" and "backbone" in node.name.split("/") and node.input[1] in constants
    ]


def _quantise(model: onnx.ModelProto, nodes: list[str]) -> onnx.ModelProto:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with tempfile.TemporaryDirectory(prefix="detr-sentry-") as folder:
        path = Path(folder) / "int8.onnx"
        # A bit is spared where the CPU adds pairs of 8-bit products in 16 bits and would clip them.
        quantize_dynamic(
            model,
            path,
            op_types_to_quantize=["MatMul"],
            nodes_to_quantize=nodes,
            per_channel=True,
            reduce_range=not _multiplies_exactly(),
            weight_type=QuantType.QInt8,
        )
        return onnx.load(path)


def _multiplies_exactly(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether this CPU has 8-bit products with 32-bit sums: VNNI on x86, every 64-bit Arm."""
    try:
        text = cpuinfo.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return "_vnni" in text or "asimd" in text
