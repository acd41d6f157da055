from __future__ import annotations

import json
from collections.abc import Callable
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import simplejpeg

from detr_sentry import cli
from detr_sentry.settings import Settings

Command = Callable[..., tuple[int, str, str]]
CONTRACT = {"model", "backend", "resize", "images", "ap", "ap50", "person_ap", "person_ap50"}


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """`detr-sentry eval`: its status, what it printed and what it said."""
    monkeypatch.setenv("DETR_SENTRY_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)

    def call(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["detr-sentry", "eval", *words])
        status = cli.main(["eval", *words])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return call


@pytest.fixture
def yard(tmp_path: Path) -> Path:
    folder = tmp_path / "yard"
    folder.mkdir()
    for name, gray in (("day", 250), ("night", 5)):
        picture = np.full((48, 64, 3), gray, np.uint8)
        (folder / f"{name}.jpg").write_bytes(simplejpeg.encode_jpeg(picture, colorspace="RGB"))
    return folder


def test_one_run_has_the_keys_of_the_contract_and_says_how_it_was_made(
    command: Command, settings: Settings, dataset: Path
) -> None:
    status, out, err = command(str(dataset), "--model", settings.model.name, "--json")

    result = json.loads(out)
    assert 0 == status
    assert result.keys() >= CONTRACT
    assert result["runs"][0].items() <= result.items()
    assert ("data", 2, 4, 1.0) == (result["data"], result["images"], result["marks"], result["person_ap"])
    assert result["command"].startswith("detr-sentry eval ")
    assert result["machine"]["cores"] > 0
    assert "2 of 2 photos" in err


def test_models_backends_and_resizes_are_all_run(
    command: Command, settings: Settings, seeing_light: Settings, dataset: Path, tmp_path: Path
) -> None:
    models = f"{settings.model.name},{seeing_light.model.name}"
    words = [f"{dataset}#s1", str(dataset), "--model", models, "--backend", "onnxruntime"]

    status, out, _ = command(*words, "--resize", "stretch", "--resize", "area", "--output", "results/eval.json")

    result = json.loads((tmp_path / "results" / "eval.json").read_text())
    assert 0 == status
    assert not CONTRACT & result.keys()
    made = [(run["data"], run["model"], run["resize"]) for run in result["runs"]]
    assert list(product(["data s1", "data"], ["fixed", "light"], ["stretch", "area"])) == made
    header, first, *others = out.splitlines()
    assert "data model backend runs on resize photos AP AP50 person AP person AP50" == " ".join(header.split())
    assert "data s1 fixed onnxruntime CPU stretch 1 0.5000 0.5000 1.0000 1.0000" == " ".join(first.split())
    assert 7 == len(others)


def test_false_alarms_alone_need_no_photos_with_boxes(
    command: Command, seeing_light: Settings, yard: Path, tmp_path: Path
) -> None:
    model = seeing_light.model.name
    words = ["--model", model, "--empty", str(yard), "--empty", "demo:?period=8&width=320&height=180"]

    status, out, err = command(*words, "--keep", "kept", "--threshold", "0.9")

    assert 0 == status
    assert "light, onnxruntime (CPU), score >= 0.9 in 3 of 5" in out
    assert [str(yard), "2", "0.0002", "1", "0"] == out.splitlines()[2].split()[:5]
    assert "With 95% confidence at most" in out
    assert "14 of 14 frames" in err
    assert 1 <= len(list((tmp_path / "kept").iterdir()))


def test_what_cannot_be_run_is_said_before_anything_runs(
    command: Command, settings: Settings, dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for words, status, reason in (
        ([], 1, "name a folder"),
        ([str(dataset), "--resize", "crop"], 1, "resize rule 'crop' is not known"),
        (["--images", str(dataset)], 1, "go together"),
        (["--empty", "demo:", "--threshold", "1.5"], 1, "--threshold 1.5"),
        (["--empty", "attic"], 2, "attic is neither"),
    ):
        found, out, err = command(*words, "--model", settings.model.name)

        assert (status, "") == (found, out)
        assert reason in err
    monkeypatch.setattr("detr_sentry.evaluation.accuracy.find_spec", lambda _: None)
    assert "pip install 'detr-sentry[eval]'" in command(str(dataset))[2]
    with pytest.raises(SystemExit):
        command(str(dataset), "--model", "embedded,")


def test_a_data_set_may_be_named_in_two_parts(command: Command, settings: Settings, dataset: Path) -> None:
    places = ["--annotations", str(dataset / "annotations.json"), "--images", str(dataset / "images")]

    status, out, _ = command(*places, "--split", "s2", "--model", settings.model.name, "--json")

    assert (0, "data s2") == (status, json.loads(out)["data"])
