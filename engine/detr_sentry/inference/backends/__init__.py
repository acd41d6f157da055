"""The runtimes that can execute a baked model; only the modules in here import one."""

from __future__ import annotations

import logging
import os
from contextlib import suppress
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Protocol

from detr_sentry.errors import BackendError

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    import numpy.typing as npt

    from detr_sentry.models.contract import ModelContract

BACKENDS = {
    "onnxruntime": ("onnxruntime",),
    "openvino": ("openvino",),
    "tensorrt": ("tensorrt", "cuda"),
}
"""Backend -> the modules that must be installed for it."""

_HOW = {
    "openvino": "pip install openvino (wheels are for x86-64 and 64-bit Arm)",
    "tensorrt": "see docs/backends.md: TensorRT comes with NVIDIA's packages, not with this engine",
}
MOST_THREADS = 4
"""Small detectors gain little beyond; captures and the gateway need the other cores."""
_log = logging.getLogger("detr_sentry.inference")


class Backend(Protocol):
    """A model loaded into a runtime. Belongs to one thread, but for `interrupt`."""

    name: str
    provider: str
    """What really executes the model, as the runtime reports it after loading."""
    threads: int

    def run(self, image: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Detections float32 [Q,6] of `image` uint8 [1,H,W,3], valid until the next call. Raises BackendError."""
        ...

    def interrupt(self) -> None:
        """Ends a run in another thread soon, with BackendError; later runs end the same way."""
        ...

    def close(self) -> None:
        """Frees the runtime's memory."""
        ...


def open_backend(
    name: str, model: bytes, contract: ModelContract, *, threads: int | None = None, cache: Path | None = None
) -> Backend:
    """Loads the checked `model` into the runtime `name` (`auto`: ONNX Runtime). Raises BackendError.

    A name may end with a device of the runtime (`openvino:GPU.0`); else the runtime's best one is taken. `threads` is
    the number of CPU threads of one run; None takes the machine's cores, at most 4. Runtimes that compile keep their
    results in folders under `cache`; None keeps nothing.
    """
    if name == "auto":
        name = "onnxruntime"
    name, _, device = name.partition(":")
    if name not in BACKENDS:
        raise BackendError(f"backend {name!r} is not known; there is: auto, {', '.join(BACKENDS)}")
    if name not in installed():
        raise BackendError(
            f"backend {name!r} is not installed on this machine ({_HOW[name]}); "
            f"installed: {', '.join(installed())}. `model.backend: auto` takes the fastest that works"
        )
    threads = threads or min(len(os.sched_getaffinity(0)), MOST_THREADS)
    match name:
        case "openvino":
            from detr_sentry.inference.backends.openvino import OpenVinoBackend

            return OpenVinoBackend(model, contract, threads=threads, cache=cache and cache / "openvino", device=device)
        case "tensorrt":
            from detr_sentry.inference.backends.tensorrt import TensorRtBackend

            if cache is None:
                raise BackendError("TensorRT needs the folder of models, where its engines lie")
            return TensorRtBackend(model, contract, cache=cache)
        case _:
            from detr_sentry.inference.backends.onnxruntime import OnnxRuntimeBackend

            return OnnxRuntimeBackend(model, contract, threads=threads)


def candidates() -> list[str]:
    """What may be faster than ONNX Runtime here, by the names that `open_backend` takes: one for each device."""
    found = []
    if "openvino" in installed():
        try:
            from detr_sentry.inference.backends.openvino import devices

            found += [f"openvino:{device}" for device in devices()]
        except (ImportError, RuntimeError) as error:  # a wheel for another machine, a driver that is broken
            _log.warning("OpenVINO cannot be used here: %s", error)
    if "tensorrt" in installed():
        found.append("tensorrt")  # refused by the self-check where no engine was built
    return found


def preload(name: str) -> None:
    """Imports the runtime of `name`, in any thread; what goes wrong is left to `open_backend` to say."""
    with suppress(ImportError, BackendError, RuntimeError):
        import_module(f"{__name__}.{name.partition(':')[0]}")


def installed() -> tuple[str, ...]:
    """The backends whose modules are there. Nothing is imported, so none of them is proven to work."""
    return tuple(name for name, modules in BACKENDS.items() if all(find_spec(module) for module in modules))
