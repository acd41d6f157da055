"""The contract of a baked model, which it carries in its `metadata_props`, and its check.

A baked model takes `image` uint8 [1,H,W,3] RGB and gives `detections` float32 [1,Q,6]: x1 y1 x2 y2 as shares of the
picture (a box at the border may stick out a little), score 0..1, class id (see `classes`: a person is always 1).
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from onnx import TensorProto

from detr_sentry.errors import ModelRefusedError
from detr_sentry.models.classes import COCO, CONTIGUOUS, MAX_QUERIES
from detr_sentry.models.graph import describe_io, dims_of, metadata_of, parse_model, read_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import onnx

    from detr_sentry.models.classes import ModelClass

CONTRACT_KEY = "detr_sentry.contract"
CONTRACT_VERSION = "1"
EXPECTED = "`image` uint8 [1,H,W,3] -> `detections` float [1,Q,6]"
MAX_SIDE = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelContract:
    """What a baked model takes and gives.

    `labels` are the classes that it can report, by class id; `width` and `height` its input in pixels; `queries` the
    rows of its output; `threshold` the score from which its author believes a detection; `sha256` is of the baked file,
    `source_sha256` of the file that it was baked from. `layout` says how the model itself numbers classes, and
    `numbers` those numbers by class id; both are empty where the file does not say.
    """

    name: str
    labels: Mapping[int, str]
    width: int
    height: int
    queries: int
    threshold: float
    resize: str
    adapter: str
    source_sha256: str
    sha256: str
    layout: str = ""
    numbers: Mapping[int, int] = field(default_factory=dict)

    @property
    def hash8(self) -> bytes:
        """The first 8 bytes of `sha256`, which travel in every detections message."""
        return bytes.fromhex(self.sha256)[:8]

    def class_ids(self, names: tuple[str, ...]) -> frozenset[int]:
        """The class ids of `names`. Raises ModelRefusedError if the model cannot report one of them."""
        by_name = {name: number for number, name in self.labels.items()}
        missing = [name for name in names if name not in by_name]
        if missing:
            raise ModelRefusedError(
                f"model {self.name} cannot find {', '.join(missing)}; it finds {', '.join(sorted(by_name))}"
            )
        return frozenset(by_name[name] for name in names)


def metadata(
    *, name: str, layout: str, classes: Sequence[ModelClass], threshold: float, adapter: str, source_sha256: str
) -> dict[str, str]:
    """The `metadata_props` of a baked model; `classes` are the ones that it reports."""
    ordered = sorted(classes, key=lambda entry: entry.id)
    return {
        CONTRACT_KEY: CONTRACT_VERSION,
        "detr_sentry.name": name,
        "detr_sentry.labels": json.dumps({str(entry.id): entry.name for entry in ordered}),
        "detr_sentry.layout": layout,
        "detr_sentry.numbers": json.dumps({str(entry.id): entry.number for entry in ordered}),
        "detr_sentry.threshold": f"{threshold:g}",
        "detr_sentry.resize": "stretch",
        "detr_sentry.adapter": adapter,
        "detr_sentry.source_sha256": source_sha256,
    }


def is_baked(model: onnx.ModelProto) -> bool:
    """Whether the model says that it keeps our contract, of whatever version."""
    return CONTRACT_KEY in metadata_of(model)


def read_contract(path: Path) -> ModelContract:
    """The contract of the baked model at `path`. Raises ModelRefusedError with the reason."""
    return load_baked(path)[0]


def load_baked(path: Path) -> tuple[ModelContract, bytes]:
    """The contract of a baked model and the very bytes that were checked, to create a session from."""
    data = read_bytes(path)
    return contract_of(parse_model(data, str(path)), data, str(path)), data


def contract_of(model: onnx.ModelProto, data: bytes, what: str) -> ModelContract:
    """The contract of a parsed model whose file content is `data`. Raises ModelRefusedError."""
    props = metadata_of(model)
    version = props.get(CONTRACT_KEY)
    if version is None:
        raise ModelRefusedError(
            f"{what}: not a baked model (no {CONTRACT_KEY} in its metadata); run `detr-sentry models bake` on it"
        )
    if version != CONTRACT_VERSION:
        raise ModelRefusedError(f"{what}: contract version {version!r}; this engine knows {CONTRACT_VERSION!r}")
    height, width, queries = _shapes(model.graph, what)
    resize = _text(props, "resize", what)
    if resize != "stretch":
        raise ModelRefusedError(f"{what}: resize rule {resize!r}; this engine knows 'stretch'")
    labels = _labels(_text(props, "labels", what), what)
    return ModelContract(
        name=_text(props, "name", what),
        labels=labels,
        width=width,
        height=height,
        queries=queries,
        threshold=_threshold(_text(props, "threshold", what), what),
        resize=resize,
        adapter=_text(props, "adapter", what),
        source_sha256=_text(props, "source_sha256", what),
        sha256=hashlib.sha256(data).hexdigest(),
        layout=_layout(props.get("detr_sentry.layout", ""), what),
        numbers=_numbers(props.get("detr_sentry.numbers", "{}"), labels, what),
    )


def _shapes(graph: onnx.GraphProto, what: str) -> tuple[int, int, int]:
    """Height, width and queries of the one input and one output that the contract allows."""
    known = {tensor.name for tensor in graph.initializer}
    match [value for value in graph.input if value.name not in known], list(graph.output):
        case [image], [detections]:
            taken = image.name, image.type.tensor_type.elem_type, dims_of(image)
            given = detections.name, detections.type.tensor_type.elem_type, dims_of(detections)
        case _:
            raise ModelRefusedError(f"{what}: expected {EXPECTED}, found {describe_io(graph)}")
    match taken, given:
        case (
            ("image", TensorProto.UINT8, (1, int(height), int(width), 3)),
            ("detections", TensorProto.FLOAT, (1, int(queries), 6)),
        ) if max(height, width) <= MAX_SIDE and queries <= MAX_QUERIES:
            return height, width, queries
    raise ModelRefusedError(f"{what}: expected {EXPECTED}, found {describe_io(graph)}")


def _text(props: Mapping[str, str], key: str, what: str) -> str:
    value = props.get(f"detr_sentry.{key}", "")
    if not value:
        raise ModelRefusedError(f"{what}: its metadata lacks detr_sentry.{key}")
    return value


def _labels(text: str, what: str) -> dict[int, str]:
    try:
        labels = {int(number): name for number, name in json.loads(text).items()}
    except (ValueError, AttributeError) as error:
        raise ModelRefusedError(f"{what}: detr_sentry.labels is not a JSON object of class id to name") from error
    if not labels or not all(0 <= number < 1 << 16 and isinstance(name, str) for number, name in labels.items()):
        raise ModelRefusedError(f"{what}: detr_sentry.labels needs class ids of 0 to 65535 with a name each")
    return labels


def _layout(text: str, what: str) -> str:
    if text not in {"", COCO, CONTIGUOUS}:
        raise ModelRefusedError(f"{what}: detr_sentry.layout {text!r}; this engine knows {COCO!r} and {CONTIGUOUS!r}")
    return text


def _numbers(text: str, labels: Mapping[int, str], what: str) -> dict[int, int]:
    try:
        numbers = {int(class_id): number for class_id, number in json.loads(text).items()}
    except (ValueError, AttributeError) as error:
        raise ModelRefusedError(f"{what}: detr_sentry.numbers is not a JSON object of class id to number") from error
    if numbers and (set(numbers) != set(labels) or not all(type(number) is int for number in numbers.values())):
        raise ModelRefusedError(f"{what}: detr_sentry.numbers does not fit detr_sentry.labels")
    return numbers


def _threshold(text: str, what: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0.0 <= value <= 1.0:
        raise ModelRefusedError(f"{what}: detr_sentry.threshold {text!r} is not a score of 0 to 1")
    return value
