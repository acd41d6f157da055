"""Small edits of an ONNX graph: new constants, new nodes around it, normalisation folded into its first Conv."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from detr_sentry.errors import ModelRefusedError
from detr_sentry.models.graph import dims_of, infer_shapes, walk_nodes

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt
    import onnx

PREFIX = "detr_sentry/"
"""Every name that baking adds starts with this, so it cannot meet a name of the export."""

_IMAGE, _DETECTIONS = "image", "detections"


class Surgery:
    """One model under edit. `model` is changed in place; `finish` puts the new nodes around the old graph."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self.graph = model.graph
        self.opset = next(entry.version for entry in model.opset_import if entry.domain in {"", "ai.onnx"})
        self._before: list[onnx.NodeProto] = []
        self._after: list[onnx.NodeProto] = []
        self._count = 0
        self.top_k: int | None = None
        """Rows of the output as the export states them; shape inference cannot always tell."""
        self._rows: set[str] = set()

    def constant(self, value: npt.NDArray[Any], label: str) -> str:
        """Adds an initializer and returns its name."""
        name = self._name(label)
        self.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def before(self, operator: str, inputs: Sequence[str], output: str | None = None, **attributes: Any) -> str:
        """Adds a node ahead of the graph and returns the name of its output."""
        return self._node(self._before, operator, inputs, output, attributes)

    def after(self, operator: str, inputs: Sequence[str], output: str | None = None, **attributes: Any) -> str:
        """Adds a node behind the graph and returns the name of its output."""
        return self._node(self._after, operator, inputs, output, attributes)

    def reduce_max(self, value: str, axis: int) -> str:
        """ReduceMax that keeps the dimension; opset 18 turned its axes from an attribute into an input."""
        if self.opset < 18:
            return self.after("ReduceMax", [value], axes=[axis], keepdims=1)
        return self.after("ReduceMax", [value, self.constant(np.array([axis], np.int64), "axes")], keepdims=1)

    def replace_input(self, name: str, value: npt.NDArray[Any]) -> None:
        """Makes a graph input a constant of the same name."""
        self.graph.input.remove(next(entry for entry in self.graph.input if entry.name == name))
        self.graph.initializer.append(numpy_helper.from_array(value, name))

    def find_top_k(self, name: str) -> None:
        """Notes the constant K of the TopK that makes the values `name`; exporters lose its shape on the way."""
        for node in self.graph.node:
            if node.op_type == "TopK" and node.output[0] == name:
                count = self._value(node.input[1])
                self.top_k = None if count is None or count.size != 1 else int(count.reshape(-1)[0])

    def divide(self, name: str) -> None:
        """Feeds graph input `name` (RGB planes, x / 255) from the uint8 pixels of `image`.

        A division, as the models' own code does it, and not a factor folded into the weights: the detections stay equal
        to the export's to the last bit, and the time does not change (DEIMv2 Femto, one thread: 16.2 ms either way).
        """
        pixels, element = self._take_pixels(name)
        shares = [pixels, self.constant(np.array(255.0, np.float32), "white")]
        if element == TensorProto.FLOAT:
            self.before("Div", shares, name)
        else:
            self.before("Cast", [self.before("Div", shares)], name, to=element)

    def normalise(self, name: str, mean: Sequence[float], std: Sequence[float]) -> bool:
        """Feeds graph input `name` (RGB planes, (x / 255 - mean) / std) from the uint8 pixels of `image`.

        Returns True if the arithmetic went into the first Conv, in float64: exact but for float32 rounding. That Conv
        must be the only reader and must not pad: a padded 0 has to stay 0. Otherwise a Mul and a Sub go first.
        """
        pixels, element = self._take_pixels(name)
        conv = self._first_conv(name) if element == TensorProto.FLOAT else None
        scale = 1.0 / (255.0 * np.asarray(std, np.float64))
        shift = np.asarray(mean, np.float64) / np.asarray(std, np.float64)
        if conv is not None and _pads_nothing(conv) and self._fold(conv, pixels, scale, shift):
            return True
        factor = self.constant(scale.astype(np.float32).reshape(1, 3, 1, 1), "scale")
        offset = self.constant(shift.astype(np.float32).reshape(1, 3, 1, 1), "shift")
        scaled = [self.before("Mul", [pixels, factor]), offset]
        if element == TensorProto.FLOAT:
            self.before("Sub", scaled, name)
        else:
            self.before("Cast", [self.before("Sub", scaled)], name, to=element)
        return False

    def _take_pixels(self, name: str) -> tuple[str, int]:
        """Replaces graph input `name` by `image`; returns its pixels as float planes, and the type `name` had."""
        entry = next(value for value in self.graph.input if value.name == name)
        _, _, height, width = dims_of(entry)
        self.graph.input.remove(entry)
        self._image = helper.make_tensor_value_info(_IMAGE, TensorProto.UINT8, [1, height, width, 3])
        planes = self.before("Transpose", [_IMAGE], perm=[0, 3, 1, 2])
        return self.before("Cast", [planes], to=TensorProto.FLOAT), entry.type.tensor_type.elem_type

    def finish(self, columns: Sequence[str], props: dict[str, str]) -> int | None:
        """Joins `columns` (each [1,Q,n]) to `detections`, makes it the only output, sets the metadata.

        Returns Q, or None if it cannot be told from the graph. Raises ModelRefusedError if the columns differ in it.
        """
        self._rows = {*columns, _DETECTIONS}
        self.after("Concat", columns, _DETECTIONS, axis=2)
        nodes = [*self._before, *self.graph.node, *self._after]
        del self.graph.node[:], self.graph.output[:], self.graph.value_info[:]
        self.graph.node.extend(nodes)
        self.graph.input.insert(0, self._image)
        self.graph.output.append(helper.make_tensor_value_info(_DETECTIONS, TensorProto.FLOAT, [1, None, 6]))
        kept = {
            entry.key: entry.value for entry in self.model.metadata_props if not entry.key.startswith("detr_sentry.")
        }
        del self.model.metadata_props[:]
        helper.set_model_props(self.model, {**kept, **props})
        inferred = infer_shapes(self.model).graph
        shapes = [dims_of(value) for value in (*inferred.output, *inferred.value_info) if value.name in self._rows]
        known = {dims[1] for dims in shapes if len(dims) == 3 and dims[1] is not None}
        queries = self.top_k or next(iter(known), None)
        if known - {queries}:
            raise ModelRefusedError(f"its outputs disagree on the number of queries: {sorted({*known, queries or 0})}")
        if queries is not None:
            self.graph.output[0].type.tensor_type.shape.dim[1].dim_value = queries
        return queries

    def _node(
        self,
        nodes: list[onnx.NodeProto],
        operator: str,
        inputs: Sequence[str],
        output: str | None,
        attributes: dict[str, Any],
    ) -> str:
        output = output or self._name(operator)
        nodes.append(
            helper.make_node(operator, list(inputs), [output], name=self._name(f"node_{operator}"), **attributes)
        )
        return output

    def _name(self, label: str) -> str:
        self._count += 1
        return f"{PREFIX}{label}_{self._count}"

    def _readers(self, name: str) -> list[onnx.NodeProto]:
        return [node for node in walk_nodes(self.graph, self.graph.name) if name in node.input]

    def _first_conv(self, name: str) -> onnx.NodeProto | None:
        """The Conv that alone reads `name`, past no-op Casts (PyTorch exports begin with one), or None."""
        while True:
            readers = self._readers(name)
            if len(readers) != 1 or readers[0] not in list(self.graph.node) or self._is_output(name):
                return None
            (node,) = readers
            if node.op_type == "Conv":
                return node if node.input[0] == name else None
            if not _is_noop(node):
                return None
            name = node.output[0]

    def _is_output(self, name: str) -> bool:
        return any(value.name == name for value in self.graph.output)

    def _fold(
        self, conv: onnx.NodeProto, pixels: str, scale: npt.NDArray[np.float64], shift: npt.NDArray[np.float64]
    ) -> bool:
        """Puts `x * scale - shift` into the constant weights of `conv`, which reads `pixels` then; False if not."""
        weight = self._value(conv.input[1])
        biased = len(conv.input) > 2 and conv.input[2] != ""
        bias = self._value(conv.input[2]) if biased else np.zeros(0 if weight is None else len(weight))
        if weight is None or bias is None or weight.dtype != np.float32 or weight.shape[1:2] != (3,):
            return False
        wide = weight.astype(np.float64)
        old = [name for name in conv.input[1:] if name]
        new_bias = bias.astype(np.float64) - (wide * shift.reshape(1, 3, 1, 1)).sum((1, 2, 3))
        inputs = [
            pixels,
            self.constant((wide * scale.reshape(1, 3, 1, 1)).astype(np.float32), "weight"),
            self.constant(new_bias.astype(np.float32), "bias"),
        ]
        skipped = conv.input[0]
        del conv.input[:]
        conv.input.extend(inputs)
        self._drop_unread(skipped, old)
        return True

    def _drop_unread(self, value: str, constants: list[str]) -> None:
        """Removes the no-op nodes that made `value`, and constants that nothing reads any more."""
        while (maker := next((node for node in self.graph.node if value in node.output), None)) is not None:
            self.graph.node.remove(maker)
            value = maker.input[0]
        for name in constants:
            if not self._readers(name):
                for tensor in [entry for entry in self.graph.initializer if entry.name == name]:
                    self.graph.initializer.remove(tensor)

    def _value(self, name: str) -> npt.NDArray[Any] | None:
        """The constant called `name`, or None."""
        for tensor in self.graph.initializer:
            if tensor.name == name:
                return numpy_helper.to_array(tensor)
        for node in self.graph.node:
            if node.op_type == "Constant" and name in node.output and node.attribute[0].name == "value":
                return numpy_helper.to_array(node.attribute[0].t)
        return None


def fix_batch(value: onnx.ValueInfoProto) -> None:
    """Sets a free first dimension to 1."""
    dim = value.type.tensor_type.shape.dim[0]
    if not dim.HasField("dim_value"):
        dim.dim_value = 1


def _is_noop(node: onnx.NodeProto) -> bool:
    if node.op_type == "Identity":
        return True
    return node.op_type == "Cast" and any(a.name == "to" and a.i == TensorProto.FLOAT for a in node.attribute)


def _pads_nothing(conv: onnx.NodeProto) -> bool:
    for attribute in conv.attribute:
        if attribute.name == "pads" and any(attribute.ints):
            return False
        if attribute.name == "auto_pad" and attribute.s not in {b"", b"NOTSET", b"VALID"}:
            return False
    return True
