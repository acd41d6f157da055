"""RF-DETR's computation with random weights: for timings where no real weights can be had. It finds nothing.

The graph follows the official exports of Nano and Small operator by operator where time goes: DINOv2-S in windows (12
blocks of width 384, patches of 16, 2 x 2 windows but for blocks 3, 6 and 9), a C2f projector to 256 channels, 300 of
all tokens as queries, and 2 or 3 decoder layers with deformable attention (16 heads, 2 points). Tensors are named as
in the exports, so it is baked and run as they are. It has 26.9 M and 28.5 M weights; an official export of Nano has
28.1 M (112.4 MB), and the published 30.5 M and 32.1 M count twelve more groups of queries that only training uses.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt
    import onnx

_WIDTH, _BLOCKS, _HEADS, _PATCH, _WINDOWS = 384, 12, 6, 16, 2
_WHOLE_BLOCKS = (3, 6, 9)
_TAPPED_BLOCKS = (2, 5, 8, 11)
_HIDDEN, _CLASSES = 256, 91
_SELF_HEADS, _CROSS_HEADS, _POINTS, _FEED_FORWARD = 8, 16, 2, 2048
_BOTTLENECKS = 3


@dataclass(frozen=True, slots=True)
class Shape:
    """What distinguishes the variants: the input's side in pixels, the decoder's layers and its queries."""

    side: int
    layers: int
    queries: int = 300


SHAPES = {"rfdetr-nano-shaped": Shape(384, 2), "rfdetr-small-shaped": Shape(512, 3)}


def build(shape: Shape, seed: int = 1) -> onnx.ModelProto:
    """An export of this shape: `input` float [1,3,side,side] -> `dets` [1,300,4], `labels` [1,300,91]. Opset 17."""
    graph = _Graph(np.random.default_rng(seed))
    grid = shape.side // _PATCH
    features = _backbone(graph, grid)
    memory = _projector(graph, features, grid)
    _decoder(graph, memory, shape)
    value = helper.make_tensor_value_info
    main = helper.make_graph(
        graph.nodes,
        "rfdetr_shape",
        [value("input", TensorProto.FLOAT, [1, 3, shape.side, shape.side])],
        [
            value("dets", TensorProto.FLOAT, [1, shape.queries, 4]),
            value("labels", TensorProto.FLOAT, [1, shape.queries, _CLASSES]),
        ],
        graph.tensors,
    )
    return helper.make_model(main, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def parameters(model: onnx.ModelProto) -> int:
    """The number of floating-point weights of a model."""
    return sum(int(np.prod(t.dims)) for t in model.graph.initializer if t.data_type == TensorProto.FLOAT)


class _Graph:
    """Nodes and weights in the order of the computation; every method returns the name of its result."""

    def __init__(self, random: np.random.Generator) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.tensors: list[onnx.TensorProto] = []
        self._random = random
        self._scope = ""

    def within(self, scope: str) -> None:
        """Names of what follows start with `scope`, as PyTorch's exporter writes them."""
        self._scope = scope

    def op(self, kind: str, *inputs: str, out: str | None = None, **attributes: Any) -> str:
        name = f"/{self._scope}/{kind}_{len(self.nodes)}"
        result = out or f"{name}_output_0"
        self.nodes.append(helper.make_node(kind, list(inputs), [result], name=name, **attributes))
        return result

    def constant(self, value: npt.NDArray[Any] | float | Sequence[int]) -> str:
        array = np.asarray(value)
        array = array.astype(np.float32 if array.dtype.kind == "f" else np.int64)
        name = f"{self._scope}.constant_{len(self.tensors)}"
        self.tensors.append(numpy_helper.from_array(array, name))
        return name

    def weight(self, *shape: int, fan_in: int = 0, scale: float = 1.0) -> str:
        values = self._random.standard_normal(shape, np.float32) * np.float32(scale / sqrt(fan_in or shape[0]))
        name = f"{self._scope}.weight_{len(self.tensors)}"
        self.tensors.append(numpy_helper.from_array(values, name))
        return name

    def linear(self, value: str, inputs: int, outputs: int, scale: float = 1.0) -> str:
        product = self.op("MatMul", value, self.weight(inputs, outputs, scale=scale))
        return self.op("Add", self.weight(outputs, fan_in=10_000), product)

    def norm(self, value: str, width: int) -> str:
        ones = self.constant(np.ones(width, np.float32))
        return self.op("LayerNormalization", value, ones, self.constant(np.zeros(width, np.float32)), epsilon=1e-6)

    def reshape(self, value: str, *shape: int) -> str:
        return self.op("Reshape", value, self.constant(shape))

    def gelu(self, value: str) -> str:
        error = self.op("Erf", self.op("Div", value, self.constant(sqrt(2.0))))
        return self.op("Mul", self.op("Mul", value, self.op("Add", error, self.constant(1.0))), self.constant(0.5))

    def attention(self, query: str, key: str, value: str, *, shape: tuple[int, int, int], heads: int) -> str:
        """Softmax attention over values of `shape` (batch, tokens, width), with the projections in and out."""
        batch, tokens, width = shape
        each = width // heads
        parts = []
        for source, order in ((query, (0, 2, 1, 3)), (key, (0, 2, 3, 1)), (value, (0, 2, 1, 3))):
            projected = self.reshape(self.linear(source, width, width), batch, tokens, heads, each)
            parts.append(self.op("Transpose", projected, perm=order))
        scores = self.op("Mul", self.op("MatMul", parts[0], parts[1]), self.constant(1 / sqrt(each)))
        mixed = self.op("MatMul", self.op("Softmax", scores, axis=-1), parts[2])
        joined = self.reshape(self.op("Transpose", mixed, perm=(0, 2, 1, 3)), batch, tokens, width)
        return self.linear(joined, width, width)

    def conv(self, value: str, inputs: int, outputs: int, kernel: int) -> str:
        """Convolution, layer norm over channels, SiLU: the projector's block."""
        weight = self.weight(outputs, inputs, kernel, kernel, fan_in=inputs * kernel * kernel)
        made = self.op("Conv", value, weight, kernel_shape=[kernel] * 2, pads=[kernel // 2] * 4)
        last = self.norm(self.op("Transpose", made, perm=(0, 2, 3, 1)), outputs)
        back = self.op("Transpose", last, perm=(0, 3, 1, 2))
        return self.op("Mul", back, self.op("Sigmoid", back))


def _backbone(graph: _Graph, grid: int) -> list[str]:
    """The tapped feature maps [1,384,grid,grid] of windowed DINOv2-S."""
    graph.within("backbone/embeddings")
    patches = graph.op(
        "Conv",
        graph.op("Cast", "input", to=TensorProto.FLOAT),
        graph.weight(_WIDTH, 3, _PATCH, _PATCH, fan_in=3 * _PATCH * _PATCH),
        graph.weight(_WIDTH, fan_in=10_000),
        kernel_shape=[_PATCH] * 2,
        strides=[_PATCH] * 2,
    )
    tokens = graph.op("Transpose", graph.reshape(patches, 1, _WIDTH, grid * grid), perm=(0, 2, 1))
    tokens = graph.op("Add", tokens, graph.weight(1, grid * grid, _WIDTH, fan_in=_WIDTH))
    side, count = grid // _WINDOWS, _WINDOWS * _WINDOWS
    split = graph.reshape(tokens, 1, _WINDOWS, side, _WINDOWS, side * _WIDTH)
    windows = graph.reshape(graph.op("Transpose", split, perm=(0, 1, 3, 2, 4)), count, side * side, _WIDTH)
    first = graph.op("Expand", graph.weight(1, 1, _WIDTH), graph.constant((count, 1, _WIDTH)))
    state = graph.op("Concat", first, windows, axis=1)
    each = side * side + 1
    maps = []
    for block in range(_BLOCKS):
        graph.within(f"backbone/encoder/layer.{block}")
        batch, length = (1, count * each) if block in _WHOLE_BLOCKS else (count, each)
        state = graph.reshape(state, batch, length, _WIDTH)
        normed = graph.norm(state, _WIDTH)
        mixed = graph.attention(normed, normed, normed, shape=(batch, length, _WIDTH), heads=_HEADS)
        state = graph.op("Add", state, graph.op("Mul", mixed, graph.constant(np.full(_WIDTH, 0.1, np.float32))))
        inner = graph.gelu(graph.linear(graph.norm(state, _WIDTH), _WIDTH, 4 * _WIDTH))
        outer = graph.linear(inner, 4 * _WIDTH, _WIDTH)
        state = graph.op("Add", state, graph.op("Mul", outer, graph.constant(np.full(_WIDTH, 0.1, np.float32))))
        if block in _TAPPED_BLOCKS:
            flat = graph.norm(graph.reshape(state, count, each, _WIDTH), _WIDTH)
            bounds = graph.constant([1]), graph.constant([each]), graph.constant([1])
            kept = graph.reshape(graph.op("Slice", flat, *bounds), 1, _WINDOWS, _WINDOWS, side, side * _WIDTH)
            joined = graph.reshape(graph.op("Transpose", kept, perm=(0, 1, 3, 2, 4)), 1, grid, grid, _WIDTH)
            maps.append(graph.op("Transpose", joined, perm=(0, 3, 1, 2)))
    return maps


def _projector(graph: _Graph, maps: Sequence[str], grid: int) -> str:
    """The decoder's memory [1,grid*grid,256] by C2f."""
    graph.within("backbone/projector")
    half = _HIDDEN // 2
    begun = graph.conv(graph.op("Concat", *maps, axis=1), _WIDTH * len(maps), _HIDDEN, 1)
    parts = [
        graph.op("Slice", begun, graph.constant([start]), graph.constant([start + half]), graph.constant([1]))
        for start in (0, half)
    ]
    for _ in range(_BOTTLENECKS):
        parts.append(graph.conv(graph.conv(parts[-1], half, half, 3), half, half, 3))
    joined = graph.conv(graph.op("Concat", *parts, axis=1), half * len(parts), _HIDDEN, 1)
    last = graph.norm(graph.op("Transpose", joined, perm=(0, 2, 3, 1)), _HIDDEN)
    return graph.reshape(last, 1, grid * grid, _HIDDEN)


def _boxes(graph: _Graph, value: str, reference: str, scope: str, out: str | None = None) -> str:
    """`reference` boxes moved and scaled by a three-layer head of `value`."""
    graph.within(f"{scope}bbox_embed")
    for _ in range(2):
        value = graph.op("Relu", graph.linear(value, _HIDDEN, _HIDDEN))
    delta = graph.linear(value, _HIDDEN, 4, scale=0.05)

    def half(name: str, start: int) -> str:
        bounds = graph.constant([start]), graph.constant([start + 2]), graph.constant([2])
        return graph.op("Slice", name, *bounds)

    size = half(reference, 2)
    centre = graph.op("Add", graph.op("Mul", half(delta, 0), size), half(reference, 0))
    return graph.op("Concat", centre, graph.op("Mul", graph.op("Exp", half(delta, 2)), size), axis=2, out=out)


def _decoder(graph: _Graph, memory: str, shape: Shape) -> None:
    """Two-stage choice of queries, decoder layers, heads: `dets` and `labels`."""
    grid, queries = shape.side // _PATCH, shape.queries
    graph.within("transformer")
    steps = (np.arange(grid, dtype=np.float32) + 0.5) / grid
    centres = np.stack(np.meshgrid(steps, steps), -1).reshape(1, -1, 2)
    proposals = graph.constant(np.concatenate([centres, np.full_like(centres, 0.05)], -1))
    encoded = graph.norm(graph.linear(memory, _HIDDEN, _HIDDEN), _HIDDEN)
    best = graph.op("ReduceMax", graph.linear(encoded, _HIDDEN, _CLASSES), axes=[2], keepdims=0)
    chosen = f"{best}_chosen"
    graph.nodes.append(
        helper.make_node("TopK", [best, graph.constant([queries])], [f"{best}_values", chosen], name=f"{best}_TopK")
    )
    refined = _boxes(graph, encoded, proposals, "transformer/enc_out_")
    graph.within("transformer/decoder")
    flat = graph.op("Reshape", chosen, graph.constant([queries]))
    reference = graph.op("Gather", refined, flat, axis=1)
    angles = graph.constant((np.pi * 2 / 10_000.0 ** (np.arange(64) / 64)).astype(np.float32))
    phase = graph.reshape(
        graph.op("Mul", graph.op("Unsqueeze", reference, graph.constant([3])), angles), 1, queries, 256
    )
    sines = graph.op("Concat", graph.op("Sin", phase), graph.op("Cos", phase), axis=2)
    position = graph.linear(graph.op("Relu", graph.linear(sines, 512, _HIDDEN)), _HIDDEN, _HIDDEN)
    state = graph.weight(1, queries, _HIDDEN, fan_in=_HIDDEN)
    for layer in range(shape.layers):
        graph.within(f"transformer/decoder/layers.{layer}")
        placed = graph.op("Add", state, position)
        mixed = graph.attention(placed, placed, state, shape=(1, queries, _HIDDEN), heads=_SELF_HEADS)
        state = graph.norm(graph.op("Add", state, mixed), _HIDDEN)
        sampled = _deformable(graph, graph.op("Add", state, position), memory, reference, shape)
        state = graph.norm(graph.op("Add", state, sampled), _HIDDEN)
        inner = graph.op("Relu", graph.linear(state, _HIDDEN, _FEED_FORWARD))
        state = graph.norm(graph.op("Add", state, graph.linear(inner, _FEED_FORWARD, _HIDDEN)), _HIDDEN)
    graph.within("heads")
    state = graph.norm(state, _HIDDEN)
    _boxes(graph, state, reference, "", out="dets")
    graph.within("class_embed")
    logits = graph.linear(state, _HIDDEN, _CLASSES)
    graph.op("Sub", logits, graph.constant(4.6), out="labels")  # the focal prior: nothing is sure


def _deformable(graph: _Graph, query: str, memory: str, reference: str, shape: Shape) -> str:
    """Each of 16 heads samples the memory at 2 points beside the reference box's centre."""
    grid, queries = shape.side // _PATCH, shape.queries
    heads, points, each = _CROSS_HEADS, _POINTS, _HIDDEN // _CROSS_HEADS
    value = graph.op("Transpose", graph.linear(memory, _HIDDEN, _HIDDEN), perm=(0, 2, 1))
    value = graph.reshape(value, heads, each, grid, grid)
    offsets = graph.linear(query, _HIDDEN, heads * points * 2, scale=0.3)
    offsets = graph.reshape(offsets, queries, heads, points, 2)
    bounds = graph.constant([0]), graph.constant([2]), graph.constant([2])
    centre = graph.reshape(graph.op("Slice", reference, *bounds), queries, 1, 1, 2)
    bounds = graph.constant([2]), graph.constant([4]), graph.constant([2])
    size = graph.reshape(graph.op("Slice", reference, *bounds), queries, 1, 1, 2)
    moved = graph.op("Mul", graph.op("Mul", offsets, size), graph.constant(0.5 / points))
    places = graph.op("Transpose", graph.op("Add", centre, moved), perm=(1, 0, 2, 3))
    places = graph.op("Sub", graph.op("Mul", places, graph.constant(2.0)), graph.constant(1.0))
    sampled = graph.op("GridSample", value, places, mode="bilinear", padding_mode="zeros", align_corners=0)
    weights = graph.reshape(graph.linear(query, _HIDDEN, heads * points), queries, heads, 1, points)
    weights = graph.op("Transpose", graph.op("Softmax", weights, axis=-1), perm=(1, 2, 0, 3))
    summed = graph.op("ReduceSum", graph.op("Mul", sampled, weights), graph.constant([3]), keepdims=0)
    joined = graph.op("Transpose", graph.reshape(summed, 1, _HIDDEN, queries), perm=(0, 2, 1))
    return graph.linear(joined, _HIDDEN, _HIDDEN)
