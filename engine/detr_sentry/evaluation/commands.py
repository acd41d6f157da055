# ruff: noqa: T201 -- a command prints
"""`detr-sentry eval`: accuracy on marked photos and false alarms where nobody is, for each model and backend named."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detr_sentry.errors import ModelError
from detr_sentry.evaluation.accuracy import RESIZES, evaluate, read_data_set, require_pycocotools
from detr_sentry.evaluation.empties import open_empty
from detr_sentry.evaluation.false_alarms import CONFIDENCE, FalseAlarms
from detr_sentry.inference.model import open_detector
from detr_sentry.models.progress import Progress
from detr_sentry.provenance import provenance, write_result
from detr_sentry.settings import CameraSettings, SentrySettings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from detr_sentry.evaluation.accuracy import DataSet
    from detr_sentry.evaluation.empties import EmptySource
    from detr_sentry.settings import Settings

_FLOOR = 0.01
"""Scores below are nothing that a highest score on an empty scene is worth telling."""

_ACCURACY = {
    "data": "data",
    "model": "model",
    "backend": "backend",
    "provider": "runs on",
    "resize": "resize",
    "images": "photos",
    "ap": "AP",
    "ap50": "AP50",
    "person_ap": "person AP",
    "person_ap50": "person AP50",
}
_ALARMS = {
    "source": "nobody there",
    "distinct_frames": "frames",
    "hours": "hours",
    "frames_at_enter_threshold": "believed",
    "alarms": "alarms",
    "alarms_per_hour": "per hour",
    "highest_score": "highest",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `eval`."""
    parser.add_argument(
        "folders", nargs="*", metavar="FOLDER[#SPLIT]", help="folder with annotations.json (COCO) and images/"
    )
    parser.add_argument("--annotations", type=Path, help="COCO annotations, instead of a folder")
    parser.add_argument("--images", type=Path, help="folder of the photos, with --annotations")
    for flag, text in (
        ("--model", "embedded, a catalogue name or a file (the model of the settings)"),
        ("--backend", "the backend (that of the settings)"),
        ("--resize", f"how photos become the model's input: {', '.join(RESIZES)} (stretch)"),
    ):
        parser.add_argument(
            flag, type=_names, action="extend", default=[], metavar="NAME[,NAME]", help=f"{text}; repeatable"
        )
    parser.add_argument("--split", help="only images whose `split` is this, in data sets that say so")
    parser.add_argument("--limit", type=int, help="only the first so many images")
    parser.add_argument(
        "--empty",
        action="append",
        default=[],
        metavar="SOURCE",
        help="count false alarms where nobody is: a folder of photos, a clip (CLIP#0-6.1,19-22 in seconds, or with its "
        "truth CLIP.json beside it) or demo:?seed=1000-1019; repeatable",
    )
    parser.add_argument(
        "--threshold", type=float, help=f"score that starts an alarm ({SentrySettings().enter_threshold:g})"
    )
    parser.add_argument("--keep", type=Path, metavar="DIR", help="keep the empty frames that reach the threshold")
    parser.add_argument("--output", type=Path, metavar="FILE", help="also write the JSON to FILE")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace, settings: Settings) -> int:
    """Evaluates and prints; raises ModelError's kinds, SettingsError and SourceError."""
    data_sets = _data_sets(arguments)
    rules = _rules(arguments.threshold)
    standby_fps = CameraSettings(id="eval", source="demo:").standby_fps
    empties = [open_empty(text, standby_fps=standby_fps) for text in arguments.empty]
    if not data_sets and not empties:
        raise ModelError("name a folder with annotations.json and images/, --annotations with --images, or --empty")
    unknown = sorted(set(arguments.resize) - set(RESIZES))
    if unknown:
        raise ModelError(f"resize rule {unknown[0]!r} is not known; there is {', '.join(RESIZES)}")
    origin = provenance()
    variants = [
        dataclasses.replace(settings, model=dataclasses.replace(settings.model, name=model, backend=backend))
        for model, backend in product(
            arguments.model or [settings.model.name], arguments.backend or [settings.model.backend]
        )
    ]
    runs = [
        _accuracy(variant, data, resize)
        for data, variant, resize in product(data_sets, variants, arguments.resize or ["stretch"])
    ]
    alarms = [_false_alarms(variant, empties, rules, standby_fps, arguments.keep) for variant in variants if empties]
    result = {**origin, **(runs[0] if len(runs) == 1 else {}), "runs": runs, "false_alarms": alarms}
    if arguments.output:
        write_result(arguments.output, result)
    print(json.dumps(result, indent=2) if arguments.json else _tables(runs, alarms))
    return 0


def _names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    if not all(names):
        raise argparse.ArgumentTypeError(f"{text!r} holds an empty name")
    return names


def _data_sets(arguments: argparse.Namespace) -> list[DataSet]:
    if bool(arguments.annotations) != bool(arguments.images):
        raise ModelError("--annotations and --images go together")
    places = [
        (Path(folder) / "annotations.json", Path(folder) / "images", split or arguments.split)
        for folder, _, split in (text.partition("#") for text in arguments.folders)
    ]
    if arguments.annotations:
        places.append((arguments.annotations, arguments.images, arguments.split))
    if places:
        require_pycocotools()
    return [
        read_data_set(annotations, images, split=split, limit=arguments.limit) for annotations, images, split in places
    ]


def _rules(threshold: float | None) -> SentrySettings:
    rules = SentrySettings()
    if threshold is None:
        return rules
    if not 0 < threshold <= 1:
        raise ModelError(f"--threshold {threshold:g} is not above 0 and at most 1")
    return dataclasses.replace(rules, enter_threshold=threshold, stay_threshold=min(rules.stay_threshold, threshold))


def _accuracy(settings: Settings, data: DataSet, resize: str) -> dict[str, Any]:
    label = f"{settings.model.name} {settings.model.backend} {resize} on {data.name}"
    with Progress(label, len(data.photos), sys.stderr, unit="photos") as progress:
        return evaluate(settings, data, resize=resize, progress=progress.update)


def _false_alarms(
    settings: Settings,
    empties: Sequence[EmptySource],
    rules: SentrySettings,
    standby_fps: float,
    keep: Path | None,
) -> dict[str, Any]:
    model = dataclasses.replace(settings.model, labels=("person",))
    detector, _ = open_detector(model, settings.state_dir, floor=_FLOOR)
    label = f"{settings.model.name} {settings.model.backend} where nobody is"
    try:
        with Progress(label, sum(source.frames for source in empties), sys.stderr, unit="frames") as progress:
            judge = FalseAlarms(detector, rules, standby_fps=standby_fps, keep=keep)
            return judge.count(empties, progress.update)
    finally:
        detector.backend.close()


def _tables(runs: Sequence[dict[str, Any]], alarms: Sequence[dict[str, Any]]) -> str:
    parts = []
    if runs:
        parts.append(_table(_ACCURACY, runs))
    for found in alarms:
        rows = [*found["sources"], {**found["total"], "source": "all"}]
        most = found["total"]["alarms_per_hour_at_most"]
        parts.append(
            f"{found['model']}, {found['backend']} ({found['provider']}), "
            f"score >= {found['enter_threshold']:g} in {found['validation']}\n"
            f"{_table(_ALARMS, rows)}\n"
            f"alarms at a higher threshold: {_pairs(found['alarms_by_threshold'])}\n"
            f"{found['assumption']}.\n"
            f"With {CONFIDENCE:.0%} confidence at most {most} alarms an hour on such scenes."
        )
    return "\n\n".join(parts)


def _pairs(figures: dict[str, int]) -> str:
    return ", ".join(f"{name}: {value}" for name, value in figures.items())


def _table(columns: dict[str, str], rows: Sequence[dict[str, Any]]) -> str:
    lines = [list(columns.values()), *([_cell(row[key]) for key in columns] for row in rows)]
    widths = [max(len(line[place]) for line in lines) for place in range(len(columns))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4f}" if isinstance(value, float) else str(value)
