"""The runtimes that can execute a baked model; only the modules in here import one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from detr_sentry.errors import BackendError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from detr_sentry.models.contract import ModelContract

BACKENDS = ("onnxruntime",)


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


def open_backend(name: str, model: bytes, contract: ModelContract, *, threads: int | None = None) -> Backend:
    """Loads the checked `model` into the runtime `name` (`auto`: ONNX Runtime). Raises BackendError.

    `threads` is the number of CPU threads of one run; None takes the runtime's cores, at most 4.
    """
    if name in {"auto", "onnxruntime"}:
        from detr_sentry.inference.backends.onnxruntime import OnnxRuntimeBackend

        return OnnxRuntimeBackend(model, contract, threads=threads)
    raise BackendError(f"backend {name!r} is not part of this build; there is: auto, {', '.join(BACKENDS)}")
