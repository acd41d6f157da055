from __future__ import annotations

import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy.typing as npt
import onnx
import pytest

from detr_sentry.models.coco import COCO_LABELS
from detr_sentry.models.resolve import resolve_model
from detr_sentry.settings import ModelSettings

Array = npt.NDArray[Any]
Builder = Callable[..., onnx.ModelProto]
Runner = Callable[..., list[Array]]
Command = Callable[..., tuple[int, str, str]]


FAKE = '''
"""Stands in for the package rfdetr, which is not installed here: recorded from its source, {version} version."""
from pathlib import Path
DATA = bytes.fromhex({data!r})

class RFDETRMedium:
    class_names = {class_names!r}
    def __init__(self, pretrain_weights=None, **_):
        if pretrain_weights and "broken" in pretrain_weights:
            raise RuntimeError("invalid magic number")
        self.weights = pretrain_weights
    def export(self, output_dir="output", infer_dir=None, simplify=False, backbone_only=False, opset_version=17, **_):
        assert opset_version == 17
        Path(output_dir).mkdir(exist_ok=True)
        file = Path(output_dir) / {file!r}
        file.write_bytes(DATA)
        {extra}
        return {returned}
'''
NEWER = """
def from_checkpoint(path, **_):
    return RFDETRMedium(pretrain_weights=path)
"""


@pytest.fixture
def fake_rfdetr(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Puts a recorded stand-in for `rfdetr` on the path; the ONNX file that it writes is real."""

    def install(
        model: onnx.ModelProto, *, class_names: object, newer: bool = True, file: str = "", extra: str = "pass"
    ) -> None:
        text = FAKE.format(
            version="a newer" if newer else "an older",
            data=model.SerializeToString().hex(),
            class_names=class_names,
            file=file or ("rfdetr-medium.onnx" if newer else "inference_model.onnx"),
            extra=extra,
            returned="file" if newer else "None",
        )
        folder = tmp_path / "site"
        folder.mkdir(exist_ok=True)
        (folder / "rfdetr.py").write_text(textwrap.dedent(text) + (NEWER if newer else ""))
        monkeypatch.syspath_prepend(str(folder))
        monkeypatch.delitem(sys.modules, "rfdetr", raising=False)

    monkeypatch.setattr("sys.dont_write_bytecode", True)
    return install


@pytest.mark.parametrize("newer", [True, False], ids=["a newer rfdetr", "an older rfdetr"])
def test_a_catalogue_model_is_exported_and_kept(
    newer: bool, command: Command, fake_rfdetr: Callable[..., None], rfdetr: Builder, tmp_path: Path
) -> None:
    names = list(COCO_LABELS.values()) if newer else COCO_LABELS
    fake_rfdetr(rfdetr(), class_names=names, newer=newer)

    status, out, err = command("export", "rfdetr-medium")

    assert (status, out.split(" (")[0]) == (0, "rfdetr-medium is ready")
    assert "RF-DETR Medium, COCO: licence Apache-2.0" in err
    contract = resolve_model(ModelSettings(name="rfdetr-medium"), tmp_path / "state").contract
    assert (contract.layout, contract.numbers) == ("coco", {1: 1})


@pytest.mark.parametrize(
    ("newer", "class_names", "number"),
    [(True, ["cat", "person"], 1), (False, {1: "cat", 2: "person"}, 2)],
    ids=["a list", "ids from 1, as older packages have"],
)
def test_an_own_checkpoint_brings_its_class_names(
    newer: bool,
    class_names: object,
    number: int,
    command: Command,
    fake_rfdetr: Callable[..., None],
    rfdetr: Builder,
    tmp_path: Path,
) -> None:
    fake_rfdetr(rfdetr(slots=3), class_names=class_names, newer=newer)
    (tmp_path / "checkpoint_best_total.pth").write_bytes(b"weights")
    words = ["export", "checkpoint_best_total.pth", "--name", "yard"] + ([] if newer else ["--variant", "medium"])

    status, _, err = command(*words)

    assert (status, err) == (0, "")
    contract = resolve_model(ModelSettings(name="yard"), tmp_path / "state").contract
    assert (contract.layout, contract.numbers, dict(contract.labels)) == ("contiguous", {1: number}, {1: "person"})


@pytest.mark.parametrize(
    ("words", "options", "reason"),
    [
        (("rfdetr-nano",), {}, "published as a whole model: `detr-sentry models pull rfdetr-nano`"),
        (("rfdetr-large",), {}, "this rfdetr has no RFDETRLarge; install a newer one"),
        (("gone.pth",), {}, "gone.pth: there is no such file"),
        (("broken.pth",), {}, "rfdetr could not export broken.pth: invalid magic number"),
        (("fine.pth",), {"newer": False}, "name it with --variant (nano, small, medium, large, base)"),
        (("fine.pth", "--variant", "medium"), {"newer": False, "extra": "file.unlink()"}, "no ONNX file"),
        (
            ("fine.pth", "--variant", "medium"),
            {"newer": False, "extra": "(file.parent / 'more.onnx').write_bytes(b'')"},
            "rfdetr wrote inference_model.onnx, more.onnx instead of one file",
        ),
        (("fine.pth",), {"class_names": None}, "its classes are not COCO's; name them"),
    ],
)
def test_an_export_that_fails_says_why(
    words: tuple[str, ...],
    options: dict[str, Any],
    reason: str,
    command: Command,
    fake_rfdetr: Callable[..., None],
    rfdetr: Builder,
    tmp_path: Path,
) -> None:
    fake_rfdetr(rfdetr(slots=3), **{"class_names": ["a", "b"], **options})
    for name in ("broken.pth", "fine.pth"):
        (tmp_path / name).write_bytes(b"weights")

    status, _, err = command("export", *words)

    assert status == 1
    assert reason in err


def test_without_the_package_the_extra_is_named(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rfdetr", None)

    status, _, err = command("export", "rfdetr-medium")

    assert status == 1
    assert "pip install 'detr-sentry[export]'" in err
    assert "models import" in err
