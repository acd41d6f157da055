from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import simplejpeg

from detr_sentry import cli
from detr_sentry.errors import ModelError
from detr_sentry.models.evaluate import evaluate
from detr_sentry.settings import ModelSettings, Settings

Builder = Callable[..., onnx.ModelProto]
CATEGORIES = [{"id": 1, "name": "person"}, {"id": 7, "name": "dog"}]


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Two gray photos with a person and a dog each, at places that the fixed model below knows."""
    folder = tmp_path / "data"
    (folder / "images").mkdir(parents=True)
    images: list[dict[str, Any]] = []
    marks: list[dict[str, Any]] = []
    for number, (width, height) in enumerate(((200, 100), (64, 128)), start=1):
        name = f"{number}.jpg"
        (folder / "images" / name).write_bytes(
            simplejpeg.encode_jpeg(np.full((height, width, 3), 90, np.uint8), colorspace="RGB")
        )
        images.append({"id": number, "file_name": name, "width": width, "height": height, "split": f"s{number}"})
        for category, left in ((1, 0.1), (7, 0.6)):
            box = [left * width, 0.2 * height, 0.25 * width, 0.5 * height]
            marks.append(
                {
                    "id": len(marks) + 1,
                    "image_id": number,
                    "category_id": category,
                    "bbox": box,
                    "area": box[2] * box[3],
                    "iscrowd": 0,
                }
            )
    (folder / "annotations.json").write_text(
        json.dumps({"info": {}, "images": images, "annotations": marks, "categories": CATEGORIES})
    )
    return folder


@pytest.fixture
def settings(heads: Builder, tmp_path: Path) -> Settings:
    """A model that always sees a person on the left and a cat where the dog is, whatever the picture."""
    logits = np.full((2, 91), -9.0)
    logits[0, 1], logits[1, 17] = 3.0, 3.0
    path = tmp_path / "fixed.onnx"
    path.write_bytes(heads(np.array([[0.225, 0.45, 0.25, 0.5], [0.725, 0.45, 0.25, 0.5]]), logits).SerializeToString())
    return Settings(model=ModelSettings(name=str(path), threads=1), state_dir=tmp_path / "state")


def run_on(settings: Settings, folder: Path, **options: Any) -> dict[str, Any]:
    return evaluate(settings, folder / "annotations.json", folder / "images", **options)


def test_people_found_exactly_and_dogs_missed_are_half_of_all(settings: Settings, dataset: Path) -> None:
    result = run_on(settings, dataset)

    assert (result["person_ap"], result["person_ap50"]) == (1.0, 1.0)
    assert (result["ap"], result["ap50"]) == (0.5, 0.5)
    assert (result["model"], result["backend"], result["provider"]) == ("fixed", "onnxruntime", "CPU")
    assert (result["resize"], result["images"], result["categories"]) == ("stretch", 2, 2)


def test_stretch_and_area_keep_shares_and_letterbox_does_not(settings: Settings, dataset: Path) -> None:
    assert run_on(settings, dataset, resize="area")["person_ap"] == 1.0
    assert run_on(settings, dataset, resize="letterbox")["person_ap"] < 1.0


def test_split_and_limit_choose_images(settings: Settings, dataset: Path) -> None:
    assert run_on(settings, dataset, split="s2")["images"] == 1
    assert run_on(settings, dataset, limit=1)["images"] == 1
    with pytest.raises(ModelError, match="no images of split 'night'"):
        run_on(settings, dataset, split="night")


def test_a_data_set_without_people_has_no_person_ap(settings: Settings, dataset: Path) -> None:
    truth = json.loads((dataset / "annotations.json").read_text())
    truth["categories"] = CATEGORIES[1:]
    truth["annotations"] = [mark for mark in truth["annotations"] if mark["category_id"] == 7]
    (dataset / "annotations.json").write_text(json.dumps(truth))

    result = run_on(settings, dataset)

    assert (result["ap"], result["person_ap"]) == (0.0, None)


def test_a_baked_model_keeps_its_own_classes(settings: Settings, dataset: Path, tmp_path: Path) -> None:
    from detr_sentry.models.bake import bake

    bake(Path(settings.model.name), tmp_path / "baked.onnx", classes=["person"])
    baked = Settings(model=ModelSettings(name=str(tmp_path / "baked.onnx"), threads=1), state_dir=tmp_path)

    result = run_on(baked, dataset)

    assert (result["ap"], result["person_ap"], result["categories"]) == (1.0, 1.0, 1)


@pytest.mark.parametrize("text", ["[]", "{", '{"images": []}'])
def test_annotations_that_are_none_are_named(text: str, settings: Settings, dataset: Path) -> None:
    (dataset / "annotations.json").write_text(text)

    with pytest.raises(ModelError, match="annotations.json: not COCO annotations"):
        run_on(settings, dataset)


def test_a_broken_photo_is_named(settings: Settings, dataset: Path) -> None:
    data = (dataset / "images" / "2.jpg").read_bytes()
    (dataset / "images" / "2.jpg").write_bytes(data[: len(data) // 2])

    with pytest.raises(ModelError, match=r"2\.jpg: "):
        run_on(settings, dataset)


def test_foreign_categories_are_refused_for_an_export(settings: Settings, dataset: Path) -> None:
    truth = json.loads((dataset / "annotations.json").read_text())
    truth["categories"] = [{"id": 1, "name": "unicorn"}]
    (dataset / "annotations.json").write_text(json.dumps(truth))

    with pytest.raises(ModelError, match="not COCO's: unicorn"):
        run_on(settings, dataset)


def test_the_command_prints_the_contract_keys(
    settings: Settings, dataset: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DETR_SENTRY_STATE_DIR", str(settings.state_dir))
    words = ["eval", str(dataset), "--model", settings.model.name, "--json"]
    monkeypatch.setattr("sys.argv", ["detr-sentry", *words])

    assert cli.main(words) == 0
    keys = {"model", "backend", "resize", "images", "ap", "ap50", "person_ap", "person_ap50"}
    assert keys <= set(json.loads(capsys.readouterr().out))

    assert cli.main(words[:-1]) == 0
    assert "person_ap      1.0000" in capsys.readouterr().out
    assert cli.main(["eval"]) == 1
    assert "name a folder" in capsys.readouterr().err


@pytest.mark.slow
def test_femto_finds_people_in_real_photos(shared_dir: Path, tmp_path: Path) -> None:
    model = shared_dir / "models" / "deimv2_hgnetv2_femto_coco.onnx"
    settings = Settings(model=ModelSettings(name=str(model), threads=1), state_dir=tmp_path)

    result = run_on(settings, shared_dir / "persondata" / "train_val", split="val", limit=24)

    assert result["person_ap"] > 0.3
