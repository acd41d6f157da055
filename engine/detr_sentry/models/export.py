"""From an RF-DETR checkpoint (`.pth`) to an ONNX file, by the `rfdetr` package where it is installed (extra `export`).

A checkpoint is a pickle: opening one can run its author's code.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detr_sentry.errors import ModelError
from detr_sentry.models.coco import COCO_LABELS
from detr_sentry.models.graph import read_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping

OPSET = 17
VARIANTS = {
    "nano": "RFDETRNano",
    "small": "RFDETRSmall",
    "medium": "RFDETRMedium",
    "large": "RFDETRLarge",
    "base": "RFDETRBase",
}
"""The variants under Apache-2.0, and their classes in the package."""
NEEDS = (
    "exporting needs the package rfdetr, which needs PyTorch: `pip install 'detr-sentry[export]'`; on another machine, "
    "`RFDETRMedium(pretrain_weights=FILE).export()` writes an ONNX file that `detr-sentry models import` takes"
)


def export_checkpoint(
    checkpoint: Path | None, folder: Path, *, class_name: str | None
) -> tuple[bytes, Mapping[int, str] | None]:
    """Exports a checkpoint (None: the published one, which `rfdetr` fetches) and returns the ONNX file's bytes.

    Also returns the class names by number, or None where they are COCO's. `class_name` is the package's class, None
    asks the checkpoint. `folder` is where the package writes. Raises ModelError.
    """
    package = _package()
    if checkpoint is not None and not checkpoint.is_file():
        raise ModelError(f"{checkpoint}: there is no such file")
    try:
        model = _load(package, checkpoint, class_name)
        returned = model.export(output_dir=str(folder), opset_version=OPSET)
    except ModelError:
        raise
    except Exception as error:
        # The package raises whatever PyTorch, pickle or the network does; a person wants the line, not the trace.
        raise ModelError(f"rfdetr could not export {checkpoint or class_name}: {error}") from error
    return read_bytes(_written(folder, returned)), _labels(getattr(model, "class_names", None))


def _package() -> Any:
    try:
        return importlib.import_module("rfdetr")
    except ImportError as error:
        raise ModelError(f"{NEEDS} ({error})") from error


def _load(package: Any, checkpoint: Path | None, class_name: str | None) -> Any:
    if class_name is None:
        if checkpoint is None or not hasattr(package, "from_checkpoint"):
            raise ModelError(f"this rfdetr cannot tell the variant: name it with --variant ({', '.join(VARIANTS)})")
        return package.from_checkpoint(str(checkpoint))
    if not hasattr(package, class_name):
        raise ModelError(f"this rfdetr has no {class_name}; install a newer one")
    made = getattr(package, class_name)
    return made() if checkpoint is None else made(pretrain_weights=str(checkpoint))


def _written(folder: Path, returned: object) -> Path:
    """The file that was exported: newer packages return its path, older ones write `inference_model.onnx`."""
    if isinstance(returned, str | Path) and Path(returned).is_file():
        return Path(returned)
    files = sorted(folder.rglob("*.onnx"))
    if len(files) != 1:
        raise ModelError(f"rfdetr wrote {', '.join(path.name for path in files) or 'no ONNX file'} instead of one file")
    return files[0]


def _labels(names: object) -> dict[int, str] | None:
    """The names by class number; None for COCO's. Older packages, which do not renumber classes, give numbers too."""
    if isinstance(names, dict):
        numbered = {int(number): str(name) for number, name in names.items()}
    elif isinstance(names, list | tuple):
        numbered = {number: str(name) for number, name in enumerate(names)}
    else:
        return None
    return None if not numbered or list(numbered.values()) == list(COCO_LABELS.values()) else numbered
