"""TensorRT 10.16+ and 11 on NVIDIA's GPUs, with an engine that `detr-sentry models build` made on this machine.

Not run here: no machine of this project has had TensorRT and a GPU. Its calls are tested against a recording stand-in,
and the graphs that it is given are parsed and built by TensorRT-RTX (tests/engine/inference/test_tensorrt.py).
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np

from detr_sentry.errors import BackendError
from detr_sentry.inference.backends.tensorrt_build import check_version, engine_path
from detr_sentry.models.graph import metadata_of, parse_model
from detr_sentry.models.half import INT8_PRECISION
from detr_sentry.models.quantize import PRECISION_KEY

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

    from detr_sentry.models.contract import ModelContract

_INPUT, _OUTPUT = "image", "detections"
PRECISIONS = {None: "fp16", INT8_PRECISION: "int8"}
"""What a baked model says of itself -> the precision of its engine."""


class TensorRtBackend:
    """An engine whose run is one CUDA graph: pixels up, model, detections down, on pinned memory, batch 1.

    Addresses are set once and the graph is captured once; a run copies the picture into pinned memory, launches the
    graph and waits. A run cannot be cut short; after `interrupt` there are no more.
    """

    name = "tensorrt"
    threads = 1

    def __init__(self, model: bytes, contract: ModelContract, *, cache: Path) -> None:
        trt, cuda = load_modules()
        self._cuda = cuda
        precision = precision_of(model, contract)
        path = engine_path(
            cache, model_sha256=contract.sha256, precision=precision, version=trt.__version__, gpu=gpu_name(cuda)
        )
        try:
            data = path.read_bytes()
        except OSError as error:
            raise BackendError(
                f"there is no TensorRT engine of {contract.name} for this GPU and TensorRT {trt.__version__}: "
                f"detr-sentry models build --backend tensorrt --precision {precision}"
            ) from error
        self._runtime = trt.Runtime(trt.Logger(trt.Logger.WARNING))
        self._engine = self._runtime.deserialize_cuda_engine(data)
        if self._engine is None:
            raise BackendError(f"{path} is not an engine that TensorRT {trt.__version__} takes; build it again")
        self._shape = (1, contract.height, contract.width, 3)
        shapes = {_INPUT: self._shape, _OUTPUT: (1, contract.queries, 6)}
        found = {
            name: tuple(self._engine.get_tensor_shape(name))
            for name in (self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors))
        }
        if found != shapes:
            raise BackendError(f"{path}: tensors {found} instead of {shapes}; build it again")
        self.provider = f"TensorRT {'.'.join(trt.__version__.split('.')[:2])} {precision.upper()}"
        self._context = self._engine.create_execution_context()
        self._stream = call(cuda.cudaStreamCreate())
        self._input = _Buffer(cuda, np.zeros(self._shape, np.uint8))
        self._output = _Buffer(cuda, np.zeros(shapes[_OUTPUT], np.float32))
        self._context.set_tensor_address(_INPUT, self._input.device)
        self._context.set_tensor_address(_OUTPUT, self._output.device)
        self._interrupted = False
        self._enqueue()  # what TensorRT sets up at the first run must not be in the graph
        call(cuda.cudaStreamSynchronize(self._stream))
        call(cuda.cudaStreamBeginCapture(self._stream, cuda.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal))
        self._enqueue()
        self._graph = call(cuda.cudaStreamEndCapture(self._stream))
        self._executable = call(cuda.cudaGraphInstantiate(self._graph, 0))

    def _enqueue(self) -> None:
        cuda, up, down = self._cuda, self._input, self._output
        kinds = cuda.cudaMemcpyKind
        call(cuda.cudaMemcpyAsync(up.device, up.pinned, up.size, kinds.cudaMemcpyHostToDevice, self._stream))
        if not self._context.execute_async_v3(int(self._stream)):
            raise BackendError("TensorRT did not start the model")
        call(cuda.cudaMemcpyAsync(down.pinned, down.device, down.size, kinds.cudaMemcpyDeviceToHost, self._stream))

    def run(self, image: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Detections float32 [Q,6] of `image` uint8 [1,H,W,3], valid until the next call. Raises BackendError."""
        if image.shape != self._shape or image.dtype != np.uint8:
            raise BackendError(f"the model takes uint8 {self._shape}, not {image.dtype} {image.shape}")
        if self._interrupted:
            raise BackendError("TensorRT was told to terminate")
        np.copyto(self._input.array, image)
        call(self._cuda.cudaGraphLaunch(self._executable, self._stream))
        call(self._cuda.cudaStreamSynchronize(self._stream))
        rows: npt.NDArray[np.float32] = self._output.array[0]
        return rows

    def interrupt(self) -> None:
        """Lets no further run begin; one takes milliseconds."""
        self._interrupted = True

    def close(self) -> None:
        """Frees the GPU's memory. The backend cannot be used afterwards."""
        call(self._cuda.cudaGraphExecDestroy(self._executable))
        call(self._cuda.cudaGraphDestroy(self._graph))
        for buffer in (self._input, self._output):
            buffer.free(self._cuda)
        call(self._cuda.cudaStreamDestroy(self._stream))
        del self._context, self._engine, self._runtime


@dataclass(slots=True, init=False)
class _Buffer:
    """A tensor twice: pinned on the host, where `array` looks at it, and on the device. Addresses, size in bytes."""

    pinned: int
    device: int
    size: int
    array: npt.NDArray[Any]

    def __init__(self, cuda: Any, like: npt.NDArray[Any]) -> None:
        self.size = like.nbytes
        self.pinned = int(call(cuda.cudaHostAlloc(self.size, cuda.cudaHostAllocDefault)))
        self.device = int(call(cuda.cudaMalloc(self.size)))
        memory = (ctypes.c_uint8 * self.size).from_address(self.pinned)
        self.array = np.frombuffer(memoryview(memory), like.dtype).reshape(like.shape)
        self.array[...] = 0

    def free(self, cuda: Any) -> None:
        self.array = np.zeros(0)
        call(cuda.cudaFree(self.device))
        call(cuda.cudaFreeHost(self.pinned))


def load_modules() -> tuple[Any, Any]:
    """TensorRT and CUDA's runtime. Raises BackendError, saying what is missing."""
    try:
        trt, cuda = import_module("tensorrt"), import_module("cuda.bindings.runtime")
    except ImportError as error:
        raise BackendError(f"TensorRT cannot be loaded ({error}); see docs/backends.md for its packages") from error
    check_version(trt)
    return trt, cuda


def gpu_name(cuda: Any) -> str:
    """The GPU and its SM. Raises BackendError where there is none."""
    properties = call(cuda.cudaGetDeviceProperties(0))
    name = properties.name.decode() if isinstance(properties.name, bytes) else str(properties.name)
    return f"{name.rstrip(chr(0))}, SM {properties.major}.{properties.minor}"


def precision_of(model: bytes, contract: ModelContract) -> str:
    """The precision that an engine of this baked model has. Raises BackendError for another runtime's INT8 form."""
    said = metadata_of(parse_model(model, contract.name)).get(PRECISION_KEY)
    if said not in PRECISIONS:
        raise BackendError(f"{contract.name} is made for ONNX Runtime ({said}); give TensorRT the float model")
    return PRECISIONS[said]


def call(answer: tuple[Any, ...]) -> Any:
    """The value of a call of CUDA's runtime, (error, value). Raises BackendError."""
    error, *values = answer
    if int(error):
        raise BackendError(f"CUDA failed: {getattr(error, 'name', error)}")
    return values[0] if values else None
