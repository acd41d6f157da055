"""`backend: auto`: the self-check, the kept choice, and the change of the running service."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from detr_sentry.errors import BackendError, ModelRefusedError
from detr_sentry.inference import backends, model, selfcheck
from detr_sentry.inference.backends import Backend, candidates, open_backend
from detr_sentry.inference.choice import MOST_KEPT, MOST_OPENINGS, Choice, Choices, _hardware, key_of
from detr_sentry.inference.selfcheck import Verdict, choose, differences
from detr_sentry.inference.synthetic import pictures
from detr_sentry.inference.upgrade import Step, Upgrade
from detr_sentry.models.contract import ModelContract, load_baked
from detr_sentry.models.resolve import embedded_model
from detr_sentry.settings import ModelSettings

PATIENCE_S = 60.0
SELF_CHECK = (sys.executable, "-m", "detr_sentry.inference.selfcheck")
NO_CORE = "import resource; resource.setrlimit(resource.RLIMIT_CORE, (0, 0)); "
Rows = npt.NDArray[np.float32]
OPENVINO = Choice(backend="openvino:CPU", provider="OpenVINO CPU BF16", speedup=2.0)


def rows(*values: tuple[float, ...]) -> Rows:
    return np.array(values, np.float32)


PERSON = (0.1, 0.1, 0.3, 0.9, 0.9, 1.0)


@pytest.mark.parametrize(
    ("actual", "found"),
    [
        (rows(PERSON), ""),
        (rows((0.11, 0.1, 0.3, 0.88, 0.885, 1.0)), ""),
        (rows((0.1, 0.1, 0.3, 0.9, 0.91, 18.0)), "only one of both"),
        (rows((0.5, 0.1, 0.7, 0.9, 0.9, 1.0)), "only one of both"),
        (rows((0.1, 0.1, 0.3, 0.9, 0.5, 1.0)), "differ by 0.400 on average"),
        (rows((0.1, 0.1, 0.3, 0.9, np.nan, 1.0)), "not finite"),
        (rows((0.1, 0.1, np.inf, 0.9, 0.9, 1.0)), "not finite"),
    ],
    ids=["same", "nearly", "class", "box", "score", "nan", "inf"],
)
def test_answers_that_differ_are_told_apart(actual: Rows, found: str) -> None:
    assert found in differences(rows(PERSON), actual)
    assert bool(found) == bool(differences(rows(PERSON), actual))


def test_a_detection_that_only_the_other_backend_has_counts_as_a_difference() -> None:
    faint = np.tile(rows((0.5, 0.5, 0.6, 0.6, 0.01, 1.0)), (99, 1))
    invented = faint.copy()
    invented[0] = (0.6, 0.1, 0.9, 0.9, 0.8, 1.0)

    assert "score 0.80" in differences(faint, invented)
    assert "score 0.80" in differences(invented, faint)


def test_the_fastest_that_passed_is_chosen_and_only_if_it_is_worth_it() -> None:
    slow = Verdict(backend="slow", provider="S", ms=9.0, reference_ms=10.0)
    fast = Verdict(backend="fast", provider="F", ms=5.0, reference_ms=10.0)
    wrong = Verdict(backend="wrong", provider="W", refused="W gives numbers that are not finite")

    assert choose([slow, wrong, fast]) == Choice(backend="fast", provider="F", speedup=2.0)
    assert choose([slow, wrong]).backend == "onnxruntime"
    assert choose([slow, wrong]).reason == ("slow: 1.11 times as fast; wrong: W gives numbers that are not finite")
    assert choose([]).reason == "nothing else is installed"


class Wrong:
    """A runtime that works, and finds everything a third of the picture beside where it is."""

    name = "wrong"
    provider = "Wrong CPU"
    threads = 1

    def __init__(self, inner: Backend) -> None:
        self._inner = inner

    def run(self, image: npt.NDArray[np.uint8]) -> Rows:
        moved = self._inner.run(image).copy()
        moved[:, [0, 2]] += 0.33
        return moved

    def interrupt(self) -> None:
        self._inner.interrupt()

    def close(self) -> None:
        self._inner.close()


def test_a_backend_that_finds_something_else_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    contract, data = load_baked(embedded_model())

    def open_any(name: str, model: bytes, contract: ModelContract, **options: object) -> Backend:
        backend = open_backend("onnxruntime", model, contract, threads=1)
        return backend if name == "onnxruntime" else Wrong(backend)

    monkeypatch.setattr(selfcheck, "open_backend", open_any)
    (verdict,) = selfcheck.check(["wrong"], data, contract, threads=1)

    assert "only one of both" in verdict.refused
    assert verdict.speedup == 0.0


def test_the_pictures_hold_people_whom_the_embedded_detector_sees() -> None:
    contract, data = load_baked(embedded_model())
    backend = open_backend("onnxruntime", data, contract, threads=1)
    best = [float(backend.run(image)[:, 4].max()) for image in pictures(contract.width, contract.height)]
    backend.close()

    assert min(best[:2]) > 0.5
    assert max(best[2:]) < 0.2


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_the_self_check_as_a_process_stores_what_it_found(tmp_path: Path) -> None:
    path = embedded_model()
    sha256 = load_baked(path)[0].sha256
    done = subprocess.run(
        [*SELF_CHECK, "--model", str(path), "--sha256", sha256, "--threads", "1", "--cache", str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
    )
    verdicts = json.loads(done.stdout.splitlines()[-1])
    choice = Choices(tmp_path).get(key_of(sha256, 1))

    assert [verdict["backend"] for verdict in verdicts] == candidates()
    assert all(not verdict["refused"] for verdict in verdicts)
    assert choice is not None
    assert choice.backend in {"onnxruntime", *candidates()}


def test_the_self_check_of_another_file_than_the_running_one_fails(tmp_path: Path) -> None:
    done = subprocess.run(
        [*SELF_CHECK, "--model", str(embedded_model()), "--sha256", "00" * 32, "--cache", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 1
    assert "is not the model that runs" in done.stderr
    assert not (tmp_path / "backends.json").exists()


def test_choices_are_kept_per_key_and_the_oldest_is_dropped(tmp_path: Path) -> None:
    choices = Choices(tmp_path)
    for number in range(MOST_KEPT + 2):
        choices.put(f"key{number}", replace(OPENVINO, speedup=float(number)))

    assert choices.get("key0") is choices.get("key1") is None
    assert choices.get("key2") == replace(OPENVINO, speedup=2.0)
    assert len(json.loads((tmp_path / "backends.json").read_bytes())) == MOST_KEPT


@pytest.mark.parametrize(
    "content", ["", "[]", "{", '{"key": 5}', '{"key": {"backend": 5, "provider": ""}}', '{"key": {"colour": "red"}}']
)
def test_a_file_of_choices_that_is_not_ours_is_no_choice(content: str, tmp_path: Path) -> None:
    (tmp_path / "backends.json").write_text(content)

    assert Choices(tmp_path).get("key") is None
    assert Choices(tmp_path).open_on("key") == "onnxruntime"


def test_a_choice_that_never_gets_to_run_is_given_up(tmp_path: Path) -> None:
    choices = Choices(tmp_path)
    choices.put("key", OPENVINO)
    opened = [choices.open_on("key") for _ in range(MOST_OPENINGS)]
    given_up = choices.open_on("key"), choices.get("key")
    choices.put("key", OPENVINO)
    for _ in range(MOST_OPENINGS + 2):
        choices.open_on("key")
        choices.proved("key")

    assert opened == ["openvino:CPU"] * MOST_OPENINGS
    assert given_up[0] == "onnxruntime"
    assert given_up[1] is not None
    assert given_up[1].reason == "openvino:CPU was opened 3 times and never ran"
    assert choices.open_on("key") == "openvino:CPU"


def test_a_folder_that_cannot_be_written_costs_the_choice_only(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    choices = Choices(tmp_path / "file")
    choices.put("key", OPENVINO)

    assert choices.get("key") is None
    assert "the choice of a backend is not kept" in caplog.text


def test_the_key_changes_with_model_threads_and_hardware(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "dev/dri").mkdir(parents=True)
    bare = _hardware(tmp_path)
    (tmp_path / "proc/cpuinfo").write_text("model name\t: Tin 9000\nflags\t: fpu\nbogomips: 3\n")
    named = _hardware(tmp_path)
    (tmp_path / "dev/dri/renderD128").touch()
    with_gpu = _hardware(tmp_path)

    assert len({repr(entry) for entry in (bare, named, with_gpu)}) == 3
    assert len({key_of("aa", None), key_of("ab", None), key_of("aa", 1)}) == 3
    assert key_of("aa", 1) == key_of("aa", 1)


def settings_of(path: Path, backend: str = "auto") -> ModelSettings:
    return ModelSettings(name=str(path), backend=backend, threads=1)


def choose_openvino(path: Path, state_dir: Path) -> Choices:
    choices = Choices(state_dir / "models")
    choices.put(key_of(load_baked(path)[0].sha256, 1), OPENVINO)
    return choices


@pytest.mark.skipif("openvino" not in backends.installed(), reason="openvino has no wheel for this machine")
def test_auto_starts_on_onnx_runtime_and_then_on_the_choice(
    bright_detector: Callable[..., Path], tmp_path: Path
) -> None:
    path = bright_detector()
    first, _ = model.open_detector(settings_of(path), tmp_path, floor=0.2)
    choices = choose_openvino(path, tmp_path)
    second, _ = model.open_detector(settings_of(path), tmp_path, floor=0.2)
    named, _ = model.open_detector(settings_of(path, "onnxruntime"), tmp_path, floor=0.2)
    kept = choices.get(key_of(first.contract.sha256, 1))
    for detector in (first, second, named):
        detector.backend.close()

    assert [detector.backend.name for detector in (first, second, named)] == ["onnxruntime", "openvino", "onnxruntime"]
    assert second.backend.provider.startswith("OpenVINO CPU ")
    assert kept == OPENVINO


def test_a_choice_that_fails_to_open_falls_back_once_and_for_all(
    bright_detector: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    path = bright_detector()
    choices = choose_openvino(path, tmp_path)
    monkeypatch.setitem(backends.BACKENDS, "openvino", ("openvino_is_not_here",))
    detector, _ = model.open_detector(settings_of(path), tmp_path, floor=0.2)
    kept = choices.get(key_of(detector.contract.sha256, 1))
    detector.backend.close()

    assert detector.backend.name == "onnxruntime"
    assert "back to ONNX Runtime, as openvino:CPU was chosen before and fails now" in caplog.text
    assert kept is not None
    assert kept.backend == "onnxruntime"


@pytest.mark.skipif("openvino" not in backends.installed(), reason="openvino has no wheel for this machine")
def test_the_running_detector_changes_over_and_finds_the_same(
    bright_detector: Callable[..., Path], tmp_path: Path
) -> None:
    path = bright_detector()
    detector, _ = model.open_detector(settings_of(path), tmp_path, floor=0.2)
    choose_openvino(path, tmp_path)
    detector.preprocessor.tensor.fill(153)
    before = detector.detect(width=100, height=100).copy()
    changed = model.reopen_detector(detector, settings_of(path), tmp_path / "models")
    detector.preprocessor.tensor.fill(153)
    after = detector.detect(width=100, height=100)
    detector.backend.close()

    assert (changed, detector.backend.name) == (True, "openvino")
    assert len(before) == len(after) == 1
    assert float(after["confidence"][0]) == pytest.approx(float(before["confidence"][0]), abs=0.01)


def test_a_change_that_fails_leaves_onnx_runtime_running(
    bright_detector: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = bright_detector()
    detector, _ = model.open_detector(settings_of(path), tmp_path, floor=0.2)
    choices = choose_openvino(path, tmp_path)
    monkeypatch.setitem(backends.BACKENDS, "openvino", ("openvino_is_not_here",))
    changed = model.reopen_detector(detector, settings_of(path), tmp_path / "models")
    kept = choices.get(key_of(detector.contract.sha256, 1))
    detector.preprocessor.tensor.fill(153)
    found = detector.detect(width=100, height=100)
    detector.backend.close()

    assert (changed, detector.backend.name, len(found)) == (False, "onnxruntime", 1)
    assert kept is not None
    assert kept.backend == "onnxruntime"


def test_a_model_file_that_changed_meanwhile_is_not_opened(
    bright_detector: Callable[..., Path], tmp_path: Path
) -> None:
    path = bright_detector()
    detector, _ = model.open_detector(settings_of(path), tmp_path, floor=0.2)
    bright_detector(nan_above=0.5)

    with pytest.raises(ModelRefusedError, match="has changed since it was opened"):
        model.reopen_detector(detector, settings_of(path), tmp_path / "models")
    detector.backend.close()


def test_a_backend_asked_for_by_name_is_never_replaced(
    bright_detector: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(backends.BACKENDS, "openvino", ("openvino_is_not_here",))

    with pytest.raises(BackendError, match="'openvino' is not installed"):
        model.open_detector(settings_of(bright_detector(), "openvino"), tmp_path, floor=0.2)


@pytest.fixture
def upgrade(tmp_path: Path) -> Iterator[Callable[..., Upgrade]]:
    made: list[Upgrade] = []

    def make(program: str, *, auto: bool = True) -> Upgrade:
        entry = Upgrade(
            change=lambda: True, auto=auto, model=tmp_path, sha256="ab", threads=1, cache=tmp_path, delay_s=0.0
        )
        entry._command = [sys.executable, "-c", program]
        made.append(entry)
        return entry

    yield make
    for entry in made:
        entry.close()


def finish(entry: Upgrade) -> None:
    deadline_s = time.monotonic() + PATIENCE_S
    while entry.step in {Step.WAITING, Step.CHECKING} and time.monotonic() < deadline_s:
        entry.poll(time.monotonic(), quiet=True)
        time.sleep(0.01)


def storing(choice: Choice, cache: Path) -> str:
    return (
        "from pathlib import Path; from detr_sentry.inference.choice import *\n"
        f"Choices(Path({str(cache)!r})).put(key_of('ab', 1), {choice!r})"
    )


def test_the_change_waits_for_a_quiet_moment(upgrade: Callable[..., Upgrade], tmp_path: Path) -> None:
    entry = upgrade(storing(OPENVINO, tmp_path))
    busy = entry.poll(time.monotonic(), quiet=False), entry.step
    finish(entry)

    assert busy == (False, Step.WAITING)
    assert entry.step is Step.READY
    assert entry._loading is not None
    entry._loading.join()
    assert "detr_sentry.inference.backends.openvino" in sys.modules or "openvino" not in backends.installed()
    assert [entry.poll(time.monotonic(), quiet=quiet) for quiet in (False, True)] == [False, True]
    entry.change()
    assert str(entry.step) == "verified"


def test_nothing_is_done_where_onnx_runtime_won_or_a_backend_is_named(
    upgrade: Callable[..., Upgrade], tmp_path: Path
) -> None:
    won = upgrade(storing(Choice(backend="onnxruntime", provider=""), tmp_path))
    finish(won)
    again, named = upgrade("1/0"), upgrade("1/0", auto=False)

    assert (won.step, again.step, named.step) == (Step.VERIFIED, Step.VERIFIED, Step.FIXED)
    assert not any(entry.poll(time.monotonic(), quiet=True) for entry in (won, again, named))


@pytest.mark.parametrize(
    ("program", "step", "kept"),
    [
        ("raise SystemExit(1)", Step.FAILED, False),
        ("pass", Step.FAILED, False),
        (f"import os; os.kill(os.getpid(), {signal.SIGKILL:d})", Step.FAILED, False),
        (NO_CORE + f"import os; os.kill(os.getpid(), {signal.SIGSEGV:d})", Step.VERIFIED, True),
    ],
    ids=["error", "no choice", "killed", "crashed"],
)
def test_a_self_check_that_fails_leaves_the_service_alone(
    program: str, step: Step, kept: bool, upgrade: Callable[..., Upgrade], tmp_path: Path
) -> None:
    entry = upgrade(program)
    finish(entry)

    assert entry.step is step
    assert (Choices(tmp_path).get(key_of("ab", 1)) is not None) == kept
    assert not entry.poll(time.monotonic(), quiet=True)


def test_a_self_check_that_hangs_is_ended(upgrade: Callable[..., Upgrade]) -> None:
    entry = upgrade("import time; time.sleep(600)")
    entry.poll(time.monotonic(), quiet=True)
    process = entry._process
    assert process is not None
    entry.poll(time.monotonic() + 3600, quiet=True)

    assert entry.step is Step.FAILED
    assert process.returncode == -signal.SIGKILL
