"""Stand-ins for TensorRT and CUDA's runtime that record every call. They compute nothing: no TensorRT ran here.

Device and pinned memory are ordinary memory, so copies are real and a wrong address or size shows in the result. The
"model" writes the mean of the pixels as the score of its first row.
"""

# ruff: noqa: N802, N815 - the names are NVIDIA's
from __future__ import annotations

import ctypes
from collections.abc import Callable
from enum import IntEnum
from types import SimpleNamespace
from typing import Any

import numpy as np

Calls = list[tuple[Any, ...]]


class Kind(IntEnum):
    cudaMemcpyHostToDevice = 1
    cudaMemcpyDeviceToHost = 2


class FakeCuda:
    """`cuda.bindings.runtime`, as far as the backend calls it; each call answers (error, value)."""

    cudaHostAllocDefault = 0
    cudaMemcpyKind = Kind
    cudaStreamCaptureMode = SimpleNamespace(cudaStreamCaptureModeThreadLocal=1)

    def __init__(self, calls: Calls) -> None:
        self.calls = calls
        self.memory: dict[int, Any] = {}
        self.captured: list[Callable[[], None]] | None = None
        self.fail: str | None = None

    def _answer(self, name: str, *values: Any, shown: tuple[Any, ...] = ()) -> tuple[Any, ...]:
        self.calls.append((name, *shown))
        return (2 if self.fail == name else 0, *values)

    def do(self, work: Callable[[], None]) -> None:
        """Runs work of a stream now, or keeps it for the graph that is being captured."""
        if self.captured is None:
            work()
        else:
            self.captured.append(work)

    def _allocate(self, size: int) -> int:
        block = (ctypes.c_uint8 * size)()
        self.memory[ctypes.addressof(block)] = block
        return ctypes.addressof(block)

    def cudaGetDeviceProperties(self, device: int) -> tuple[Any, ...]:
        assert device == 0
        return self._answer("properties", SimpleNamespace(name=b"Test GPU\0", major=8, minor=9))

    def cudaStreamCreate(self) -> tuple[Any, ...]:
        return self._answer("stream", 77)

    def cudaHostAlloc(self, size: int, flags: int) -> tuple[Any, ...]:
        return self._answer("host_alloc", self._allocate(size), shown=(size, flags))

    def cudaMalloc(self, size: int) -> tuple[Any, ...]:
        return self._answer("malloc", self._allocate(size), shown=(size,))

    def cudaMemcpyAsync(self, to: int, source: int, size: int, kind: Kind, stream: int) -> tuple[Any, ...]:
        assert stream == 77

        def copy() -> None:
            ctypes.memmove(to, source, size)

        self.do(copy)
        return self._answer("copy", shown=(kind.name, size))

    def cudaStreamSynchronize(self, stream: int) -> tuple[Any, ...]:
        return self._answer("synchronize")

    def cudaStreamBeginCapture(self, stream: int, mode: int) -> tuple[Any, ...]:
        self.captured = []
        return self._answer("begin_capture", shown=(mode,))

    def cudaStreamEndCapture(self, stream: int) -> tuple[Any, ...]:
        graph, self.captured = self.captured, None
        return self._answer("end_capture", graph)

    def cudaGraphInstantiate(self, graph: Any, flags: int) -> tuple[Any, ...]:
        return self._answer("instantiate", graph)

    def cudaGraphLaunch(self, graph: list[Callable[[], None]], stream: int) -> tuple[Any, ...]:
        for work in graph:
            work()
        return self._answer("launch")

    def cudaGraphExecDestroy(self, graph: Any) -> tuple[Any, ...]:
        return self._answer("destroy_executable")

    def cudaGraphDestroy(self, graph: Any) -> tuple[Any, ...]:
        return self._answer("destroy_graph")

    def cudaStreamDestroy(self, stream: int) -> tuple[Any, ...]:
        return self._answer("destroy_stream")

    def cudaFree(self, address: int) -> tuple[Any, ...]:
        del self.memory[address]
        return self._answer("free")

    def cudaFreeHost(self, address: int) -> tuple[Any, ...]:
        del self.memory[address]
        return self._answer("free_host")


class FakeTensorRt:
    """`tensorrt` of version 10.16 (with its flag for strong typing) or 11 (without)."""

    def __init__(self, calls: Calls, cuda: FakeCuda, version: str, shapes: dict[str, tuple[int, ...]]) -> None:
        self.__version__ = version
        self.calls, self.cuda, self.shapes = calls, cuda, shapes
        self.parses = self.builds = True
        flags = {"STRONGLY_TYPED": 1} if version.startswith("10.") else {}
        self.NetworkDefinitionCreationFlag = SimpleNamespace(**flags)
        self.MemoryPoolType = SimpleNamespace(WORKSPACE="workspace")

    class Logger:
        WARNING = 2

        def __init__(self, level: int) -> None:
            assert level == self.WARNING

    def Builder(self, logger: Logger) -> Any:
        def create_network(flags: int) -> str:
            self.calls.append(("create_network", flags))
            return "network"

        def build(network: str, config: Any) -> bytes | None:
            self.calls.append(("build", network))
            return b"engine of " + self.__version__.encode() if self.builds else None

        return SimpleNamespace(
            create_network=create_network, create_builder_config=self._config, build_serialized_network=build
        )

    def _config(self) -> Any:
        def kept() -> Any:
            return SimpleNamespace(serialize=lambda: b"timings")

        return SimpleNamespace(
            set_memory_pool_limit=lambda pool, size: self.calls.append(("limit", pool, size)),
            create_timing_cache=lambda data: self.calls.append(("timing_cache", data)),
            set_timing_cache=lambda cache, ignore: self.calls.append(("set_timing_cache", ignore)),
            get_timing_cache=kept,
        )

    def OnnxParser(self, network: str, logger: Logger) -> Any:
        def parse(data: bytes) -> bool:
            self.calls.append(("parse", len(data)))
            return self.parses

        error = SimpleNamespace(desc=lambda: "unsupported node Frobnicate")
        return SimpleNamespace(parse=parse, num_errors=1, get_error=lambda index: error)

    def Runtime(self, logger: Logger) -> Any:
        return SimpleNamespace(deserialize_cuda_engine=self._engine)

    def _engine(self, data: bytes) -> Any:
        if not data.startswith(b"engine of " + self.__version__.encode()):
            return None
        names = list(self.shapes)
        return SimpleNamespace(
            num_io_tensors=len(names),
            get_tensor_name=lambda index: names[index],
            get_tensor_shape=lambda name: self.shapes[name],
            create_execution_context=lambda: FakeContext(self),
        )


class FakeContext:
    def __init__(self, trt: FakeTensorRt) -> None:
        self._trt = trt
        self._addresses: dict[str, int] = {}

    def set_tensor_address(self, name: str, address: int) -> None:
        assert address in self._trt.cuda.memory
        self._addresses[name] = address
        self._trt.calls.append(("address", name))

    def execute_async_v3(self, stream: int) -> bool:
        assert stream == 77
        self._trt.calls.append(("execute",))
        self._trt.cuda.do(self._infer)
        return True

    def _infer(self) -> None:
        memory = self._trt.cuda.memory
        pixels = np.frombuffer(memoryview(memory[self._addresses["image"]]), np.uint8)
        rows = np.frombuffer(memoryview(memory[self._addresses["detections"]]), np.float32).reshape(-1, 6)
        rows[0] = (0.0, 0.0, 1.0, 1.0, pixels.mean() / 255, 1.0)
