"""What an RF-DETR export says about itself: newer ones name their classes and normalisation."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from detr_sentry.errors import ModelRefusedError
from detr_sentry.models.coco import COCO_LABELS
from detr_sentry.models.graph import metadata_of

if TYPE_CHECKING:
    import onnx

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
KEY = "rfdetr_inference"
_CLOSE = 1e-4


def exported_labels(model: onnx.ModelProto, what: str) -> dict[int, str] | None:
    """The class names by slot, or None where the export says nothing or has COCO's own layout.

    Raises ModelRefusedError if the metadata cannot be read, or if the model wants other pixels than baking gives it.
    """
    text = metadata_of(model).get(KEY)
    if text is None:
        return None
    try:
        content = json.loads(text)
        labels = {int(slot): name for slot, name in content.get("class_id_to_name", {}).items()}
        statistics = [
            float(value) for value in (*content.get("means", IMAGENET_MEAN), *content.get("stds", IMAGENET_STD))
        ]
    except (ValueError, TypeError, AttributeError) as error:
        raise ModelRefusedError(f"{what}: its metadata {KEY} is not what rfdetr writes") from error
    if not all(isinstance(name, str) for name in labels.values()):
        raise ModelRefusedError(f"{what}: its metadata {KEY} is not what rfdetr writes")
    wanted = (*IMAGENET_MEAN, *IMAGENET_STD)
    near = [abs(a - b) <= _CLOSE for a, b in zip(statistics, wanted, strict=False)]
    if len(statistics) != len(wanted) or not all(near):
        raise ModelRefusedError(f"{what}: was trained with other means and deviations than ImageNet's: {statistics}")
    return None if labels == COCO_LABELS else labels or None
