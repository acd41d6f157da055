from __future__ import annotations

import math
from typing import Any

import pytest

from detr_sentry import __version__
from detr_sentry.controller.commands import Commands
from detr_sentry.errors import ControlError

from .conftest import Place, Runner, eventually


@pytest.fixture
async def commands(place: Place, runner: Runner) -> Commands:
    controller = await runner.start()
    await eventually(lambda: controller.recorder._history.is_open)
    return Commands(controller)


@pytest.mark.parametrize(
    ("op", "arguments", "code", "text"),
    [
        ("explode", {}, "unknown_op", "known: ping"),
        ("ping", {"loud": True}, "invalid", "loud: unknown; known: nothing"),
        ("get_state", {"camera": "yard"}, "unknown_camera", "known: door"),
        ("get_state", {"camera": ["door"]}, "unknown_camera", "known: door"),
        ("get_state", {"kamera": "door"}, "invalid", "known: camera"),
        ("set_mode", {}, "unknown_camera", "None"),
        ("set_mode", {"camera": "door"}, "invalid", "auto, standby, alarmed, off"),
        ("set_mode", {"camera": "door", "mode": "OFF"}, "invalid", "mode"),
        ("set_mode", {"camera": "door", "mode": {}}, "invalid", "mode"),
        ("set_mode", {"camera": "door", "mode": "off", "duration_s": 0}, "invalid", "duration"),
        ("set_mode", {"camera": "door", "mode": "off", "duration_s": "60"}, "invalid", "duration"),
        ("set_mode", {"camera": "door", "mode": "off", "duration_s": True}, "invalid", "duration"),
        ("set_mode", {"camera": "door", "mode": "off", "duration_s": math.inf}, "invalid", "duration"),
        ("set_mode", {"camera": "door", "mode": "off", "duration_s": 10**9}, "invalid", "duration"),
        ("list_events", {"limit": 0}, "invalid", "limit"),
        ("list_events", {"limit": 501}, "invalid", "limit"),
        ("list_events", {"limit": 1.5}, "invalid", "limit"),
        ("list_events", {"limit": "all"}, "invalid", "limit"),
        ("list_events", {"before": 5}, "invalid", "before"),
        ("list_events", {"before": "NONE"}, "unknown_event", "NONE"),
        ("list_events", {"camera": "yard"}, "unknown_camera", "yard"),
        ("get_event", {}, "invalid", "event_id"),
        ("get_event", {"event_id": ""}, "invalid", "event_id"),
        ("get_event", {"event_id": "x" * 200}, "invalid", "event_id"),
        ("get_event", {"event_id": "NONE"}, "unknown_event", "NONE"),
        ("set_companion", {"ha_instance": 5, "replace_mqtt_entities": True}, "invalid", "ha_instance"),
        ("set_companion", {"ha_instance": "a\n", "replace_mqtt_entities": True}, "invalid", "ha_instance"),
        ("set_companion", {"ha_instance": "a", "replace_mqtt_entities": 1}, "invalid", "replace_mqtt_entities"),
    ],
)
async def test_wrong_requests_are_refused_with_a_code(
    commands: Commands, op: str, arguments: dict[str, Any], code: str, text: str
) -> None:
    with pytest.raises(ControlError) as caught:
        await commands(op, arguments)

    assert code == caught.value.code
    assert text in str(caught.value)


async def test_right_requests(commands: Commands) -> None:
    assert {"service": "controller", "version": __version__} == await commands("ping", {})
    assert {"events": []} == await commands("list_events", {"limit": 500.0, "camera": "door"})

    report = await commands("set_mode", {"camera": "door", "mode": "standby", "duration_s": 0.5})

    assert {"cameras": [report]} == await commands("get_state", {})
    assert report == await commands("get_state", {"camera": "door"})
    assert {
        "id",
        "name",
        "state",
        "mode",
        "mode_until",
        "blind",
        "problem",
        "person",
        "count",
        "since",
        "last_seen",
        "last_event_id",
        "event_id",
        "capture_fps",
    } == set(report)


async def test_a_closed_history_is_a_storage_error(place: Place, commands: Commands) -> None:
    recorder = commands._engine.recorder
    await recorder._call(recorder._history.close)
    with pytest.raises(ControlError) as caught:
        await commands("list_events", {})

    assert caught.value.code == "storage"
