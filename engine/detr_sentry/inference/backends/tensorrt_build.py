"""TensorRT engines: building one from a typed graph, and the name under which it is kept.

TensorRT is imported by the caller and passed in as `trt`: versions 10.16 and 11 differ, and most machines have none.
Both take a strongly typed network, where the graph's own types decide the precision: 10.x by a flag, 11 always.
"""

from __future__ import annotations

import hashlib
import logging
from typing import TYPE_CHECKING, Any

from detr_sentry.errors import BackendError
from detr_sentry.models.bake import write_whole

if TYPE_CHECKING:
    from pathlib import Path

WORKSPACE_BYTES = 1 << 30
OLDEST = (10, 16)
_log = logging.getLogger("detr_sentry.inference")


def engine_path(cache: Path, *, model_sha256: str, precision: str, version: str, gpu: str) -> Path:
    """Where the engine of a baked model lies: engines hold for one TensorRT, one GPU and one precision only.

    `gpu` names the device and its SM (`NVIDIA L4, SM 8.9`).
    """
    key = hashlib.sha256(repr((model_sha256, version, gpu, precision)).encode()).hexdigest()
    return cache / "tensorrt" / f"{model_sha256[:16]}-{precision}-{key[:16]}.engine"


def check_version(trt: Any) -> None:
    """Raises BackendError for a TensorRT that is too old."""
    numbers = tuple(int(part) for part in trt.__version__.split(".")[:2])
    if numbers < OLDEST:
        raise BackendError(f"TensorRT {trt.__version__} is too old: this engine needs {OLDEST[0]}.{OLDEST[1]} or newer")


def build_engine(trt: Any, typed: bytes, *, timing_cache: Path | None = None) -> bytes:
    """The serialised engine of the typed graph `typed`, for this machine's GPU. Takes minutes. Raises BackendError.

    `timing_cache` is a file that makes later builds faster; it is read, extended and written.
    """
    logger = trt.Logger(trt.Logger.WARNING)
    builder = trt.Builder(logger)
    flags = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    network = builder.create_network(0 if flags is None else 1 << int(flags))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(typed):
        reasons = [str(parser.get_error(index).desc()) for index in range(parser.num_errors)]
        raise BackendError(f"TensorRT {trt.__version__} does not read the graph: {'; '.join(reasons) or 'no reason'}")
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, WORKSPACE_BYTES)
    if timing_cache is not None:
        config.set_timing_cache(config.create_timing_cache(_read(timing_cache)), False)  # another GPU's is refused
    serialised = builder.build_serialized_network(network, config)
    if serialised is None:
        raise BackendError(f"TensorRT {trt.__version__} builds no engine from the graph; its own log says why")
    if timing_cache is not None:
        write_whole(timing_cache, bytes(config.get_timing_cache().serialize()))
    return bytes(serialised)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""
