"""`detr-sentry bench`: measures speed against the design's budgets."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detr_sentry.provenance import provenance, write_result

if TYPE_CHECKING:
    import argparse

    from detr_sentry.settings import Settings

BENCHMARKS = {
    "ipc": "shared memory: torn reads, publish, lease, detections",
    "inference": "a model's time in every backend, and the engine's work before and after it",
    "pipeline": "engine CPU per 1080p frame against decode, two copies and re-encode",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `bench`."""
    listing = "; ".join(f"{name}: {text}" for name, text in BENCHMARKS.items())
    parser.add_argument("benchmark", choices=("all", *BENCHMARKS), help=listing)
    parser.add_argument("--json", action="store_true", help="print JSON only")
    parser.add_argument("--quick", action="store_true", help="fewer rounds: shows that it works, not how fast it is")
    parser.add_argument("--output", type=Path, metavar="DIR", help="also write DIR/<benchmark>.json")


def run(arguments: argparse.Namespace, _settings: Settings) -> int:
    """Run the chosen benchmarks one after the other; status 1 if one misses its budget."""
    names = BENCHMARKS if arguments.benchmark == "all" else (arguments.benchmark,)
    well = True
    for name in names:
        result = import_module(f"detr_sentry.bench.{name}").measure(quick=arguments.quick)
        well &= all(budget["met"] for budget in result.get("budgets", {}).values())
        result = {"benchmark": name, **provenance(), "quick": arguments.quick, **result}
        if arguments.output:
            write_result(arguments.output / f"{name}.json", result)
        print(json.dumps(result, indent=2) if arguments.json else table(result))
    return int(not well)


def table(result: dict[str, Any]) -> str:
    """A result for people: every figure on a line, then the budgets and whether they are met."""
    lines = [f"{result['benchmark']} ({result['date']}, {result['machine']['processor']})"]
    lines += [f"  {key:<44} {value}" for key, value in _figures(result)]
    for name, budget in result.get("budgets", {}).items():
        mark = "met   " if budget["met"] else "MISSED"
        lines.append(f"  {mark} {name}: {budget['value']} (budget {budget['limit']})")
    return "\n".join(lines)


def _figures(node: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for key, value in node.items():
        if key in {"benchmark", "date", "command", "machine", "budgets", "quick"} and not prefix:
            continue
        if isinstance(value, dict):
            rows += _figures(value, f"{prefix}{key}.")
        else:
            rows.append((f"{prefix}{key}", f"{value:.3f}" if isinstance(value, float) else str(value)))
    return rows
