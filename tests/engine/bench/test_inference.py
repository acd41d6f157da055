from __future__ import annotations

import pytest

from detr_sentry.bench import inference, rfdetr_shape
from detr_sentry.inference.backends import candidates


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_the_result_keeps_the_contract(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rfdetr_shape, "SHAPES", {"rfdetr-nano-shaped": rfdetr_shape.Shape(64, 1, queries=8)})
    result = inference.measure(quick=True)

    assert {"embedded", "rfdetr-nano-shaped"} <= result["models"].keys()
    for backends in result["models"].values():
        assert {"onnxruntime", *(name.removesuffix(":CPU") for name in candidates())} <= backends.keys()
        assert backends["onnxruntime"]["ratio"] == 1.0
        for figures in backends.values():
            assert 0 < figures["min_ms"] <= figures["p50_ms"] <= figures["p95_ms"] <= figures["p99_ms"]
            assert figures["provider"]
    assert "onnxruntime-int8" in result["models"]["rfdetr-nano-shaped"]
    assert {"mjpeg_ms", "yuyv_ms", "i420_ms", "rgb24_ms", "mjpeg_gate_ms"} == result["preprocess"].keys()
    assert result["postprocess_us"].keys() == {"0", "5", "100"}


def test_the_shape_is_that_of_the_exports() -> None:
    nano = rfdetr_shape.build(rfdetr_shape.SHAPES["rfdetr-nano-shaped"])

    assert rfdetr_shape.parameters(nano) == pytest.approx(28.1e6, rel=0.06)  # an official export has 112.4 MB
    assert [tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim) for value in nano.graph.output] == [
        (1, 300, 4),
        (1, 300, 91),
    ]


@pytest.mark.parametrize(
    ("provider", "ratio", "expected"),
    [("OpenVINO CPU BF16", 2.2, True), ("OpenVINO CPU BF16", 1.5, False), ("OpenVINO CPU FP32", 1.1, None)],
)
def test_the_budget_is_judged_where_the_cpu_has_bf16(provider: str, ratio: float, expected: bool | None) -> None:
    budgets = inference._budgets({"rfdetr-nano-shaped": {"openvino": {"ratio": ratio, "provider": provider}}})

    assert [budget["met"] for budget in budgets.values()] == ([] if expected is None else [expected])
    assert inference._budgets({"rfdetr-nano-shaped": {}}) == {}
