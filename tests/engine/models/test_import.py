from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest

from detr_sentry.errors import ModelError, ModelRefusedError, StorageError
from detr_sentry.models import classes, store
from detr_sentry.models.bake import bake
from detr_sentry.models.contract import load_baked
from detr_sentry.models.resolve import resolve_model
from detr_sentry.sentry.rules import PERSON_CLASS_ID
from detr_sentry.settings import ModelSettings

Array = npt.NDArray[Any]
Builder = Callable[..., onnx.ModelProto]
Runner = Callable[..., list[Array]]
Command = Callable[..., tuple[int, str, str]]


def save(model: onnx.ModelProto, path: Path) -> str:
    path.write_bytes(model.SerializeToString())
    return str(path)


def test_an_export_is_kept_under_its_name_and_runs(command: Command, rfdetr: Builder, tmp_path: Path) -> None:
    file = save(rfdetr(), tmp_path / "My Door.onnx")

    status, out, _ = command("import", file)
    Path(file).unlink()
    resolved = resolve_model(ModelSettings(name="my-door"), tmp_path / "state")

    assert (status, out) == (0, "my-door is ready (64x64, finds person): make run MODEL=my-door\n")
    assert (resolved.name, dict(resolved.contract.labels)) == ("my-door", {1: "person"})
    rows = {row["name"]: row for row in json.loads(command("list", "--json")[1])["models"]}
    assert (rows["my-door"]["own"], rows["my-door"]["here"], rows["my-door"]["input"]) == (True, True, [64, 64])
    assert "your own, from My Door.onnx" in command("list")[1]


@pytest.mark.parametrize("spare", [0, 1], ids=["a slot for each class", "one slot more"])
def test_a_fine_tuned_model_publishes_its_person_as_every_model_does(
    spare: int, command: Command, heads: Builder, run_model: Runner, tmp_path: Path
) -> None:
    boxes, logits = np.full((1, 4), 0.5), np.array([[2.0, -1.0, 1.0, 9.0][: 3 + spare]])
    file = save(heads(boxes, logits), tmp_path / "inference_model.onnx")

    status, _, err = command("import", file, "--name", "yard", "--labels", "fox, Person,hedgehog", "--json")
    resolved = resolve_model(ModelSettings(name="yard"), tmp_path / "state")
    rows = run_model(resolved.data, {"image": np.zeros((1, 32, 32, 3), np.uint8)})[0][0]

    assert (status, err) == (0, "")
    assert rows[0, 4] == pytest.approx(1 / (1 + np.exp(1.0)))
    assert rows[0, 5] == PERSON_CLASS_ID
    assert resolved.contract.layout == "contiguous"
    assert resolved.contract.numbers == {1: 1}

    other = resolve_model(ModelSettings(name="yard", labels=("fox", "hedgehog")), tmp_path / "state")
    rows = run_model(other.data, {"image": np.zeros((1, 32, 32, 3), np.uint8)})[0][0]
    assert rows[0, 5] == classes.OWN_ID_BASE + 0
    assert other.contract.numbers == {100: 0, 102: 2}
    assert dict(other.contract.labels) == {100: "fox", 102: "hedgehog"}


def test_the_manifest_keeps_both_ways_to_number_classes(
    command: Command, rfdetr: Builder, cache: Path, tmp_path: Path
) -> None:
    command("import", save(rfdetr(), tmp_path / "coco.onnx"))
    command("import", save(rfdetr(slots=2), tmp_path / "own.onnx"), "--labels", "person,cat", "--threshold", "0.25")

    coco, own = (json.loads((cache / "own" / f"{name}.json").read_text()) for name in ("coco", "own"))
    assert (coco["layout"], coco["labels"]) == ("coco", None)
    assert (own["layout"], own["labels"]) == ("contiguous", {"0": "person", "1": "cat"})
    resolved = resolve_model(ModelSettings(name="own"), tmp_path / "state")
    assert resolved.contract.threshold == pytest.approx(0.25)


def test_labels_come_from_a_file(command: Command, rfdetr: Builder, tmp_path: Path) -> None:
    file = save(rfdetr(slots=4), tmp_path / "own.onnx")
    (tmp_path / "labels.txt").write_text("cat\n-\nperson\nred fox\n\n")

    status, out, _ = command("import", file, "--labels-file", "labels.txt", "--json")

    assert (status, json.loads(out)["numbers"]) == (0, {"1": 2})
    assert store.own_models(tmp_path / "state" / "models")["own"].classes == ("person", "cat", "red fox")


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("--labels", "person,Person,cat"), "names a class twice: person"),
        (("--labels", "person,,cat"), "class 1 needs a name"),
        (("--labels", "a,b,c,d,e"), "class number 4 lies outside the 3 class slots"),
        (("--labels", "person\x1b[2J,cat,dog"), "printable"),
        (("--labels", "a,b,c", "--labels-file", "x"), "give one of them"),
        (("--labels-file", "absent.txt"), "absent.txt: cannot be read"),
        ((), "its classes are not COCO's; name them"),
        (("--labels", "a,b,c", "--threshold", "2"), "between 0 and 1"),
    ],
)
def test_labels_that_do_not_fit_are_refused(
    words: tuple[str, ...], reason: str, command: Command, rfdetr: Builder, cache: Path, tmp_path: Path
) -> None:
    status, _, err = command("import", save(rfdetr(slots=3), tmp_path / "own.onnx"), *words)

    assert status == 1
    assert reason in err
    assert not (cache / "own").exists()


def test_labels_files_are_text_of_sane_size(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(ModelRefusedError, match="cannot be read as text"):
        classes.read_labels(tmp_path / "binary")

    (tmp_path / "large").write_bytes(b"a" * ((1 << 20) + 1))
    with pytest.raises(ModelRefusedError, match="too large"):
        classes.read_labels(tmp_path / "large")

    with pytest.raises(ModelRefusedError, match="has no classes"):
        classes.own_classes({}, "x")
    with pytest.raises(ModelRefusedError, match="at most 4096 classes"):
        classes.own_classes({4096: "person"}, "x")


def test_a_model_without_a_wanted_class_is_kept_and_says_so(command: Command, rfdetr: Builder, tmp_path: Path) -> None:
    status, out, err = command("import", save(rfdetr(slots=1), tmp_path / "foxes.onnx"), "--labels", "fox")

    assert status == 0
    assert "cannot find person, which model.labels asks for; it finds fox" in err
    assert "foxes is kept" in out
    status, _, err = command("info", "foxes")
    assert status == 1
    assert "cannot find person; it finds fox" in err


def test_a_name_is_replaced_by_force_alone(command: Command, rfdetr: Builder, cache: Path, tmp_path: Path) -> None:
    file = save(rfdetr(), tmp_path / "door.onnx")
    command("import", file)
    first = store.own_models(cache)["door"]
    save(rfdetr(seed=2), tmp_path / "door.onnx")

    status, _, err = command("import", file)
    assert (status, "model door is here already; --force replaces it" in err) == (1, True)

    assert command("import", file, "--force")[0] == 0
    second = store.own_models(cache)["door"]
    assert second.sha256 == hashlib.sha256(Path(file).read_bytes()).hexdigest() != first.sha256
    assert [path.name for path in (cache / "own").glob("*.onnx")] == [second.file.name]


@pytest.mark.parametrize(
    ("file", "words", "reason"),
    [
        ("inference_model.onnx", (), "says little about the model"),
        ("checkpoint_best_total.onnx", (), "says little about the model"),
        ("a.onnx", ("--name", "rfdetr-nano"), "the catalogue's name of another model"),
        ("a.onnx", ("--name", "embedded"), "the catalogue's name of another model"),
        ("a.onnx", ("--name", "../a"), "1 to 48 of"),
        ("a.onnx", ("--name", "a.onnx"), "means a file"),
        ("ä.onnx", (), "choose one with --name"),
    ],
)
def test_names_are_clear_and_fit_files(
    file: str, words: tuple[str, ...], reason: str, command: Command, rfdetr: Builder, tmp_path: Path
) -> None:
    status, _, err = command("import", save(rfdetr(), tmp_path / file), *words)

    assert status == 1
    assert reason in err


def test_a_catalogue_model_that_was_exported_elsewhere_is_imported_under_its_name(
    command: Command, rfdetr: Builder, tmp_path: Path
) -> None:
    assert command("import", save(rfdetr(), tmp_path / "rfdetr-medium.onnx"))[0] == 0

    assert resolve_model(ModelSettings(name="rfdetr-medium"), tmp_path / "state").name == "rfdetr-medium"
    rows = {row["name"]: row["here"] for row in json.loads(command("list", "--json")[1])["models"]}
    assert (rows["rfdetr-medium"], rows["rfdetr-large"]) == (True, False)
    assert json.loads(command("info", "rfdetr-medium", "--json")[1])["licence"] == "Apache-2.0"


def test_a_baked_model_is_kept_as_it_is(command: Command, rfdetr: Builder, cache: Path, tmp_path: Path) -> None:
    bake(rfdetr().SerializeToString(), tmp_path / "door.onnx", classes=["person", "dog"], name="from elsewhere")

    status, _, err = command("import", "door.onnx", "--labels", "a,b")
    assert (status, "is baked already" in err) == (1, True)

    status, _, _ = command("import", "door.onnx")
    resolved = resolve_model(ModelSettings(name="door"), tmp_path / "state")
    assert status == 0
    assert resolved.data == (tmp_path / "door.onnx").read_bytes()
    assert store.own_models(cache)["door"].classes == ("person", "dog")


def test_a_baked_model_that_runs_under_its_own_title_is_in_use(
    command: Command, rfdetr: Builder, tmp_path: Path
) -> None:
    from detr_sentry.ipc.heartbeat import Heartbeat, Phase
    from detr_sentry.ipc.layout import Layout

    bake(rfdetr().SerializeToString(), tmp_path / "door.onnx", name="from elsewhere")
    command("import", "door.onnx")
    heartbeat = Heartbeat(Layout(tmp_path / "shm", "main").heartbeat("inference"), "inference")
    heartbeat.beat(Phase.RUNNING, {"model": "from elsewhere"})

    assert "is in use" in command("remove", "door")[2]
    heartbeat.close()


def test_a_model_that_answers_nonsense_is_not_kept(
    command: Command, heads: Builder, cache: Path, tmp_path: Path
) -> None:
    nan = heads(np.full((2, 4), 0.5), np.zeros((2, 2)))
    nan.graph.node[1].CopyFrom(onnx.helper.make_node("Div", ["zero", "zero"], ["nothing"]))
    nan.graph.initializer.append(onnx.numpy_helper.from_array(np.array(0.0, np.float32), "zero"))

    status, _, err = command("import", save(nan, tmp_path / "bad.onnx"), "--labels", "person,cat")

    assert status == 1
    assert "not finite on a gray picture" in err
    assert not (cache / "own").exists()


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"format": 2}', '{"format": 1, "input": [1]}'],
    ids=["empty", "list", "none", "2", "short"],
)
def test_a_spoiled_manifest_says_import_again(text: str, command: Command, cache: Path, tmp_path: Path) -> None:
    (cache / "own").mkdir(parents=True)
    (cache / "own" / "door.json").write_text(text)

    with pytest.raises(ModelError, match=r"door\.json: is spoiled .*; import the model again"):
        resolve_model(ModelSettings(name="door"), tmp_path / "state")
    assert store.own_models(cache) == {}
    status, out, _ = command("remove", "door")
    assert (status, out) == (0, f"removed {cache / 'own' / 'door.json'}\n")


def test_a_manifest_of_another_format_is_not_read(
    command: Command, rfdetr: Builder, cache: Path, tmp_path: Path
) -> None:
    command("import", save(rfdetr(), tmp_path / "door.onnx"))
    path = cache / "own" / "door.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 9}))

    with pytest.raises(ModelError, match="another format"):
        store.own_model("door", cache)


def test_a_manifest_cannot_name_a_file_elsewhere(
    command: Command, rfdetr: Builder, cache: Path, tmp_path: Path
) -> None:
    command("import", save(rfdetr(), tmp_path / "door.onnx"))
    path = cache / "own" / "door.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "file": "../../../door.onnx"}))

    assert store.own_models(cache)["door"].file == cache / "own" / "door.onnx"


def test_a_kept_file_that_changed_is_refused(command: Command, rfdetr: Builder, cache: Path, tmp_path: Path) -> None:
    command("import", save(rfdetr(), tmp_path / "door.onnx"))
    store.own_models(cache)["door"].file.write_bytes(rfdetr(seed=9).SerializeToString())

    with pytest.raises(ModelRefusedError, match="its sha256 is not its manifest's; import it again"):
        resolve_model(ModelSettings(name="door"), tmp_path / "state")


def test_removing_an_imported_model_leaves_nothing_of_it(
    command: Command, rfdetr: Builder, cache: Path, tmp_path: Path
) -> None:
    command("import", save(rfdetr(), tmp_path / "door.onnx"))
    command("import", save(rfdetr(seed=3), tmp_path / "door-2.onnx"))

    status, out, _ = command("remove", "door")

    assert (status, len(out.splitlines())) == (0, 3)
    assert sorted(path.name.partition("-2")[1] for path in cache.rglob("*") if path.is_file()) == ["-2"] * 3


def test_the_store_says_what_it_cannot_do(cache: Path, tmp_path: Path) -> None:
    known: dict[str, Any] = {"adapter": "", "layout": "", "size": (1, 1), "classes": (), "origin": "", "labels": None}
    with pytest.raises(ModelError, match="1 to 48 of"):
        store.keep(b"", cache, name="A/B", threshold=None, **known)

    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match="cannot be written"):
        store.keep(b"", tmp_path / "file", name="a", threshold=None, **known)


def test_what_is_baked_says_how_the_model_numbers_its_classes(rfdetr: Builder, tmp_path: Path) -> None:
    bake(rfdetr().SerializeToString(), tmp_path / "a.onnx", classes=["dog", "person"])

    contract, _ = load_baked(tmp_path / "a.onnx")

    assert (contract.layout, contract.numbers) == ("coco", {1: 1, 18: 18})
