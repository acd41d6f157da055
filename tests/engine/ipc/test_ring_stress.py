"""Nothing tears while writers and readers are killed at random; without leases it does."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

PROGRAM = Path(__file__).with_name("stress.py")


def run(*arguments: str) -> dict[str, Any]:
    """In a process of its own: it forks, and pytest has threads and open files."""
    done = subprocess.run(
        [sys.executable, str(PROGRAM), *arguments], capture_output=True, text=True, timeout=110, check=False
    )

    assert 0 == done.returncode, done.stdout + done.stderr

    result: dict[str, Any] = json.loads(done.stdout)
    return result


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_no_read_is_torn_while_everything_is_killed() -> None:
    result = run("--reads", "30000", "--most-seconds", "100")

    assert 0 == result["torn"]
    assert result["leased_reads"] >= 20_000
    assert result["kills"] > 0


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_the_same_readers_without_leases_see_torn_slots() -> None:
    result = run("--control", "--reads", "1000", "--most-seconds", "100")

    assert result["torn"] > 0
