"""What `backend: auto` decided on this machine, kept between starts.

A choice holds for one model, one set of library versions and one hardware; anything else is decided anew. It is stored
only by the self-check, which has compared the backend's detections with ONNX Runtime's.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import platform
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from pathlib import Path

from detr_sentry import __version__
from detr_sentry.errors import StorageError
from detr_sentry.models.bake import write_whole

REFERENCE = "onnxruntime"
"""The backend that needs no choice: it runs everywhere, and every other one is compared with it."""
MOST_KEPT = 16
MOST_OPENINGS = 3
"""Starts on a choice that did not get as far as one run before ONNX Runtime is taken for good."""
_LIBRARIES = ("onnxruntime", "onnxruntime-gpu", "openvino", "tensorrt", "tensorrt-cu12", "tensorrt-cu13")
_DEVICE_NODES = ("dev/dri/renderD*", "dev/accel/accel*", "dev/nvidia[0-9]*")
_log = logging.getLogger("detr_sentry.inference")


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """A verified backend. `speedup` is its speed as a multiple of ONNX Runtime's, both on this machine.

    `openings` counts starts on it since it last ran well.
    """

    backend: str
    provider: str
    speedup: float = 1.0
    reason: str = ""
    openings: int = 0


class Choices:
    """The file of choices in the folder `cache`. Without a writable folder everything is decided at every start."""

    def __init__(self, cache: Path) -> None:
        self._path = cache / "backends.json"

    def get(self, key: str) -> Choice | None:
        """The choice under `key`, None where there is none or the file is not ours."""
        entry = self._read().get(key)
        try:
            choice = Choice(**entry) if isinstance(entry, dict) else None
        except TypeError:
            return None
        if choice is None or not isinstance(choice.backend, str) or not isinstance(choice.openings, int):
            return None
        return choice

    def put(self, key: str, choice: Choice) -> None:
        """Stores a choice; the oldest of too many is dropped."""
        entries = self._read()
        entries.pop(key, None)
        entries[key] = asdict(choice)
        kept = dict(list(entries.items())[-MOST_KEPT:])
        try:
            write_whole(self._path, json.dumps(kept, indent=1).encode())
        except StorageError as error:
            _log.warning("the choice of a backend is not kept: %s", error)

    def open_on(self, key: str) -> str:
        """The backend to start on under `key`; a choice that is opened counts the opening."""
        choice = self.get(key)
        if choice is None or choice.backend == REFERENCE:
            return REFERENCE
        if choice.openings >= MOST_OPENINGS:
            reason = f"{choice.backend} was opened {choice.openings} times and never ran"
            self.put(key, Choice(backend=REFERENCE, provider="", reason=reason))
            _log.warning("%s; staying on ONNX Runtime", reason)
            return REFERENCE
        self.put(key, replace(choice, openings=choice.openings + 1))
        return choice.backend

    def proved(self, key: str) -> None:
        """Notes that the choice under `key` was opened and ran."""
        choice = self.get(key)
        if choice is not None and choice.openings:
            self.put(key, replace(choice, openings=0))

    def _read(self) -> dict[str, object]:
        try:
            entries = json.loads(self._path.read_bytes())
        except (OSError, ValueError):
            return {}
        return entries if isinstance(entries, dict) else {}


def key_of(model_sha256: str, threads: int | None) -> str:
    """What a choice depends on, as a short text: model, threads, library versions, hardware."""
    facts = (model_sha256, threads, __version__, _versions(), _hardware())
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:32]


def _versions() -> list[tuple[str, str]]:
    found = []
    for name in _LIBRARIES:
        try:
            found.append((name, metadata.version(name)))
        except metadata.PackageNotFoundError:
            continue
    return found


def _hardware(root: Path = Path("/")) -> tuple[object, ...]:
    try:
        lines = (root / "proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    wanted = ("model name", "flags", "Features", "CPU part")
    processor = sorted({line for line in lines if line.startswith(wanted)})
    nodes = sorted(str(node) for pattern in _DEVICE_NODES for node in root.glob(pattern))
    return platform.machine(), processor, len(os.sched_getaffinity(0)), nodes
