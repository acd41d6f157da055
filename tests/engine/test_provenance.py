from __future__ import annotations

import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from detr_sentry.provenance import provenance, write_result


def test_a_result_says_when_where_and_by_which_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["/usr/bin/x", "eval", "my photos", "--json"])

    found = provenance()

    assert "detr-sentry eval 'my photos' --json" == found["command"]
    assert abs(datetime.now(UTC) - datetime.fromisoformat(found["date"])) < timedelta(minutes=5)
    assert len(os.sched_getaffinity(0)) == found["machine"]["cores"]
    assert found["machine"]["processor"]


def test_a_result_file_is_json_in_a_folder_that_is_made(tmp_path: Path) -> None:
    write_result(tmp_path / "a" / "b.json", {"ap": 0.5})

    assert {"ap": 0.5} == json.loads((tmp_path / "a" / "b.json").read_text())
