"""The OpenVINO backend against ONNX Runtime, on real models where `../shared` has them."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import simplejpeg

from detr_sentry.errors import BackendError
from detr_sentry.inference.backends import open_backend
from detr_sentry.inference.preprocess import Preprocessor
from detr_sentry.ipc.messages import PixelFormat
from detr_sentry.models.bake import bake
from detr_sentry.models.contract import ModelContract, load_baked

openvino = pytest.importorskip("openvino", reason="openvino has no wheel for this machine")

PHOTOS = 6
SURE = 0.3


def cpu_has_bf16() -> bool:
    return "avx512_bf16" in Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")


@pytest.fixture(params=["atto", "femto"])
def deimv2(request: pytest.FixtureRequest, shared_dir: Path, tmp_path: Path) -> tuple[ModelContract, bytes]:
    source = shared_dir / "models" / f"deimv2_hgnetv2_{request.param}_coco.onnx"
    bake(source, tmp_path / "baked.onnx", classes=["person"])
    return load_baked(tmp_path / "baked.onnx")


@pytest.fixture
def photos(shared_dir: Path) -> list[bytes]:
    files = sorted((shared_dir / "persondata" / "train_val" / "images").glob("*.jpg"))[:PHOTOS]
    return [file.read_bytes() for file in files]


def tensor_of(photo: bytes, contract: ModelContract) -> npt.NDArray[np.uint8]:
    height, width, _, _ = simplejpeg.decode_jpeg_header(photo)
    preprocessor = Preprocessor(contract.width, contract.height)
    preprocessor.load(memoryview(photo), pixel_format=PixelFormat.MJPEG, width=width, height=height)
    return preprocessor.tensor


def overlap(one: npt.NDArray[np.float32], others: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    sides = np.minimum(one[2:4], others[:, 2:4]) - np.maximum(one[:2], others[:, :2])
    shared = sides.clip(0).prod(1)
    areas = (others[:, 2:4] - others[:, :2]).prod(1) + (one[2:4] - one[:2]).prod()
    result: npt.NDArray[np.float32] = shared / (areas - shared)
    return result


def test_real_models_find_the_same_people_as_in_onnx_runtime(
    deimv2: tuple[ModelContract, bytes], photos: list[bytes]
) -> None:
    contract, data = deimv2
    reference = open_backend("onnxruntime", data, contract, threads=1)
    backend = open_backend("openvino", data, contract, threads=1)
    people = 0
    for photo in photos:
        image = tensor_of(photo, contract)
        expected = reference.run(image)
        actual = backend.run(image)
        for row in expected[expected[:, 4] >= SURE]:
            people += 1
            same = actual[overlap(row, actual) >= 0.8]
            assert np.abs(same[:, 4] - row[4]).min(initial=1.0) <= 0.08
        assert np.abs(np.sort(expected[:, 4]) - np.sort(actual[:, 4])).max() <= 0.08
    reference.close()
    backend.close()

    assert people >= PHOTOS


def test_the_provider_is_what_the_compiled_model_reports(bright_detector: Callable[..., Path], tmp_path: Path) -> None:
    contract, data = load_baked(bright_detector())
    backend = open_backend("openvino", data, contract, threads=1, cache=tmp_path / "cache")
    rows = backend.run(np.full((1, 32, 32, 3), 102, np.uint8))
    provider, threads, score = backend.provider, backend.threads, float(rows[0, 4])
    backend.close()

    assert (provider, threads) == (f"OpenVINO CPU {'BF16' if cpu_has_bf16() else 'FP32'}", 1)
    assert score == pytest.approx(0.4, abs=0.005)
    assert list((tmp_path / "cache" / "openvino").glob("*.blob"))


def test_a_broken_cache_is_compiled_anew(bright_detector: Callable[..., Path], tmp_path: Path) -> None:
    contract, data = load_baked(bright_detector())
    open_backend("openvino", data, contract, threads=1, cache=tmp_path).close()
    (blob,) = (tmp_path / "openvino").glob("*.blob")
    blob.write_bytes(blob.read_bytes()[:100])
    backend = open_backend("openvino", data, contract, threads=1, cache=tmp_path)
    score = float(backend.run(np.full((1, 32, 32, 3), 255, np.uint8))[0, 4])
    backend.close()

    assert score == pytest.approx(1.0, abs=0.005)


def test_a_run_is_interrupted_from_another_thread_and_later_ones_too(bright_detector: Callable[..., Path]) -> None:
    contract, data = load_baked(bright_detector())
    backend = open_backend("openvino", data, contract, threads=1)
    image = np.zeros((1, 32, 32, 3), np.uint8)
    threading.Timer(0.05, backend.interrupt).start()

    def run_forever() -> None:
        while True:
            backend.run(image)

    with pytest.raises(BackendError, match="OpenVINO"):
        run_forever()
    with pytest.raises(BackendError, match="terminate"):
        backend.run(image)


def test_another_tensor_a_broken_graph_and_a_missing_device_are_refused(bright_detector: Callable[..., Path]) -> None:
    from detr_sentry.inference.backends.openvino import OpenVinoBackend

    contract, data = load_baked(bright_detector())
    backend = open_backend("openvino", data, contract, threads=1)

    with pytest.raises(BackendError, match="takes contiguous uint8"):
        backend.run(np.zeros((1, 32, 31, 3), np.uint8))
    with pytest.raises(BackendError, match="does not read bright"):
        open_backend("openvino", data[: len(data) // 2], contract)
    with pytest.raises(BackendError, match=r"cannot run bright: NPU\.7: .*devices here: .*CPU"):
        OpenVinoBackend(data, contract, threads=1, device="NPU.7")


def test_nothing_that_reports_to_its_makers_is_loaded() -> None:
    program = (
        "import sys, detr_sentry.inference.backends.openvino\n"
        "print([name for name in sys.modules if name.startswith('openvino_telemetry') and sys.modules[name]])"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert found.stdout.strip() == "[]"
