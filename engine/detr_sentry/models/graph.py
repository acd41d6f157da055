"""Reading of untrusted ONNX files, and the checks that come before any runtime sees them.

A model is refused for external data, model-local functions, operators outside ONNX's own domain, tensors of absurd
size and whatever ONNX's checker finds. Nothing here creates a session, follows a path inside the file or allocates
what the file merely claims.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # has no stubs
from onnx import TensorProto

from detr_sentry.errors import ModelRefusedError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

MAX_FILE_BYTES = 1 << 30
"""Ten times RF-DETR Small; protobuf itself ends at 2 GiB."""
MAX_TENSOR_ELEMENTS = 1 << 27
"""Half a GiB of float32 in one tensor, far above any activation of a detector that runs at an edge."""
MAX_DEPTH = 8
"""Nesting of subgraphs (If, Loop); exported detectors have none."""

_KNOWN_TYPES = frozenset(onnx.helper.get_all_tensor_dtypes())
_WHOLE_BYTES = frozenset(
    {
        TensorProto.FLOAT,
        TensorProto.FLOAT16,
        TensorProto.BFLOAT16,
        TensorProto.DOUBLE,
        TensorProto.INT8,
        TensorProto.UINT8,
        TensorProto.INT16,
        TensorProto.UINT16,
        TensorProto.INT32,
        TensorProto.UINT32,
        TensorProto.INT64,
        TensorProto.UINT64,
        TensorProto.BOOL,
    }
)
"""Types whose elements are not packed: 4-bit ones are, and text has no raw form."""

_FLOAT_TYPES: dict[int, str] = {TensorProto.FLOAT: "<f4", TensorProto.FLOAT16: "<f2", TensorProto.DOUBLE: "<f8"}

_STANDARD_DOMAINS = frozenset({"", "ai.onnx"})
_SHAPE_DATA_ELEMENTS = 1024
"""Initializers up to this size keep their values for shape inference: shapes and indices are small, weights are not."""


def read_bytes(path: Path) -> bytes:
    """The content of a model file. Raises ModelRefusedError if it is not a readable file of sane size."""
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise ModelRefusedError(f"{path}: {path.stat().st_size} bytes; a detector has at most {MAX_FILE_BYTES}")
        return path.read_bytes()
    except OSError as error:
        raise ModelRefusedError(f"{path}: cannot be read: {error.strerror}") from error


def parse_model(data: bytes, what: str) -> onnx.ModelProto:
    """A checked ONNX model. `what` names it in errors. Raises ModelRefusedError."""
    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
    except DecodeError as error:
        raise ModelRefusedError(f"{what}: not an ONNX file") from error
    if not model.HasField("graph") or not model.graph.node:
        raise ModelRefusedError(f"{what}: not an ONNX file: it holds no graph")
    check_model(model, what)
    return model


def check_model(model: onnx.ModelProto, what: str) -> None:
    """Refuse what no detector of ours holds. Raises ModelRefusedError with the reason."""
    _check_parts(model, what)
    for node in walk_nodes(model.graph, what):
        _check_domain(node.domain, f"{what}: operator {node.op_type} {node.name!r}")
    for tensor in _walk_tensors(model.graph, what):
        _check_tensor(tensor, what)
    for value in (*model.graph.input, *model.graph.output):
        _check_elements(_static_elements(value), f"{what}: {value.name!r}")
    bare = _without_weights(model)
    try:
        onnx.checker.check_model(bare)
        for value in bare.graph.output:
            value.type.tensor_type.ClearField("shape")
        inferred = onnx.shape_inference.infer_shapes(bare, data_prop=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, ValueError) as error:
        reason = str(error).strip().splitlines()
        raise ModelRefusedError(f"{what}: not valid ONNX: {reason[0] if reason else 'unknown'}") from error
    for value in (*inferred.graph.value_info, *inferred.graph.output):
        _check_elements(_static_elements(value), f"{what}: {value.name!r}")
    _check_outputs(model.graph.output, inferred.graph.output, what)


def infer_shapes(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of `model` without its weights, whose values carry the shapes that ONNX can infer."""
    return onnx.shape_inference.infer_shapes(_without_weights(model), data_prop=True)


def _without_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy whose large initializers are inputs: the checks see every node and copy no weight, which may be 100 MB."""
    graph = model.graph
    bare = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    bare.graph.name = graph.name
    bare.graph.node.extend(graph.node)
    bare.graph.input.extend(graph.input)
    bare.graph.output.extend(graph.output)
    named = {value.name for value in graph.input}
    for tensor in graph.initializer:
        if math.prod(tensor.dims) <= _SHAPE_DATA_ELEMENTS:
            bare.graph.initializer.append(tensor)
        elif tensor.name not in named:
            bare.graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    return bare


def walk_nodes(graph: onnx.GraphProto, what: str, depth: int = 0) -> Iterator[onnx.NodeProto]:
    """Every node of the graph and its subgraphs."""
    if depth > MAX_DEPTH:
        raise ModelRefusedError(f"{what}: subgraphs nested deeper than {MAX_DEPTH}")
    for node in graph.node:
        yield node
        for subgraph in _subgraphs(node):
            yield from walk_nodes(subgraph, what, depth + 1)


def metadata_of(model: onnx.ModelProto) -> dict[str, str]:
    """The model's `metadata_props`."""
    return {entry.key: entry.value for entry in model.metadata_props}


def dims_of(value: onnx.ValueInfoProto) -> tuple[int | None, ...]:
    """The shape of an input or output; None where it is not fixed."""
    return tuple(
        dim.dim_value if dim.HasField("dim_value") and dim.dim_value > 0 else None
        for dim in value.type.tensor_type.shape.dim
    )


def describe_io(graph: onnx.GraphProto) -> str:
    """Inputs and outputs in one line, for errors: `images float[?,3,320,320] -> scores float[?,?]`."""
    known = {tensor.name for tensor in graph.initializer}

    def side(values: Iterable[onnx.ValueInfoProto]) -> str:
        return ", ".join(_describe(value) for value in values if value.name not in known)

    return f"{side(graph.input)} -> {side(graph.output)}"


def _describe(value: onnx.ValueInfoProto) -> str:
    kind = TensorProto.DataType.Name(value.type.tensor_type.elem_type).lower()
    return f"{value.name} {kind}[{','.join('?' if dim is None else str(dim) for dim in dims_of(value))}]"


def _subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def _walk_tensors(graph: onnx.GraphProto, what: str) -> Iterator[TensorProto]:
    for part in (graph, *(sub for node in walk_nodes(graph, what) for sub in _subgraphs(node))):
        yield from part.initializer
    for node in walk_nodes(graph, what):
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            if attribute.HasField("sparse_tensor"):
                yield from (attribute.sparse_tensor.values, attribute.sparse_tensor.indices)
            for sparse in attribute.sparse_tensors:
                yield from (sparse.values, sparse.indices)


def _check_parts(model: onnx.ModelProto, what: str) -> None:
    """What a file may consist of at all, and the operator sets that it asks for."""
    if model.functions:
        raise ModelRefusedError(f"{what}: holds model-local functions; export it with plain ONNX operators")
    if model.graph.sparse_initializer:
        raise ModelRefusedError(f"{what}: holds sparse weights; save it with dense ones")
    if model.training_info:
        raise ModelRefusedError(f"{what}: holds training graphs; export it for inference")
    newest = onnx.defs.onnx_opset_version()
    for opset in model.opset_import:
        _check_domain(opset.domain, what)
        if opset.version > newest:
            raise ModelRefusedError(f"{what}: opset {opset.version}; this build knows opsets up to {newest}")


def _check_outputs(declared: Iterable[onnx.ValueInfoProto], inferred: Iterable[onnx.ValueInfoProto], what: str) -> None:
    """Refuses outputs that state another shape than their nodes give, as far as that can be known."""
    computed = {value.name: value for value in inferred}
    for value in declared:
        said, found = dims_of(value), dims_of(computed[value.name])
        if found and (len(said) != len(found) or any(a != b for a, b in zip(said, found, strict=True) if a and b)):
            raise ModelRefusedError(
                f"{what}: states {_describe(value)}, but computes {_describe(computed[value.name])}"
            )


def _check_domain(domain: str, what: str) -> None:
    if domain not in _STANDARD_DOMAINS:
        raise ModelRefusedError(f"{what}: operators of domain {domain!r}; only ONNX's own operators are run")


def _check_tensor(tensor: TensorProto, what: str) -> None:
    if tensor.data_location == TensorProto.EXTERNAL or tensor.external_data:
        raise ModelRefusedError(f"{what}: tensor {tensor.name!r} lies in another file; save the model as one file")
    if any(dim < 0 for dim in tensor.dims):
        raise ModelRefusedError(f"{what}: tensor {tensor.name!r} has a negative dimension")
    elements = math.prod(tensor.dims)
    _check_elements(elements, f"{what}: tensor {tensor.name!r}")
    if tensor.data_type not in _KNOWN_TYPES:
        raise ModelRefusedError(f"{what}: tensor {tensor.name!r} is of type {tensor.data_type}")
    size = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    if tensor.HasField("raw_data") and tensor.data_type in _WHOLE_BYTES and len(tensor.raw_data) != elements * size:
        raise ModelRefusedError(
            f"{what}: tensor {tensor.name!r} has {len(tensor.raw_data)} bytes instead of {elements * size}"
        )
    if _has_nan(tensor):
        raise ModelRefusedError(f"{what}: tensor {tensor.name!r} holds numbers that are none (NaN)")


def _has_nan(tensor: TensorProto) -> bool:
    """Whether a float tensor holds a NaN; infinities are legitimate, attention masks are made of them."""
    kind = _FLOAT_TYPES.get(tensor.data_type)
    if kind is None:
        return False
    if tensor.HasField("raw_data"):
        values = np.frombuffer(tensor.raw_data, kind)
    else:
        values = np.array(tensor.double_data if tensor.data_type == TensorProto.DOUBLE else tensor.float_data)
    return bool(np.isnan(values).any())


def _check_elements(elements: int, what: str) -> None:
    if elements > MAX_TENSOR_ELEMENTS:
        raise ModelRefusedError(f"{what} claims {elements} elements; at most {MAX_TENSOR_ELEMENTS} are allowed")


def _static_elements(value: onnx.ValueInfoProto) -> int:
    return math.prod(dim for dim in dims_of(value) if dim is not None)
