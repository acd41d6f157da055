from __future__ import annotations

import json
import logging

import pytest

from detr_sentry.settings import LogSettings
from detr_sentry.telemetry import HumanFormatter, JsonFormatter, configure_logging


def record(message: str, level: int = logging.INFO, *, error: BaseException | None = None) -> logging.LogRecord:
    details = (type(error), error, error.__traceback__) if error else None
    return logging.LogRecord("detr_sentry.capture", level, "file", 1, message, (), details)


def test_json_is_one_line_whatever_the_message_holds() -> None:
    line = JsonFormatter("capture.door").format(record('a\n"b"\x1b[31m'))

    assert "\n" not in line
    assert "\x1b" not in line
    assert json.loads(line)["message"] == 'a\n"b"\x1b[31m'
    assert json.loads(line)["service"] == "capture.door"


def test_json_carries_the_traceback() -> None:
    entry = json.loads(JsonFormatter("x").format(record("failed", logging.ERROR, error=ValueError("why"))))

    assert entry["level"] == "error"
    assert "ValueError: why" in entry["exception"]


def test_people_see_the_level_only_where_it_matters() -> None:
    formatter = HumanFormatter("capture.door", colour=False)

    assert formatter.format(record("hello")).endswith("capture.door   hello")
    assert "WARNING  hello" in formatter.format(record("hello", logging.WARNING))
    assert "ValueError: why" in formatter.format(record("x", logging.ERROR, error=ValueError("why")))


def test_colour_is_for_terminals() -> None:
    assert "\033[33m" in HumanFormatter("x", colour=True).format(record("y", logging.WARNING))
    assert "\033[" not in HumanFormatter("x", colour=True).format(record("y"))


@pytest.mark.parametrize(
    ("service", "expected"),
    [("inference", logging.WARNING), ("capture.door", logging.DEBUG), ("gateway", logging.ERROR)],
)
def test_levels_by_service(service: str, expected: int) -> None:
    root, own = logging.getLogger(), logging.getLogger("detr_sentry")
    before = root.handlers[:], root.level, own.level
    try:
        configure_logging(LogSettings(level="error", services={"inference": "warning", "capture": "debug"}), service)

        assert own.level == expected
    finally:
        root.handlers[:], root.level, own.level = before


def test_json_format_is_chosen_by_setting(capsys: pytest.CaptureFixture[str]) -> None:
    root, own = logging.getLogger(), logging.getLogger("detr_sentry")
    before = root.handlers[:], root.level, own.level
    try:
        configure_logging(LogSettings(format="json"), "gateway")
        logging.getLogger("detr_sentry.gateway").info("ready")

        assert json.loads(capsys.readouterr().err)["message"] == "ready"
    finally:
        root.handlers[:], root.level, own.level = before
