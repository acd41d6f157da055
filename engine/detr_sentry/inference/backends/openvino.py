"""OpenVINO: Intel's and Arm's CPUs, with BF16 where the CPU computes in it, and Intel's GPUs and NPUs."""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING, Any

import numpy as np

from detr_sentry.errors import BackendError

# OpenVINO's model converter would load a package that reports to its makers. Nothing here converts, and an engine that
# watches a door reports to nobody: without the package OpenVINO takes its own empty stand-in.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # None is how an import is barred
import openvino as ov  # noqa: E402

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

    from detr_sentry.models.contract import ModelContract

_PREFERRED = ("GPU", "NPU", "CPU")
_PRECISIONS = {"f32": "FP32", "f16": "FP16", "bf16": "BF16"}
_log = logging.getLogger("detr_sentry.inference")


class OpenVinoBackend:
    """A baked model compiled by OpenVINO for one device, its input and output in memory that is allocated once.

    Without `device` it takes the first of GPU, NPU and CPU that this machine has and that compiles the model. Compiled
    models are kept in the folder `cache`, which makes the next start faster (4.8 s -> 1 s seen on two loaded cores).
    """

    name = "openvino"

    def __init__(
        self,
        model: bytes,
        contract: ModelContract,
        *,
        threads: int,
        cache: Path | None = None,
        device: str = "",
    ) -> None:
        self._core = ov.Core()
        if cache is not None:
            cache.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._core.set_property({"CACHE_DIR": str(cache)})
        try:
            network = self._core.read_model(model)
        except RuntimeError as error:
            raise BackendError(
                f"OpenVINO {ov.__version__} does not read {contract.name}: {_first_line(error)}"
            ) from error
        self._compiled = self._compile(network, contract, threads, device)
        self.provider = _provider(self._compiled)
        on_cpu = "CPU" in self.provider.split()
        self.threads = int(self._compiled.get_property("INFERENCE_NUM_THREADS")) if on_cpu else 1
        self._shape = (1, contract.height, contract.width, 3)
        self._output: npt.NDArray[np.float32] = np.zeros((1, contract.queries, 6), np.float32)
        self._request = self._compiled.create_infer_request()
        self._request.set_output_tensor(ov.Tensor(self._output, shared_memory=True))
        self._bound = 0
        self._interrupted = False

    def _compile(self, network: Any, contract: ModelContract, threads: int, device: str) -> Any:
        present = devices(self._core)
        wanted = (device,) if device else tuple(present)
        failures = []
        for name in wanted:
            try:
                return self._core.compile_model(network, name, _options(self._core, name, threads))
            except RuntimeError as error:
                failures.append(f"{name}: {_first_line(error)}")
                _log.warning("OpenVINO cannot run %s on %s: %s", contract.name, name, _first_line(error))
        raise BackendError(
            f"OpenVINO {ov.__version__} cannot run {contract.name}: {'; '.join(failures) or 'no device'} "
            f"(devices here: {', '.join(present) or 'none'})"
        )

    def run(self, image: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Detections float32 [Q,6] of `image` uint8 [1,H,W,3], valid until the next call. Raises BackendError."""
        if image.shape != self._shape or image.dtype != np.uint8 or not image.flags.c_contiguous:
            raise BackendError(f"the model takes contiguous uint8 {self._shape}, not {image.dtype} {image.shape}")
        address = image.ctypes.data
        try:
            if address != self._bound:
                self._request.set_input_tensor(ov.Tensor(image, shared_memory=True))
                self._bound = address
            if self._interrupted:
                raise BackendError("OpenVINO was told to terminate")
            self._request.infer(share_inputs=True, share_outputs=True)
        except RuntimeError as error:
            raise BackendError(f"OpenVINO failed: {_first_line(error)}") from error
        rows: npt.NDArray[np.float32] = self._output[0]
        return rows

    def interrupt(self) -> None:
        """Ends a run in another thread soon, with BackendError; later runs end the same way."""
        self._interrupted = True
        self._request.cancel()

    def close(self) -> None:
        """Frees the compiled model. The backend cannot be used afterwards."""
        del self._request, self._compiled, self._core


def devices(core: Any | None = None) -> tuple[str, ...]:
    """OpenVINO's devices on this machine, the preferred kind first: `GPU.0`, `NPU`, `CPU`."""
    names = list((core or ov.Core()).available_devices)
    return tuple(name for kind in _PREFERRED for name in names if name.split(".")[0] == kind)


def _options(core: Any, device: str, threads: int) -> dict[str, Any]:
    """What to ask a device for; what it then does is read back."""
    options: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY"}
    if device == "CPU":
        has_bf16 = "BF16" in core.get_property(device, "OPTIMIZATION_CAPABILITIES")
        options |= {
            "INFERENCE_NUM_THREADS": threads,
            "INFERENCE_PRECISION_HINT": "bf16" if has_bf16 else "f32",
            "ENABLE_CPU_PINNING": False,  # captures and the gateway share these cores
        }
    return options


def _provider(compiled: Any) -> str:
    """`OpenVINO CPU BF16`: the devices and the precision that the compiled model itself reports."""
    units = "+".join(compiled.get_property("EXECUTION_DEVICES"))
    try:
        precision = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
    except RuntimeError:  # the NPU's compiler decides on its own and does not tell
        return f"OpenVINO {units}"
    return f"OpenVINO {units} {_PRECISIONS.get(precision, precision)}"


def _first_line(error: Exception) -> str:
    lines = [
        line for line in str(error).splitlines() if line.strip() and not line.startswith(("Exception from", "Check "))
    ]
    return (lines or [repr(error)])[0].strip()
