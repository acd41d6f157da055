"""The two families of exports that can be baked, recognised by the names and shapes of their tensors.

* RF-DETR: `input` [1,3,H,W] (RGB / 255, ImageNet statistics) -> `dets` [1,Q,4] (cx cy w h, 0..1) and
  `labels` [1,Q,C] (logits).
* DEIM, D-FINE: `images` [1,3,H,W] (RGB / 255), `orig_target_sizes` int64 [1,2] -> `labels` [1,Q] (contiguous classes),
  `boxes` [1,Q,4] (x1 y1 x2 y2 in the size given), `scores` [1,Q] (sigmoids of the best pairs of query and class).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from onnx import TensorProto

from detr_sentry.errors import ModelRefusedError
from detr_sentry.models.classes import MAX_QUERIES, coco_contiguous, coco_sparse
from detr_sentry.models.coco import COCO_SLOTS
from detr_sentry.models.exported import IMAGENET_MEAN, IMAGENET_STD
from detr_sentry.models.graph import describe_io, dims_of
from detr_sentry.models.surgery import Surgery, fix_batch

if TYPE_CHECKING:
    from collections.abc import Sequence

    import onnx

    from detr_sentry.models.classes import ClassTable, ModelClass

_FLOATS = frozenset({TensorProto.FLOAT, TensorProto.FLOAT16})

_TO_CORNERS = np.array([[1, 0, 1, 0], [0, 1, 0, 1], [-0.5, 0, 0.5, 0], [0, -0.5, 0, 0.5]], np.float32)
"""[cx cy w h] @ this = [x1 y1 x2 y2]."""


class Adapter(Protocol):
    """Knows one family of exports."""

    @property
    def name(self) -> str:
        """As in the metadata."""
        ...

    @property
    def expected(self) -> str:
        """The tensors, for errors."""
        ...

    @property
    def threshold(self) -> float:
        """The score from which the family's authors show detections."""
        ...

    def matches(self, graph: onnx.GraphProto) -> bool:
        """Whether the graph has this family's tensors."""
        ...

    def default_classes(self, graph: onnx.GraphProto) -> ClassTable | None:
        """The classes of a COCO model, or None where only the user can know them."""
        ...

    def rewrite(self, surgery: Surgery, table: ClassTable, enabled: Sequence[ModelClass]) -> list[str]:
        """Edits the graph and returns the names of its [1,Q,n] columns: boxes, score, class id."""
        ...


@dataclass(frozen=True)
class RfDetr:
    """RF-DETR exports, by `rfdetr` itself or converted; the slot number is the class id."""

    name: str = "rfdetr"
    expected: str = "RF-DETR: `input` float [1,3,H,W] -> `dets` [1,Q,4], `labels` [1,Q,C]"
    threshold: float = 0.5

    def matches(self, graph: onnx.GraphProto) -> bool:
        """Whether the graph has RF-DETR's tensors."""
        inputs, outputs = _named(graph)
        if set(inputs) != {"input"} or not {"dets", "labels"} <= set(outputs) or not _is_image(inputs["input"]):
            return False
        match dims_of(outputs["dets"]), dims_of(outputs["labels"]):
            case (None | 1, queries, None | 4), (None | 1, rows, None | int()):
                return queries == rows or None in {queries, rows}
        return False

    def default_classes(self, graph: onnx.GraphProto) -> ClassTable | None:
        """COCO's, if there are 91 slots."""
        return coco_sparse() if self._slots(graph) == COCO_SLOTS else None

    def rewrite(self, surgery: Surgery, table: ClassTable, enabled: Sequence[ModelClass]) -> list[str]:
        """Sigmoid of the best enabled class of each query: the other slots cannot hide a person."""
        slots, last = self._slots(surgery.graph), table.classes[-1].number
        if slots is None or last >= slots:
            raise ModelRefusedError(f"class number {last} lies outside the {slots} class slots of `labels`")
        for value in surgery.graph.input:
            fix_batch(value)
        queries = dims_of(_named(surgery.graph)[1]["dets"])[1]
        if queries is not None and queries > MAX_QUERIES:
            raise ModelRefusedError(f"claims {queries} queries; at most {MAX_QUERIES} are allowed")
        surgery.top_k = queries
        dets, logits = (self._float(surgery, name) for name in ("dets", "labels"))
        surgery.normalise("input", IMAGENET_MEAN, IMAGENET_STD)
        corners = surgery.after("MatMul", [dets, surgery.constant(_TO_CORNERS, "to_corners")])
        slot_list = surgery.constant(np.array([entry.number for entry in enabled], np.int64), "enabled")
        offered = surgery.after("Gather", [logits, slot_list], axis=2)
        if len(enabled) == 1 and queries is not None:
            column = np.full((1, queries, 1), enabled[0].id, np.float32)
            return [corners, surgery.after("Sigmoid", [offered]), surgery.constant(column, "class_id")]
        score = surgery.after("Sigmoid", [surgery.reduce_max(offered, 2)])
        best = surgery.after("ArgMax", [offered], axis=2, keepdims=1)
        ids = surgery.constant(np.array([entry.id for entry in enabled], np.float32), "class_ids")
        return [corners, score, surgery.after("Gather", [ids, best], axis=0)]

    @staticmethod
    def _slots(graph: onnx.GraphProto) -> int | None:
        return dims_of(_named(graph)[1]["labels"])[-1]

    @staticmethod
    def _float(surgery: Surgery, name: str) -> str:
        element = _named(surgery.graph)[1][name].type.tensor_type.elem_type
        return name if element == TensorProto.FLOAT else surgery.after("Cast", [name], to=TensorProto.FLOAT)


@dataclass(frozen=True)
class Deim:
    """DEIM, DEIMv2 and D-FINE exports with their post-processor inside."""

    name: str = "deim"
    expected: str = (
        "DEIM or D-FINE: `images` float [1,3,H,W], `orig_target_sizes` int64 [1,2] -> `labels`, `boxes`, `scores`"
    )
    threshold: float = 0.4

    def matches(self, graph: onnx.GraphProto) -> bool:
        """Whether the graph has these models' tensors."""
        inputs, outputs = _named(graph)
        return (
            set(inputs) == {"images", "orig_target_sizes"}
            and {"labels", "boxes", "scores"} <= set(outputs)
            and [len(dims_of(outputs[name])) for name in ("labels", "boxes", "scores")] == [2, 3, 2]
            and dims_of(outputs["boxes"])[2] in {None, 4}
            and _is_image(inputs["images"])
            and inputs["orig_target_sizes"].type.tensor_type.elem_type == TensorProto.INT64
        )

    def default_classes(self, graph: onnx.GraphProto) -> ClassTable | None:  # noqa: ARG002 - of the protocol
        """COCO's: the class count is not in the tensors' shapes, and published exports are COCO models."""
        return coco_contiguous()

    def rewrite(self, surgery: Surgery, table: ClassTable, enabled: Sequence[ModelClass]) -> list[str]:
        """A size of 1 x 1 makes the boxes shares; contiguous classes become class ids; disabled classes score 0."""
        for value in surgery.graph.input:
            fix_batch(value)
        surgery.find_top_k("scores")
        surgery.replace_input("orig_target_sizes", np.ones((1, 2), np.int64))
        kinds = {name: value.type.tensor_type.elem_type for name, value in _named(surgery.graph)[1].items()}
        surgery.divide("images")
        boxes, scores = (
            name if kinds[name] == TensorProto.FLOAT else surgery.after("Cast", [name], to=TensorProto.FLOAT)
            for name in ("boxes", "scores")
        )
        rows = np.zeros((table.classes[-1].number + 1, 2), np.float32)
        for entry in table.classes:
            rows[entry.number] = entry.id, entry in enabled
        last = surgery.constant(np.array([2], np.int64), "last_axis")
        index = surgery.after("Cast", ["labels"], to=TensorProto.INT64)
        number = surgery.after("Gather", [surgery.constant(rows[:, 0], "class_ids"), index], axis=0)
        allowed = surgery.after("Gather", [surgery.constant(rows[:, 1], "enabled"), index], axis=0)
        score = surgery.after("Mul", [scores, allowed])
        if surgery.opset < 13:
            return [
                boxes,
                surgery.after("Unsqueeze", [score], axes=[2]),
                surgery.after("Unsqueeze", [number], axes=[2]),
            ]
        return [boxes, surgery.after("Unsqueeze", [score, last]), surgery.after("Unsqueeze", [number, last])]


ADAPTERS: tuple[Adapter, ...] = (RfDetr(), Deim())


def find_adapter(graph: onnx.GraphProto, what: str) -> Adapter:
    """The adapter of an export. Raises ModelRefusedError that says what was expected and what was found."""
    for adapter in ADAPTERS:
        if adapter.matches(graph):
            return adapter
    expected = "; or ".join(adapter.expected for adapter in ADAPTERS)
    raise ModelRefusedError(f"{what}: expected {expected}; found {describe_io(graph)}")


def _named(graph: onnx.GraphProto) -> tuple[dict[str, onnx.ValueInfoProto], dict[str, onnx.ValueInfoProto]]:
    known = {tensor.name for tensor in graph.initializer}
    inputs = {value.name: value for value in graph.input if value.name not in known}
    return inputs, {value.name: value for value in graph.output}


def _is_image(value: onnx.ValueInfoProto) -> bool:
    """Whether a value is [1 or free, 3, H, W] of floats with fixed sides."""
    match dims_of(value):
        case (None | 1, 3, int(), int()):
            return value.type.tensor_type.elem_type in _FLOATS
    return False
