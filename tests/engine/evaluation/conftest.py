"""A small data set with people and dogs, a model that knows where they are, and one that sees people in light."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import simplejpeg
from onnx import helper, numpy_helper

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


@pytest.fixture
def seeing_light(heads: Builder, tmp_path: Path) -> Settings:
    """A model that sees a person on the left in bright pictures (score > 0.99), and in dark ones hardly (< 0.01)."""
    model = heads(np.array([[0.225, 0.45, 0.25, 0.5]]), np.where(np.arange(91) == 1, 0.0, -99.0)[None])
    model.graph.initializer.append(numpy_helper.from_array(np.array(3.0, np.float32), "gain"))
    model.graph.node.insert(2, helper.make_node("Mul", ["mean", "gain"], ["light"]))
    model.graph.node[-1].input[1] = "light"
    path = tmp_path / "light.onnx"
    path.write_bytes(model.SerializeToString())
    return Settings(model=ModelSettings(name=str(path), threads=1), state_dir=tmp_path / "state")
