"""Turns a detector's export into a sentry model: uint8 pixels in, boxes with score and class out (see `contract`).

Normalisation goes into the graph (RF-DETR's into its first convolution); the sigmoid, the choice of the best enabled
class and the conversion of boxes follow the graph; labels, resize rule and the hash of the source go into the metadata.
Needs onnx only.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from detr_sentry.errors import ModelRefusedError, StorageError
from detr_sentry.models import contract
from detr_sentry.models.adapters import find_adapter
from detr_sentry.models.classes import own_classes
from detr_sentry.models.exported import exported_labels
from detr_sentry.models.graph import check_model, describe_io, parse_model, read_bytes
from detr_sentry.models.surgery import PREFIX, Surgery

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import onnx

REVISION = 2
"""Raised when the same export bakes to something else, so that what an older engine cached is not used."""
MIN_OPSET = 11
"""From here on ArgMax, Gather and Unsqueeze take the negative and fixed axes that baking writes."""


def bake(
    src: Path | bytes,
    dst: Path,
    *,
    classes: Sequence[str] | None = None,
    labels: Mapping[int, str] | None = None,
    name: str | None = None,
    threshold: float | None = None,
) -> contract.ModelContract:
    """Bakes the export `src` (a file or its bytes) into `dst`, which appears whole or not at all.

    `classes` are the names of the enabled classes (None: all); a query reports the best of these. `labels` are all of
    the model's classes by their number in the model, needed where the export is no COCO model and does not name them
    itself. Raises ModelRefusedError if `src` is not an export that an adapter knows, StorageError if `dst` cannot be
    written.
    """
    data = src if isinstance(src, bytes) else read_bytes(src)
    what = name or "model" if isinstance(src, bytes) else str(src)
    model = parse_model(data, what)
    if contract.is_baked(model):
        raise ModelRefusedError(f"{what}: is baked already; bake the export that it was made from")
    source_sha256 = hashlib.sha256(data).hexdigest()
    title = name or ("model" if isinstance(src, bytes) else src.stem)
    baked = bake_graph(
        model, what, source_sha256=source_sha256, classes=classes, labels=labels, name=title, threshold=threshold
    )
    result = contract.contract_of(parse_model(baked, what), baked, what)
    write_whole(dst, baked)
    return result


def bake_graph(
    model: onnx.ModelProto,
    what: str,
    *,
    source_sha256: str,
    name: str,
    classes: Sequence[str] | None = None,
    labels: Mapping[int, str] | None = None,
    threshold: float | None = None,
) -> bytes:
    """The bytes of the baked form of a checked `model`, which is changed. The same input gives the same bytes."""
    adapter = find_adapter(model.graph, what)
    named = labels or exported_labels(model, what)
    table = own_classes(named, what) if named else adapter.default_classes(model.graph)
    if table is None:
        raise ModelRefusedError(f"{what}: its classes are not COCO's; name them (`--labels name,name,...`)")
    enabled = table.enabled(classes, what)
    surgery = Surgery(model)
    if surgery.opset < MIN_OPSET:
        raise ModelRefusedError(f"{what}: opset {surgery.opset}; export it with opset {MIN_OPSET} or newer")
    if any(output.startswith(PREFIX) for node in model.graph.node for output in node.output):
        raise ModelRefusedError(f"{what}: its tensor names start with {PREFIX!r}, which baking adds")
    props = contract.metadata(
        name=name,
        layout=table.layout,
        classes=enabled,
        threshold=adapter.threshold if threshold is None else threshold,
        adapter=adapter.name,
        source_sha256=source_sha256,
    )
    try:
        queries = surgery.finish(adapter.rewrite(surgery, table, enabled), props)
    except ModelRefusedError as error:
        raise ModelRefusedError(f"{what}: {error}") from error
    if queries is None:
        raise ModelRefusedError(f"{what}: the number of its queries is not fixed: {describe_io(model.graph)}")
    check_model(model, what)
    return bytes(model.SerializeToString(deterministic=True))


def write_whole(path: Path, data: bytes) -> None:
    """Writes a file, mode 0600, so that readers see all of it or nothing. Raises StorageError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        raise StorageError(f"{path}: cannot be written: {error.strerror}") from error
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except OSError as error:
        Path(temporary).unlink(missing_ok=True)
        raise StorageError(f"{path}: cannot be written: {error.strerror}") from error
