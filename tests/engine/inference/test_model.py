from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from detr_sentry.errors import BackendError, ModelRefusedError
from detr_sentry.inference.backends import BACKENDS, Backend, open_backend
from detr_sentry.inference.model import Detector, open_detector
from detr_sentry.ipc.messages import CAPACITY, DETECTION_DTYPE
from detr_sentry.models.contract import load_baked
from detr_sentry.settings import ModelSettings, Zone

LEFT = Zone(name="left", points=((0.0, 0.0), (0.4, 0.0), (0.4, 1.0), (0.0, 1.0)))
BOTTOM = Zone(name="bottom", points=((0.0, 0.9), (1.0, 0.9), (1.0, 1.0), (0.0, 1.0)))


@pytest.fixture
def detector(bright_detector: Callable[..., Path], tmp_path: Path) -> Iterator[Detector]:
    opened, embedded = open_detector(ModelSettings(name=str(bright_detector()), threads=1), tmp_path, floor=0.2)
    assert not embedded
    yield opened
    opened.backend.close()


def rows(*values: tuple[float, ...]) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return np.array(values, np.float32)


def test_boxes_are_pixels_of_the_source_best_first(detector: Detector) -> None:
    found = detector.select(rows((0.1, 0.2, 0.3, 0.4, 0.5, 1), (0.5, 0.5, 1.0, 1.0, 0.9, 1)), width=200, height=100)

    expected = np.array([(100, 50, 200, 100, 0.9, 1, 0, 0), (20, 20, 60, 40, 0.5, 1, 0, 0)], DETECTION_DTYPE)
    assert found.dtype == DETECTION_DTYPE
    for name in DETECTION_DTYPE.names or ():
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-5)


def test_only_enabled_classes_above_the_floor_with_an_area_stay(detector: Detector) -> None:
    found = detector.select(
        rows(
            (0.1, 0.1, 0.2, 0.2, 0.19, 1),  # below the floor
            (0.1, 0.1, 0.2, 0.2, 0.90, 18),  # a dog is not enabled
            (0.1, 0.1, 0.2, 0.2, 0.90, -3),  # no class at all
            (0.1, 0.1, 0.2, 0.2, 0.90, 1e9),
            (0.3, 0.1, 0.2, 0.2, 0.90, 1),  # inverted
            (1.1, 0.1, 1.2, 0.2, 0.90, 1),  # outside
            (0.1, 0.1, 0.2, 0.2, 0.20, 1),
        ),
        width=100,
        height=100,
    )

    assert [round(float(score), 4) for score in found["confidence"]] == [0.2]


def test_boxes_are_cut_at_the_border(detector: Detector) -> None:
    found = detector.select(rows((-0.5, -0.1, 1.5, 1.1, 0.9, 1)), width=64, height=48)

    assert [float(found[0][name]) for name in ("x1", "y1", "x2", "y2")] == [0.0, 0.0, 64.0, 48.0]


def test_zones_are_bits_of_where_the_feet_are(detector: Detector) -> None:
    found = detector.select(
        rows((0.1, 0.1, 0.3, 0.95, 0.9, 1), (0.1, 0.1, 0.3, 0.5, 0.8, 1), (0.6, 0.1, 0.9, 0.5, 0.7, 1)),
        width=200,
        height=100,
        zones=(LEFT, BOTTOM),
    )

    assert found["zone_mask"].tolist() == [0b11, 0b01, 0b00]


def test_no_more_than_a_message_holds(detector: Detector) -> None:
    many = np.tile(rows((0.1, 0.1, 0.2, 0.2, 0.5, 1)), (CAPACITY + 50, 1))
    many[-1, 4] = 0.99

    found = detector.select(many, width=10, height=10)

    assert len(found) == CAPACITY
    assert found[0]["confidence"] == pytest.approx(0.99)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite_are_an_error(value: float, detector: Detector) -> None:
    with pytest.raises(BackendError, match="not finite"):
        detector.select(rows((0.1, 0.1, 0.2, value, 0.5, 1)), width=10, height=10)


def test_a_model_that_answers_nonsense_is_refused_at_the_start(
    bright_detector: Callable[..., Path], tmp_path: Path
) -> None:
    with pytest.raises(ModelRefusedError, match="not finite on a gray picture"):
        open_detector(ModelSettings(name=str(bright_detector(nan_above=0.1))), tmp_path, floor=0.2)


def test_logits_as_scores_are_refused_at_the_start(detector: Detector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detector.backend, "run", lambda _: rows((0, 0, 1, 1, 2.5, 1)))

    with pytest.raises(ModelRefusedError, match="must apply the sigmoid"):
        detector.warm_up()


@pytest.fixture
def backend(bright_detector: Callable[..., Path]) -> Iterator[Backend]:
    contract, data = load_baked(bright_detector())
    opened = open_backend("auto", data, contract, threads=2)
    yield opened
    opened.close()


def test_the_backend_reports_what_runs(backend: Backend) -> None:
    assert (backend.name, backend.provider, backend.threads) == ("onnxruntime", "CPU", 2)


def test_threads_do_not_spin_between_runs(backend: Backend) -> None:
    image = np.zeros((1, 32, 32, 3), np.uint8)
    backend.run(image)
    begun_s = time.process_time()
    time.sleep(0.3)

    assert time.process_time() - begun_s < 0.06


def test_the_same_memory_is_used_again(backend: Backend) -> None:
    image = np.full((1, 32, 32, 3), 51, np.uint8)
    first = backend.run(image)
    score = float(first[0, 4])
    image.fill(102)
    second = backend.run(image)
    other = backend.run(np.full((1, 32, 32, 3), 255, np.uint8))

    assert first.ctypes.data == second.ctypes.data == other.ctypes.data
    assert [score, float(other[0, 4])] == pytest.approx([0.2, 1.0])


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((1, 32, 31, 3), np.uint8),
        np.zeros((1, 32, 32, 3), np.float32),
        np.zeros((1, 32, 64, 3), np.uint8)[:, :, ::2],
    ],
    ids=["shape", "type", "strides"],
)
def test_another_tensor_is_refused(image: np.ndarray[tuple[int, ...], np.dtype[np.uint8]], backend: Backend) -> None:
    with pytest.raises(BackendError, match="takes contiguous uint8"):
        backend.run(image)


def test_a_run_can_be_interrupted_from_another_thread(backend: Backend) -> None:
    image = np.zeros((1, 32, 32, 3), np.uint8)
    threading.Timer(0.05, backend.interrupt).start()

    def run_forever() -> None:
        while True:
            backend.run(image)

    with pytest.raises(BackendError, match="terminate"):
        run_forever()


def test_an_unknown_backend_and_a_broken_graph_are_named(bright_detector: Callable[..., Path]) -> None:
    contract, data = load_baked(bright_detector())

    with pytest.raises(BackendError, match="'warp' is not known; there is: auto, onnxruntime, openvino, tensorrt"):
        open_backend("warp", data, contract)
    with pytest.raises(BackendError, match="does not load bright"):
        open_backend("onnxruntime", data[: len(data) // 2], contract)


def test_a_backend_that_is_not_installed_is_an_error_that_says_what_is(
    bright_detector: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    contract, data = load_baked(bright_detector())
    monkeypatch.setitem(BACKENDS, "openvino", ("openvino_is_not_here",))

    with pytest.raises(
        BackendError, match=r"'openvino' is not installed .*pip install openvino.*installed: onnxruntime"
    ):
        open_backend("openvino", data, contract)


def test_cuda_that_does_not_start_is_said_and_the_cpu_reported(
    bright_detector: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import onnxruntime

    contract, data = load_baked(bright_detector())
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("CUDA is really here")
    real = onnxruntime.InferenceSession
    both = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    asked: list[list[str]] = []

    def without_a_driver(model: bytes, options: object, *, providers: list[str]) -> object:
        """What onnxruntime-gpu does on a machine without a driver: it falls back without an error."""
        asked.append(providers)
        return real(model, options, providers=["CPUExecutionProvider"])

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: both)
    monkeypatch.setattr(onnxruntime, "InferenceSession", without_a_driver)
    backend = open_backend("onnxruntime", data, contract, threads=1)
    backend.close()

    assert asked == [both]
    assert backend.provider == "CPU"
    assert "ONNX Runtime has CUDA, but it does not start here: bright runs on CPU" in caplog.text
