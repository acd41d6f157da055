from __future__ import annotations

from pathlib import Path

import pytest
import simplejpeg

from detr_sentry.bench import pipeline


@pytest.mark.slow
def test_the_result_keeps_the_contract_and_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "ROUND", 4)
    result = pipeline.measure(quick=True)

    assert list(Path("/dev/shm").glob("bench-*")) == []
    for part in ("mixed", "every_frame"):
        figures = result[part]
        assert figures.keys() == {"cpu_ms_per_frame", "reference_flow_cpu_ms_per_frame", "ratio"}
        assert 0 < figures["cpu_ms_per_frame"] < figures["reference_flow_cpu_ms_per_frame"]
        assert result["budgets"][part]["value"] == figures["ratio"]
    assert result["pass_through_cpu_ms_per_frame"] < result["mixed"]["cpu_ms_per_frame"]


def test_the_frames_are_what_a_webcam_sends() -> None:
    (first, second) = pipeline.make_frames(2)

    assert first != second
    assert simplejpeg.decode_jpeg_header(first) == (1080, 1920, "YCbCr", "422")
    assert 0.6 * pipeline.FRAME_BYTES < len(first) < 1.2 * pipeline.FRAME_BYTES
