from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

README = "# Title\n\n<!-- eval -->\nold\n<!-- /eval -->\n\n## Measured\n\n<!-- bench -->\n<!-- /bench -->\n\nEnd.\n"
MADE = {
    "date": "2026-11-22T14:35:05+00:00",
    "command": "detr-sentry eval photos",
    "machine": {"processor": "EPYC", "cores": 2, "load_before": 0.5},
}


def a_run(data: str, resize: str, ap: float | None) -> dict[str, Any]:
    return {
        "data": data,
        "model": "deimv2_hgnetv2_atto_coco",
        "backend": "openvino",
        "provider": "OpenVINO CPU BF16",
        "input": [320, 320],
        "resize": resize,
        "images": 332,
        "marks": 1671,
        "person_ap": ap,
        "person_ap50": 0.6274,
    }


def figures(alarms: int) -> dict[str, Any]:
    return {
        "distinct_frames": 10800,
        "hours": 1.0,
        "frames_at_enter_threshold": 7,
        "alarms": alarms,
        "alarms_per_hour": float(alarms),
        "alarms_per_hour_at_most": 4.744,
        "highest_score": 0.61,
    }


RESULTS: dict[str, Any] = {
    "eval": {
        **MADE,
        "runs": [
            a_run("val", "stretch", 0.3391),
            a_run("val", "letterbox", None),
            a_run("night", "stretch", 0.1),
        ],
    },
    "false_alarms": {
        **MADE,
        "false_alarms": [
            {
                "model": "embedded-person",
                "backend": "onnxruntime",
                "provider": "CPU",
                "enter_threshold": 0.5,
                "validation": "3 of 5",
                "confidence": 0.95,
                "assumption": "photos at 3 fps",
                "alarms_by_threshold": {"0.5": 1, "0.6": 0},
                "sources": [{"source": "../shared/yard", **figures(1)}],
                "total": figures(1),
            }
        ],
    },
    "inference": {
        **MADE,
        "models": {
            "nano": {
                "onnxruntime": {"min_ms": 100.0, "p50_ms": 120.04, "provider": "CPU", "ratio": 1.0},
                "onnxruntime-int8": {"min_ms": 50.0, "p50_ms": 60.0, "provider": "CPU", "ratio": 2.0},
            }
        },
        "budgets": {"gain": {"value": 1.72345, "limit": ">= 1.8", "met": False}},
    },
}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "README.md").write_text(README)
    (tmp_path / "results").mkdir()
    for name, result in RESULTS.items():
        (tmp_path / "results" / f"{name}.json").write_text(json.dumps(result))
    return tmp_path


def run(repository: Path, place: Path, *words: str) -> subprocess.CompletedProcess[str]:
    program = [sys.executable, str(repository / "tools" / "readme_tables")]
    places = ["--readme", str(place / "README.md"), "--results", str(place / "results")]
    return subprocess.run([*program, *places, *words], capture_output=True, text=True, check=False)


def test_tables_stand_between_their_markers_and_nothing_else_changes(repository: Path, place: Path) -> None:
    assert 0 == run(repository, place).returncode

    text = (place / "README.md").read_text()
    lines = text.splitlines()
    assert text.startswith(
        "# Title\n\n<!-- eval -->\n| model | input | runs on | resize | val: person AP | val: AP50 |"
    )
    assert text.endswith("<!-- /bench -->\n\nEnd.\n")
    assert "old" not in lines
    assert "| DEIMv2 Atto | 320x320 | OpenVINO CPU BF16 | stretch | 0.339 | 0.627 | 0.100 | 0.627 |" in lines
    assert "| DEIMv2 Atto | 320x320 | OpenVINO CPU BF16 | letterbox | - | 0.627 | - | - |" in lines
    assert "| embedded-person | ONNX Runtime CPU | 10,800 | 1.00 | 7 | **1** | 1.0 | 4.7 |" in lines
    assert "| `yard` | 10,800 | 1, 7, 0.61 |" in lines
    assert "Alarms at a higher `enter_threshold`. embedded-person, ONNX Runtime CPU: 1 at 0.5, 0 at 0.6." in lines
    assert "| inference | gain | 1.72 | >= 1.8 | **no** |" in lines
    assert "| nano | ONNX Runtime CPU INT8 | 50.0 | 60.0 | - | - | 2.00x |" in lines
    assert "val: 332 photos, 1,671 people" in text
    assert "2026-11-22, EPYC, 2 cores, load 0.5 at the start: `detr-sentry eval photos`" in text


def test_files_of_one_kind_are_one_table(repository: Path, place: Path) -> None:
    others = {**MADE, "command": "detr-sentry eval other", "runs": [a_run("val", "area", 0.25)]}
    (place / "results" / "eval_other.json").write_text(json.dumps(others))
    judged = {**RESULTS["false_alarms"]["false_alarms"][0], "model": "second", "sources": []}
    (place / "results" / "false_alarms_other.json").write_text(json.dumps({**MADE, "false_alarms": [judged]}))

    assert 0 == run(repository, place).returncode

    lines = (place / "README.md").read_text().splitlines()
    assert "| DEIMv2 Atto | 320x320 | OpenVINO CPU BF16 | area | 0.250 | 0.627 | - | - |" in lines
    assert "* 2026-11-22, EPYC, 2 cores, load 0.5 at the start: `detr-sentry eval other`" in lines
    assert "| `yard` | 10,800 | 1, 7, 0.61 | not run |" in lines


def test_check_tells_fresh_from_stale_and_changes_nothing(repository: Path, place: Path) -> None:
    stale = run(repository, place, "--check")

    assert 1 == stale.returncode
    assert "stale: run tools/readme_tables" in stale.stderr
    assert README == (place / "README.md").read_text()
    run(repository, place)
    assert 0 == run(repository, place, "--check").returncode
    (place / "results" / "eval.json").unlink()
    assert 1 == run(repository, place, "--check").returncode


def test_absent_results_leave_empty_markers_and_half_a_marker_is_an_error(repository: Path, place: Path) -> None:
    for path in (place / "results").iterdir():
        path.unlink()
    assert 0 == run(repository, place).returncode
    assert README.replace("old\n", "") == (place / "README.md").read_text()

    (place / "README.md").write_text(README.replace("<!-- /eval -->", ""))
    broken = run(repository, place)

    assert 1 == broken.returncode
    assert "must stand in the README once each" in broken.stderr
