"""Schemathesis against the live gateway: never a 5xx, and every answer as schemas/openapi.yaml says."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.engine.gateway.conftest import Running

CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"


@pytest.mark.slow
@pytest.mark.timeout(180)
async def test_no_request_of_the_description_breaks_the_gateway(
    running: Running, repository: Path, tmp_path: Path
) -> None:
    command = [
        str(Path(sys.executable).with_name("schemathesis")),
        "run",
        str(repository / "schemas" / "openapi.yaml"),
        f"--url={running.url}",
        f"--checks={CHECKS}",
        "--phases=examples,coverage,fuzzing",
        "--max-examples=10",
        "--request-timeout=5",
        "--seed=1",
        "--continue-on-failure",
        "--warnings=off",
        # An endless answer has no end to check; its parameters are those of the WebSocket, which is fuzzed.
        "--exclude-path-regex=stream\\.mjpeg$",
    ]
    with running.engine.feeding(5):
        process = await asyncio.create_subprocess_exec(
            *command, cwd=tmp_path, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
        )
        output, _ = await process.communicate()
    statuses = running.gateway.counters.requests

    assert 0 == process.returncode, output.decode()[-6000:]
    assert sum(statuses.values()) >= 200
    assert [] == [status for status in statuses if status >= 500]
    assert {200, 404, 422} <= set(statuses)
