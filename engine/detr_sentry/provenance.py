"""Where a result file comes from: date, machine and command, so that a number can be judged and measured again."""

from __future__ import annotations

import json
import os
import platform
import shlex
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


def provenance() -> dict[str, Any]:
    """What goes ahead of the figures of a result file: `date`, `command` and `machine`."""
    model = next(
        (line.split(":", 1)[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")),
        platform.processor() or platform.machine(),
    )
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join(["detr-sentry", *sys.argv[1:]]),
        "machine": {
            "processor": model,
            "cores": len(os.sched_getaffinity(0)),
            "load_before": round(os.getloadavg()[0], 2),
            "kernel": platform.release(),
            "python": platform.python_version(),
        },
    }


def write_result(path: Path, result: Mapping[str, Any]) -> None:
    """Writes a result file, making its folder where it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
