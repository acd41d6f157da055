from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest

from detr_sentry.errors import ModelError
from detr_sentry.evaluation.accuracy import evaluate, read_data_set
from detr_sentry.settings import ModelSettings, Settings

Builder = Callable[..., onnx.ModelProto]
CATEGORIES = [{"id": 1, "name": "person"}, {"id": 7, "name": "dog"}]


def run_on(settings: Settings, folder: Path, *, resize: str = "stretch", **options: Any) -> dict[str, Any]:
    data = read_data_set(folder / "annotations.json", folder / "images", **options)
    return evaluate(settings, data, resize=resize)


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


def test_without_pycocotools_nothing_starts_and_the_extra_is_named(
    settings: Settings, dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("detr_sentry.evaluation.accuracy.find_spec", lambda _: None)

    with pytest.raises(ModelError, match=r"pip install 'detr-sentry\[eval\]'"):
        run_on(settings, dataset)


def test_progress_hears_of_every_photo(settings: Settings, dataset: Path) -> None:
    heard: list[int] = []
    evaluate(settings, read_data_set(dataset / "annotations.json", dataset / "images"), progress=heard.append)

    assert [1, 2] == heard


@pytest.mark.slow
def test_femto_finds_people_in_real_photos(shared_dir: Path, tmp_path: Path) -> None:
    model = shared_dir / "models" / "deimv2_hgnetv2_femto_coco.onnx"
    settings = Settings(model=ModelSettings(name=str(model), threads=1), state_dir=tmp_path)

    result = run_on(settings, shared_dir / "persondata" / "train_val", split="val", limit=24)

    assert result["person_ap"] > 0.3
