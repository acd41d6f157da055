from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

from detr_sentry import cli
from detr_sentry.errors import ModelError, ModelRefusedError
from detr_sentry.models import catalog, resolve
from detr_sentry.models.bake import bake
from detr_sentry.settings import ModelSettings

Builder = Callable[..., onnx.ModelProto]


@pytest.fixture
def export(rfdetr: Builder, tmp_path: Path) -> Path:
    path = tmp_path / "tiny.onnx"
    path.write_bytes(rfdetr().SerializeToString())
    return path


def test_the_catalogue_names_every_model_with_where_it_is_from() -> None:
    entries = catalog.read_catalog()

    assert {"embedded", "deimv2-atto", "deimv2-femto", "rfdetr-nano", "rfdetr-small"} <= set(entries)
    assert ["embedded", "rfdetr-medium", "rfdetr-large"] == [name for name in entries if entries[name].url is None]
    assert {"rfdetr-medium", "rfdetr-large"} == {name for name in entries if entries[name].export}
    assert entries["rfdetr-nano"].input == (384, 384)
    assert entries["deimv2-femto"].ap == pytest.approx(31.0)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[[model]\n", "catalog.toml: "),
        ('[[model]]\nname = "a"\n', "model 'a'"),
        ('[[model]]\nname = "a"\ninput = [1]\n', "model 'a'"),
        ('[[model]]\nname = "a"\ninput = [1, 1]\ncolour = "red"\n', "colour"),
        (
            '[[model]]\nname="a"\ntitle=""\nadapter=""\nlicence=""\nsource=""\ninput=[1,1]\nurl="http://x"\n',
            "https URL and the sha256",
        ),
        (
            '[[model]]\nname="../a"\ntitle=""\nadapter=""\nlicence=""\nsource=""\ninput=[1,1]\n',
            "a name is 1 to 48",
        ),
        ('[[model]]\nname="a"\ntitle=""\nadapter=""\nlicence=""\nsource=""\ninput=[1,1]\n' * 2, "occurs twice"),
    ],
)
def test_a_catalogue_that_is_not_well_formed_names_the_entry(text: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "catalog.toml").write_text(text)

    with pytest.raises(ModelError, match=reason):
        catalog.read_catalog(tmp_path / "catalog.toml")


def test_an_export_is_baked_into_the_cache_once(export: Path, tmp_path: Path) -> None:
    settings = ModelSettings(name=str(export), cache_dir=tmp_path / "cache")

    first = resolve.resolve_model(settings)
    made = first.path.stat().st_mtime_ns
    second = resolve.resolve_model(settings)

    assert first.path.parent == tmp_path / "cache" / "baked"
    assert (first.path, made) == (second.path, second.path.stat().st_mtime_ns)
    assert (first.name, first.width, first.height, first.embedded) == ("tiny", 64, 64, False)
    assert first.contract.labels == {1: "person"}


def test_other_classes_or_another_content_are_baked_anew(export: Path, rfdetr: Builder, tmp_path: Path) -> None:
    settings = ModelSettings(name=str(export), cache_dir=tmp_path / "cache")
    first = resolve.resolve_model(settings).path
    dogs = resolve.resolve_model(ModelSettings(name=str(export), cache_dir=tmp_path / "cache", labels=("dog",))).path
    export.write_bytes(rfdetr(seed=2).SerializeToString())
    changed = resolve.resolve_model(settings).path

    assert len({first, dogs, changed}) == 3


def test_a_spoiled_cache_file_is_made_again(export: Path, tmp_path: Path) -> None:
    settings = ModelSettings(name=str(export), cache_dir=tmp_path / "cache")
    path = resolve.resolve_model(settings).path
    path.write_bytes(path.read_bytes()[:100])

    assert resolve.resolve_model(settings).data == path.read_bytes()


def test_a_baked_file_is_used_where_it_lies(export: Path, tmp_path: Path) -> None:
    bake(export, tmp_path / "baked.onnx")

    resolved = resolve.resolve_model(ModelSettings(name=str(tmp_path / "baked.onnx")), tmp_path / "state")

    assert resolved.path == tmp_path / "baked.onnx"
    assert not (tmp_path / "state").exists()


def test_a_baked_file_without_the_wanted_class_is_refused(export: Path, tmp_path: Path) -> None:
    bake(export, tmp_path / "baked.onnx", classes=["person"])

    with pytest.raises(ModelRefusedError, match="cannot find dog; it finds person"):
        resolve.resolve_model(ModelSettings(name=str(tmp_path / "baked.onnx"), labels=("dog",)), tmp_path)


def test_a_catalogue_name_needs_its_file(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="rfdetr-nano is not on this machine yet"):
        resolve.resolve_model(ModelSettings(name="rfdetr-nano"), tmp_path)
    with pytest.raises(ModelError, match="'yolo' is not known; there is embedded, "):
        resolve.resolve_model(ModelSettings(name="yolo"), tmp_path)


def test_a_pulled_file_is_checked_and_baked(shared_dir: Path, tmp_path: Path) -> None:
    place = resolve.pulled_path("deimv2-atto", tmp_path / "models")
    place.parent.mkdir(parents=True)
    place.write_bytes((shared_dir / "models" / "deimv2_hgnetv2_atto_coco.onnx").read_bytes())

    resolved = resolve.resolve_model(ModelSettings(name="deimv2-atto"), tmp_path)

    assert resolved.name == "deimv2-atto"
    assert resolved.contract.source_sha256 == hashlib.sha256(place.read_bytes()).hexdigest()

    place.write_bytes(place.read_bytes() + b"\0")
    with pytest.raises(ModelRefusedError, match="sha256 is not the catalogue's"):
        resolve.resolve_model(ModelSettings(name="deimv2-atto"), tmp_path)


def test_the_embedded_detector_may_be_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(resolve, "PLACES", (tmp_path,))

    with pytest.raises(ModelError, match="embedded detector is missing"):
        resolve.embedded_model()


def test_the_embedded_detector_is_the_first_found(
    export: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(resolve, "PLACES", (tmp_path / "wheel", tmp_path / "repository"))
    bake(export, tmp_path / "repository" / "embedded" / "person_detr.onnx", classes=["person"])

    resolved = resolve.resolve_model(ModelSettings())

    assert resolved.embedded
    assert resolved.path == tmp_path / "repository" / "embedded" / "person_detr.onnx"


@pytest.fixture
def command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Callable[..., tuple[int, str]]:
    monkeypatch.setenv("DETR_SENTRY_STATE_DIR", str(tmp_path / "state"))

    def call(*words: str) -> tuple[int, str]:
        monkeypatch.setattr("sys.argv", ["detr-sentry", *words])
        status = cli.main(words)
        captured = capsys.readouterr()
        return status, captured.out + captured.err

    return call


def test_models_list_shows_what_is_here(command: Callable[..., tuple[int, str]]) -> None:
    status, text = command("models", "list", "--json")

    rows = {row["name"]: row for row in json.loads(text)["models"]}
    assert status == 0
    assert rows["embedded"]["here"] is True
    assert rows["rfdetr-small"]["here"] is False
    assert "RF-DETR Small" in command("models", "list")[1]


def test_models_bake_and_info_agree(command: Callable[..., tuple[int, str]], export: Path, tmp_path: Path) -> None:
    baked = command(
        "models",
        "bake",
        str(export),
        str(tmp_path / "out.onnx"),
        "--classes",
        "person, dog",
        "--name",
        "mine",
        "--json",
    )
    info = command("models", "info", str(tmp_path / "out.onnx"), "--json")

    assert (0, 0) == (baked[0], info[0])
    assert json.loads(baked[1])["labels"] == {"1": "person", "18": "dog"}
    assert json.loads(baked[1])["sha256"] == json.loads(info[1])["sha256"]
    assert "labels         1 person, 18 dog" in command("models", "info", str(tmp_path / "out.onnx"))[1]


def test_models_bake_takes_all_classes_or_the_settings_ones(
    command: Callable[..., tuple[int, str]], export: Path, tmp_path: Path
) -> None:
    every = command("models", "bake", str(export), str(tmp_path / "a.onnx"), "--classes", "all", "--json")[1]
    person = command("models", "bake", str(export), str(tmp_path / "b.onnx"), "--json")[1]

    assert len(json.loads(every)["labels"]) == 80
    assert json.loads(person)["labels"] == {"1": "person"}


def test_models_bake_of_a_model_with_its_own_labels(
    command: Callable[..., tuple[int, str]], rfdetr: Builder, tmp_path: Path
) -> None:
    (tmp_path / "own.onnx").write_bytes(rfdetr(slots=2).SerializeToString())

    text = command(
        "models", "bake", str(tmp_path / "own.onnx"), str(tmp_path / "o.onnx"), "--labels", "cat,person", "--json"
    )[1]

    assert json.loads(text)["labels"] == {"1": "person"}


def test_a_refused_model_is_an_error_of_the_command(command: Callable[..., tuple[int, str]], tmp_path: Path) -> None:
    (tmp_path / "bad.onnx").write_bytes(b"no model")

    status, text = command("models", "info", str(tmp_path / "bad.onnx"))

    assert status == 1
    assert "not an ONNX file" in text

    status, text = command("models", "bake", "x.onnx", "y.onnx", "--threshold", "7")
    assert status == 1
    assert "between 0 and 1" in text
