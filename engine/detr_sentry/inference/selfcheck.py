"""The self-check of `backend: auto`: a short-lived process that compares every backend with ONNX Runtime.

Run as `python -m detr_sentry.inference.selfcheck`. Each backend that is installed loads the model, answers on the
built-in pictures, and must find what ONNX Runtime finds; those that do are timed in turns with it, and the fastest that
is worth a change becomes the choice. It runs at the lowest priority and is the first to die where memory runs out: a
backend that crashes takes this process along, and never the service.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np

from detr_sentry._process import become_service
from detr_sentry.errors import BackendError, ModelError, ModelRefusedError
from detr_sentry.inference.backends import candidates, open_backend
from detr_sentry.inference.choice import REFERENCE, Choice, Choices, key_of
from detr_sentry.inference.synthetic import pictures
from detr_sentry.models.contract import load_baked

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from detr_sentry.inference.backends import Backend
    from detr_sentry.models.contract import ModelContract

WORTH = 1.15
"""Speed that a change must bring, as a multiple of ONNX Runtime's: less is within a busy machine's noise."""
SURE, SURE_TOLERANCE = 0.6, 0.1
"""From this score on, both must see the same box with the same score, almost."""
SEEN, SEEN_TOLERANCE = 0.35, 0.25
"""Half-seen boxes must be in both. BF16 moves DEIMv2 Femto's score of a small drawn figure from 0.51 to 0.32, those of
sure ones by 0.02 at most, and its AP on photos by 0.0004."""
MEAN_TOLERANCE = 0.02
"""Of all scores in order, so that answers without a single detection are compared as well."""
BOX_OVERLAP = 0.75
ROUNDS, MOST_SECONDS = 12, 15.0
_SCORE, _CLASS = 4, 5
_log = logging.getLogger("detr_sentry.inference")


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What was found out about a backend. `ms` is its fastest run; None where it was not timed, for `refused`."""

    backend: str
    provider: str = ""
    ms: float | None = None
    reference_ms: float | None = None
    refused: str = ""

    @property
    def speedup(self) -> float:
        """Its speed as a multiple of ONNX Runtime's in the same minutes; 0 where it was refused."""
        return self.reference_ms / self.ms if self.ms and self.reference_ms else 0.0


def check(
    names: Sequence[str],
    data: bytes,
    contract: ModelContract,
    *,
    threads: int | None,
    cache: Path | None = None,
) -> list[Verdict]:
    """Compares and times the backends `names`, one after the other. Raises BackendError if ONNX Runtime fails."""
    images = pictures(contract.width, contract.height)
    reference = open_backend(REFERENCE, data, contract, threads=threads)
    expected = [reference.run(image).copy() for image in images]
    verdicts = []
    for name in names:
        try:
            backend = open_backend(name, data, contract, threads=threads, cache=cache)
        except ModelError as error:
            verdicts.append(Verdict(backend=name, refused=str(error)))
            continue
        try:
            _check_answers(backend, images, expected)
            ours, theirs = _time(backend, reference, images)
        except ModelError as error:
            verdicts.append(Verdict(backend=name, provider=backend.provider, refused=str(error)))
        else:
            verdicts.append(Verdict(backend=name, provider=backend.provider, ms=ours, reference_ms=theirs))
        finally:
            backend.close()
    reference.close()
    return verdicts


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """How another form of a model does against the model itself; `difference` is empty where both find the same."""

    finite: bool
    difference: str
    speedup: float


def compare(data: bytes, other: bytes, contract: ModelContract, *, threads: int | None) -> Comparison:
    """Runs two forms of one model in ONNX Runtime on the built-in pictures. Raises BackendError if one does not run."""
    images = pictures(contract.width, contract.height)
    reference = open_backend(REFERENCE, data, contract, threads=threads)
    backend = open_backend(REFERENCE, other, contract, threads=threads)
    found = []
    finite = True
    for number, image in enumerate(images, 1):
        rows = backend.run(image)
        finite &= bool(np.isfinite(rows).all())
        difference = differences(reference.run(image), rows)
        if difference:
            found.append(f"picture {number}: {difference}")
    ours, theirs = _time(backend, reference, images)
    backend.close()
    reference.close()
    return Comparison(finite=finite, difference="; ".join(found), speedup=theirs / ours)


def choose(verdicts: Sequence[Verdict]) -> Choice:
    """The fastest backend that passed, if the change is worth it; else ONNX Runtime."""
    best = max(verdicts, key=lambda verdict: verdict.speedup, default=None)
    if best is not None and best.speedup >= WORTH:
        return Choice(backend=best.backend, provider=best.provider, speedup=round(best.speedup, 2))
    reasons = [
        f"{verdict.backend}: {verdict.refused or f'{verdict.speedup:.2f} times as fast'}" for verdict in verdicts
    ]
    return Choice(backend=REFERENCE, provider="", reason="; ".join(reasons) or "nothing else is installed")


def differences(expected: npt.NDArray[np.float32], actual: npt.NDArray[np.float32]) -> str:
    """How two answers [Q,6] of one model to one picture differ, in words; empty if they say the same."""
    if not np.isfinite(actual).all():
        return "numbers that are not finite"
    apart = float(np.abs(np.sort(actual[:, _SCORE]) - np.sort(expected[:, _SCORE])).mean())
    if apart > MEAN_TOLERANCE:
        return f"scores that differ by {apart:.3f} on average"
    for rows, others in ((expected, actual), (actual, expected)):
        for row in rows[rows[:, _SCORE] >= SEEN]:
            alike = others[(others[:, _CLASS] == row[_CLASS]) & (overlap(row, others) >= BOX_OVERLAP)]
            tolerance = SURE_TOLERANCE if row[_SCORE] >= SURE else SEEN_TOLERANCE
            if not (np.abs(alike[:, _SCORE] - row[_SCORE]) <= tolerance).any():
                return f"a detection of score {row[_SCORE]:.2f} that only one of both has"
    return ""


def overlap(row: npt.NDArray[np.float32], others: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Intersection over union of one box with others; 0 for boxes without an area."""
    sides = np.minimum(row[2:4], others[:, 2:4]) - np.maximum(row[:2], others[:, :2])
    shared = sides.clip(0).prod(1)
    union = (others[:, 2:4] - others[:, :2]).clip(0).prod(1) + (row[2:4] - row[:2]).clip(0).prod() - shared
    result: npt.NDArray[np.float32] = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    return result


def _check_answers(
    backend: Backend, images: Sequence[npt.NDArray[np.uint8]], expected: Sequence[npt.NDArray[np.float32]]
) -> None:
    for number, (image, rows) in enumerate(zip(images, expected, strict=True), 1):
        found = differences(rows, backend.run(image))
        if found:
            raise BackendError(f"{backend.provider} gives {found} (picture {number})")


def _time(backend: Backend, reference: Backend, images: Sequence[npt.NDArray[np.uint8]]) -> tuple[float, float]:
    """The fastest run of each in milliseconds, taken in turns: load that comes and goes hits both."""
    begun_s = perf_counter()
    ours: list[float] = []
    theirs: list[float] = []
    for turn in range(ROUNDS):
        image = images[turn % len(images)]
        for runner, times in ((backend, ours), (reference, theirs)):
            start_s = perf_counter()
            runner.run(image)
            times.append((perf_counter() - start_s) * 1000)
        if perf_counter() - begun_s > MOST_SECONDS:
            break
    return min(ours), min(theirs)


def main() -> int:
    """Checks the model of the arguments, stores the choice, prints all verdicts as JSON. 0 if there is a choice."""
    parser = argparse.ArgumentParser(description="Compare the backends on one model and choose one.")
    parser.add_argument("--model", type=Path, required=True, help="a baked model")
    parser.add_argument("--sha256", required=True, help="of that file")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--cache", type=Path, required=True, help="the folder of models, where the choice is kept")
    parser.add_argument("--parent", type=int)
    arguments = parser.parse_args()
    _step_back()
    become_service("selfcheck", parent=arguments.parent)
    try:
        contract, data = load_baked(arguments.model)
        if contract.sha256 != arguments.sha256:
            raise ModelRefusedError(f"{arguments.model} is not the model that runs")
        verdicts = check(candidates(), data, contract, threads=arguments.threads, cache=arguments.cache)
    except ModelError as error:
        sys.stderr.write(f"self-check: {error}\n")
        return 1
    choice = choose(verdicts)
    Choices(arguments.cache).put(key_of(contract.sha256, arguments.threads), choice)
    sys.stdout.write(json.dumps([asdict(verdict) for verdict in verdicts]) + "\n")
    return 0


def _step_back() -> None:
    """Lowest priority for the processor, first to go where memory is short."""
    os.nice(19)
    Path("/proc/self/oom_score_adj").write_text("1000\n", encoding="ascii")


if __name__ == "__main__":
    raise SystemExit(main())
