from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import onnx
import pytest

from detr_sentry.capture.demo import DemoScene
from detr_sentry.inference.backends import open_backend
from detr_sentry.models.contract import ModelContract, read_contract
from detr_sentry.models.resolve import embedded_model

Array = npt.NDArray[Any]
MAX_BYTES, MAX_PARAMETERS = 8_000_000, 3_000_000
UNSEEN_SEEDS = (1, 1000, 1001)


class Watcher:
    """The embedded detector on ONNX Runtime; answers with rows x1 y1 x2 y2 (0..1), score, class."""

    def __init__(self, path: Path) -> None:
        self.contract: ModelContract = read_contract(path)
        self._backend = open_backend("onnxruntime", path.read_bytes(), self.contract, threads=1)

    def __call__(self, image: Array) -> Array:
        size = (self.contract.width, self.contract.height)
        small: npt.NDArray[np.uint8] = cv2.resize(image, size, interpolation=cv2.INTER_LINEAR).astype(np.uint8)
        return self._backend.run(small[None])

    def best(self, image: Array) -> float:
        return float(self(image)[:, 4].max())


@pytest.fixture(scope="module")
def watcher() -> Watcher:
    return Watcher(embedded_model())


@pytest.fixture(scope="module")
def metrics(repository: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((repository / "models" / "embedded" / "metrics.json").read_text())
    return loaded


def _best_overlap(rows: Array, box: tuple[float, ...]) -> float:
    x1, y1, x2, y2 = box
    width = np.minimum(rows[:, 2], x2) - np.maximum(rows[:, 0], x1)
    height = np.minimum(rows[:, 3], y2) - np.maximum(rows[:, 1], y1)
    common = width.clip(0) * height.clip(0)
    areas = (rows[:, 2] - rows[:, 0]) * (rows[:, 3] - rows[:, 1]) + (x2 - x1) * (y2 - y1)
    return float((common / (areas - common)).max(initial=0.0))


def test_embedded_model_states_its_contract(watcher: Watcher) -> None:
    contract = watcher.contract

    assert "embedded-person" == contract.name
    assert {1: "person"} == contract.labels
    assert (320, 320) == (contract.width, contract.height)
    assert "stretch" == contract.resize


def test_embedded_model_is_small(repository: Path) -> None:
    path = repository / "models" / "embedded" / "person_detr.onnx"
    parameters = sum(int(np.prod(tensor.dims)) for tensor in onnx.load(path).graph.initializer)

    assert path.stat().st_size <= MAX_BYTES
    assert parameters <= MAX_PARAMETERS


def test_metrics_are_of_the_shipped_file(watcher: Watcher, metrics: dict[str, Any]) -> None:
    assert watcher.contract.sha256 == metrics["model_sha256"]
    assert watcher.contract.threshold == metrics["threshold"]


def test_card_shows_the_measured_numbers(repository: Path, metrics: dict[str, Any]) -> None:
    card = (repository / "models" / "embedded" / "MODEL_CARD.md").read_text()
    row = "| {name} | {ap:.3f} | {ap50:.3f} | {photos} | {people} |"

    assert row.format(name="val split", **metrics["val"]) in card
    assert row.format(name="night street (never trained on)", **metrics["night"]) in card


def test_same_picture_gives_the_same_answer(watcher: Watcher) -> None:
    image = DemoScene(seed=1, period_s=40.0).frame(20.0)

    np.testing.assert_array_equal(watcher(image), watcher(image))


@pytest.mark.timeout(100)
@pytest.mark.parametrize("seed", UNSEEN_SEEDS)
def test_demo_visitor_is_seen_and_the_empty_yard_is_not(watcher: Watcher, seed: int) -> None:
    scene = DemoScene(seed=seed, period_s=40.0)
    threshold = watcher.contract.threshold
    seen = []
    for at in np.arange(11.0, 29.0, 1.5):
        rows = watcher(scene.frame(float(at)))
        x1, y1, x2, y2 = scene.truth(float(at))[0]
        seen.append(_best_overlap(rows[rows[:, 4] >= threshold], (x1 / 1280, y1 / 720, x2 / 1280, y2 / 720)) >= 0.5)
    alarms = [at for at in (0.5, 3.0, 6.0, 9.0, 31.0, 34.0, 37.0, 39.5) if watcher.best(scene.frame(at)) >= threshold]

    assert np.mean(seen) >= 0.8
    assert [] == alarms


@pytest.mark.timeout(100)
def test_empty_room_raises_no_alarm_and_every_visitor_is_seen(watcher: Watcher, shared_dir: Path) -> None:
    path = shared_dir / "media" / "one-by-one-person-detection.mp4"
    truth = json.loads(path.with_suffix(".json").read_text())
    video = cv2.VideoCapture(str(path))
    scores: dict[float, float] = {}
    for number in range(truth["frames"]):
        assert video.grab()
        if number % 5 == 0:
            _, frame = video.retrieve()
            scores[number / truth["fps"]] = watcher.best(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB))
    visible = [(part["start"], part["end"]) for part in truth["visible"]]
    alarms = {at for at, score in scores.items() if score >= watcher.contract.threshold}
    false = {at for at in alarms if all(at < start - 0.5 or at > end + 0.5 for start, end in visible)}
    missed = [(start, end) for start, end in visible if not any(start <= at <= end for at in alarms)]

    assert set() == false
    assert [] == missed
