from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest

from detr_sentry.models import catalog
from tests.engine.models.model_host import Host, cut, good, other, serve, stall, status

Builder = Callable[..., onnx.ModelProto]
Command = Callable[..., tuple[int, str, str]]

ENTRY = """
[[model]]
name = "tiny"
title = "Tiny RF-DETR"
adapter = "rfdetr"
licence = "Apache-2.0"
source = "https://models.invalid/tiny"
input = [64, 64]
url = "https://models.invalid/tiny/model.onnx"
sha256 = "{sha256}"
bytes = {size}
note = "for tests"

[[model]]
name = "large"
title = "Large RF-DETR"
adapter = "rfdetr"
licence = "Apache-2.0"
source = "https://models.invalid/large"
input = [64, 64]
export = "RFDETRLarge"

[[model]]
name = "embedded"
title = "Embedded"
adapter = "native"
licence = "Apache-2.0"
source = "here"
input = [64, 64]
"""


@pytest.fixture
def data(rfdetr: Builder) -> bytes:
    model = rfdetr()
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.zeros(100_000, np.float32), "ballast"))
    return bytes(model.SerializeToString())


@pytest.fixture
def host(data: bytes) -> Iterator[Host]:
    with serve(data) as running:
        yield running


@pytest.fixture(autouse=True)
def places(data: bytes, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A catalogue of its own, and where models lie."""
    text = ENTRY.format(sha256=hashlib.sha256(data).hexdigest(), size=len(data))
    (tmp_path / "catalog").mkdir()
    (tmp_path / "catalog" / "catalog.toml").write_text(text)
    monkeypatch.setattr(catalog, "PLACES", (tmp_path / "catalog",))
    return cache


def test_a_pulled_model_is_checked_baked_and_ready(command: Command, host: Host, places: Path, data: bytes) -> None:
    host.answers = [cut(150_000), good]

    status, out, err = command("pull", "tiny", "--mirror", host.url)

    assert status == 0
    assert out == "tiny is ready (64x64, finds person): make run MODEL=tiny\n"
    assert err.splitlines()[0] == "Tiny RF-DETR: licence Apache-2.0, https://models.invalid/tiny (for tests)"
    assert [path for path, _ in host.requests] == ["/tiny.onnx", "/tiny.onnx"]
    assert (places / "pulled" / "tiny.onnx").read_bytes() == data
    assert [path.name for path in (places / "pulled").iterdir()] == ["tiny.onnx"]
    assert len(list((places / "baked").iterdir())) == 1


def test_the_licence_is_shown_before_anything_is_asked_for(command: Command, host: Host) -> None:
    host.answers = [status(404)]

    code, out, err = command("pull", "tiny", "--mirror", host.url)

    assert (code, out) == (1, "")
    assert err.index("licence Apache-2.0") < err.index("answered 404")


def test_a_second_pull_asks_nobody(command: Command, host: Host) -> None:
    command("pull", "tiny", "--mirror", host.url)
    host.requests.clear()

    status, out, err = command("pull", "tiny", "--mirror", host.url, "--json")

    assert (status, host.requests) == (0, [])
    assert "tiny is here already" in err
    assert json.loads(out)["labels"] == {"1": "person"}


def test_a_spoiled_file_is_fetched_again(command: Command, host: Host, places: Path, data: bytes) -> None:
    command("pull", "tiny", "--mirror", host.url)
    (places / "pulled" / "tiny.onnx").write_bytes(data[:-1] + b"\0")

    status, _, err = command("info", "tiny")
    assert status == 1
    assert "`detr-sentry models pull tiny` fetches it anew" in err

    assert command("pull", "tiny", "--mirror", host.url)[0] == 0
    assert (places / "pulled" / "tiny.onnx").read_bytes() == data


def test_wrong_bytes_leave_nothing(command: Command, host: Host, places: Path, data: bytes) -> None:
    host.answers = [other(data[::-1])]

    status, _, err = command("pull", "tiny", "--mirror", host.url)

    assert status == 1
    assert "other bytes than the catalogue names" in err
    assert list((places / "pulled").iterdir()) == []


def test_a_place_that_is_taken_is_named(command: Command, host: Host, places: Path) -> None:
    (places / "pulled" / "tiny.onnx").mkdir(parents=True)

    status, _, err = command("pull", "tiny", "--mirror", host.url)

    assert status == 1
    assert f"{places}/pulled/tiny.onnx: cannot be written: Is a directory" in err


def test_the_mirror_of_the_settings_may_be_a_folder(
    command: Command, places: Path, data: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mirror").mkdir()
    (tmp_path / "mirror" / "tiny.onnx").write_bytes(data)
    monkeypatch.setenv("DETR_SENTRY_MODEL__MIRROR", str(tmp_path / "mirror"))

    status, out, _ = command("pull", "tiny")

    assert (status, out) == (0, "tiny is ready (64x64, finds person): make run MODEL=tiny\n")
    assert (tmp_path / "mirror" / "tiny.onnx").exists()


def test_without_a_mirror_the_publisher_is_asked(command: Command) -> None:
    from detr_sentry.models.pull import address_of

    assert address_of(catalog.read_catalog()["tiny"], None) == "https://models.invalid/tiny/model.onnx"


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("tinny", "the catalogue has no tinny; it has tiny, large, embedded"),
        ("embedded", "comes with the engine"),
        ("large", "published as a checkpoint only: .* `detr-sentry models export large`"),
    ],
)
def test_what_cannot_be_pulled_says_why(name: str, reason: str, command: Command) -> None:
    status, _, err = command("pull", name)

    assert status == 1
    assert re.search(reason, err)


def test_the_list_shows_what_is_here(command: Command, host: Host) -> None:
    before = {row["name"]: row["here"] for row in json.loads(command("list", "--json")[1])["models"]}
    command("pull", "tiny", "--mirror", host.url)
    after = {row["name"]: row["here"] for row in json.loads(command("list", "--json")[1])["models"]}

    assert {"tiny": False, "large": False, "embedded": True} == before
    assert {"tiny": True, "large": False, "embedded": True} == after


def test_info_of_a_model_that_is_not_here_is_its_catalogue_entry(command: Command, host: Host) -> None:
    status, out, _ = command("info", "tiny", "--json")
    assert (status, json.loads(out)["here"], json.loads(out)["note"]) == (0, False, "for tests")

    command("pull", "tiny", "--mirror", host.url)
    shown = json.loads(command("info", "tiny", "--json")[1])
    assert (shown["licence"], shown["layout"], shown["numbers"]) == ("Apache-2.0", "coco", {"1": 1})


def test_an_interrupted_pull_goes_on_where_it_was(places: Path, host: Host, data: bytes, tmp_path: Path) -> None:
    """A real process, interrupted as by Ctrl-C; the catalogue of the second is the same."""
    program = (
        "import sys; from pathlib import Path; from detr_sentry import cli; from detr_sentry.models import catalog\n"
        f"catalog.PLACES = (Path({str(tmp_path / 'catalog')!r}),)\n"
        "sys.exit(cli.main(sys.argv[1:]))"
    )
    line = [sys.executable, "-c", program, "models", "pull", "tiny", "--mirror", host.url]
    host.answers = [stall(150_000), good]
    with subprocess.Popen(line, stderr=subprocess.PIPE, stdout=subprocess.PIPE) as first:
        try:
            deadline = time.monotonic() + 15
            while not [path for path in places.glob("pulled/.tiny-*.part") if path.stat().st_size >= 100_000]:
                assert time.monotonic() < deadline
                time.sleep(0.02)
            first.send_signal(signal.SIGINT)
            assert first.wait(10) == 130
        finally:
            first.kill()
    host.release.set()

    second = subprocess.run(line, capture_output=True, timeout=15, check=False)

    assert second.returncode == 0, second.stderr
    assert host.requests[1][1] in {f"bytes={start}-" for start in range(100_000, 150_001)}
    assert (places / "pulled" / "tiny.onnx").read_bytes() == data


def test_remove_names_what_it_removes(command: Command, host: Host, places: Path) -> None:
    command("pull", "tiny", "--mirror", host.url)
    (places / "pulled" / ".tiny-0123456789abcdef.part").write_bytes(b"begun")
    (places / "baked" / "tiny-other-0123456789abcdef.onnx").write_bytes(b"of another model")

    status, out, _ = command("remove", "tiny")

    names = [Path(line.removeprefix("removed ")).name for line in out.splitlines()]
    assert status == 0
    assert names[0] == "tiny.onnx"
    assert names[-1] == ".tiny-0123456789abcdef.part"
    assert len(names) == 3
    assert [path.name for path in places.glob("*/*")] == ["tiny-other-0123456789abcdef.onnx"]

    status, _, err = command("remove", "tiny")
    assert status == 1
    assert "model tiny has no files" in err


def test_the_embedded_detector_is_not_removed(command: Command) -> None:
    status, _, err = command("remove", "embedded", "--force")

    assert status == 1
    assert "cannot be removed" in err


def test_the_model_of_the_settings_is_removed_by_force_alone(
    command: Command, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    command("pull", "tiny", "--mirror", host.url)
    monkeypatch.setenv("DETR_SENTRY_MODEL__NAME", "tiny")

    status, _, err = command("remove", "tiny")
    assert status == 1
    assert "model tiny is in use: it is model.name of the settings" in err

    status, out, _ = command("remove", "tiny", "--force", "--json")
    assert status == 0
    assert len(json.loads(out)["removed"]) == 2


def test_the_model_of_a_running_engine_is_removed_by_force_alone(command: Command, host: Host, tmp_path: Path) -> None:
    from detr_sentry.ipc.heartbeat import Heartbeat, Phase
    from detr_sentry.ipc.layout import Layout

    command("pull", "tiny", "--mirror", host.url)
    heartbeat = Heartbeat(Layout(tmp_path / "shm", "main").heartbeat("inference"), "inference")
    heartbeat.beat(Phase.RUNNING, {"model": "tiny"})

    status, _, err = command("remove", "tiny")
    assert status == 1
    assert f"the running engine (process {os.getpid()}) runs it" in err

    heartbeat.close()
    assert command("remove", "tiny")[0] == 0
