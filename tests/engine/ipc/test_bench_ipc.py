"""The benchmark runs and keeps its contract; the figures themselves are for quiet machines."""

from __future__ import annotations

import pytest

from detr_sentry.bench import ipc


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_bench_ipc_keeps_its_contract() -> None:
    result = ipc.measure(quick=True)

    counts = {"0", "1", "5", "20", "100"}
    assert result["leased_reads"] >= 20_000
    assert 0 == result["torn"]
    assert result["control_torn"] > 0
    assert result["single_slot_model"]["torn"] > 0
    assert result["kills"] > 0
    for key in ("publish_us", "lease_us"):
        assert 0 < result[key]["p50"] <= result[key]["p99"]
    for key in ("detections_write_ns", "detections_read_ns", "detections_roundtrip_ns"):
        assert counts == result[key].keys()
        assert all(value > 0 for value in result[key].values())
    assert result["memcpy_frame_us"] > 0
    assert all({"value", "limit", "met"} == budget.keys() for budget in result["budgets"].values())
