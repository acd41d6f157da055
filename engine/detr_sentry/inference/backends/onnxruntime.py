"""ONNX Runtime: the backend that runs everywhere, and the reference for every other one."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np
import onnxruntime as ort

from detr_sentry.errors import BackendError

if TYPE_CHECKING:
    import numpy.typing as npt

    from detr_sentry.models.contract import ModelContract

_PREFERRED = ("CUDAExecutionProvider", "CPUExecutionProvider")
_ERRORS_ONLY = 3

_NO_SPINNING = {"session.intra_op.allow_spinning": "0", "session.inter_op.allow_spinning": "0"}
"""Threads that spin between runs burn CPU that others need (measured under load: 565 ms a run instead of 443)."""
_log = logging.getLogger("detr_sentry.inference")


class OnnxRuntimeBackend:
    """A baked model in an ONNX Runtime session, input and output bound to memory that is allocated once.

    On CUDA where the installed wheel (`onnxruntime-gpu`) has it and it starts, else on the CPU; `provider` says which.
    """

    name = "onnxruntime"

    def __init__(self, model: bytes, contract: ModelContract, *, threads: int) -> None:
        self.threads = threads
        options = ort.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        options.log_severity_level = _ERRORS_ONLY
        for key, value in _NO_SPINNING.items():
            options.add_session_config_entry(key, value)
        available = ort.get_available_providers()
        try:
            self._session = ort.InferenceSession(
                model, options, providers=[name for name in _PREFERRED if name in available]
            )
        except Exception as error:
            raise BackendError(f"ONNX Runtime {ort.__version__} does not load {contract.name}: {error}") from error
        running = self._session.get_providers()[0]
        self.provider: str = running.removesuffix("ExecutionProvider")
        if _PREFERRED[0] in available and running != _PREFERRED[0]:
            _log.warning(
                "ONNX Runtime has CUDA, but it does not start here: %s runs on %s", contract.name, self.provider
            )
        self._run_options = ort.RunOptions()
        self._run_options.log_severity_level = _ERRORS_ONLY
        self._shape = (1, contract.height, contract.width, 3)
        self._output: npt.NDArray[np.float32] = np.zeros((1, contract.queries, 6), np.float32)
        self._binding = self._session.io_binding()
        self._binding.bind_output("detections", "cpu", 0, np.float32, self._output.shape, self._output.ctypes.data)
        self._bound = 0

    def run(self, image: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Detections float32 [Q,6] of `image` uint8 [1,H,W,3], valid until the next call. Raises BackendError."""
        if image.shape != self._shape or image.dtype != np.uint8 or not image.flags.c_contiguous:
            raise BackendError(f"the model takes contiguous uint8 {self._shape}, not {image.dtype} {image.shape}")
        address = image.ctypes.data
        if address != self._bound:
            self._binding.bind_input("image", "cpu", 0, np.uint8, image.shape, address)
            self._bound = address
        try:
            self._session.run_with_iobinding(self._binding, self._run_options)
        except Exception as error:
            raise BackendError(f"ONNX Runtime failed: {error}") from error
        rows: npt.NDArray[np.float32] = self._output[0]
        return rows

    def interrupt(self) -> None:
        """Ends a run in another thread soon, with BackendError; later runs end the same way."""
        self._run_options.terminate = True

    def close(self) -> None:
        """Frees the session. The backend cannot be used afterwards."""
        self._binding.clear_binding_inputs()
        self._binding.clear_binding_outputs()
        del self._binding, self._session
