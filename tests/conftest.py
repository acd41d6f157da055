"""Fixtures that every test may use."""

from __future__ import annotations

import os
from pathlib import Path

import hypothesis
import pytest

# A loaded machine is slow, and a test must not fail for that: time belongs in benchmarks.
hypothesis.settings.register_profile(
    "detr_sentry", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("detr_sentry")

REPOSITORY = Path(__file__).resolve().parents[1]


def find_shared() -> Path | None:
    """The folder of test clips, photos and real models beside the checkout, if this machine has it."""
    candidate = Path(os.environ.get("DETR_SENTRY_TEST_DATA", REPOSITORY.parent / "shared"))
    return candidate if (candidate / "models").is_dir() else None


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout."""
    return REPOSITORY


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """Test data beside the checkout; the test is skipped where it is absent."""
    found = find_shared()
    if found is None:
        pytest.skip("no test data: set DETR_SENTRY_TEST_DATA to a folder with models/, media/ and persondata/")
    return found
