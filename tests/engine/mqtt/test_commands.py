"""Commands by MQTT: what is meant is done, everything else changes nothing and floods no log."""

from __future__ import annotations

import asyncio
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detr_sentry.controller.mode_command import MAX_BYTES, ModeCommand, parse_command
from detr_sentry.controller.modes import MAX_DURATION_S
from detr_sentry.errors import ControlError
from detr_sentry.sentry.events import Mode
from tests.engine.controller.conftest import Place, eventually

from .broker import Broker, Ear, check_payload
from .conftest import Told, mqtt_to

RUBBISH = [
    b"",
    b"OFF",
    b" off",
    b"off\n",
    b"\xff\xfe\xfd",
    b"\x00" * 20,
    b"null",
    b"[]",
    b"{}",
    b'{"mode": null}',
    b'{"mode": ["off"]}',
    b'{"mode": "off", "duration": NaN}',
    b'{"mode": "off", "duration": Infinity}',
    b'{"mode": "off", "duration": 1e999}',
    b'{"mode": "off", "duration": 0}',
    b'{"mode": "off", "duration": true}',
    b'{"mode": "off", "duration": "60"}',
    b'{"mode": "off", "duration": 1' + b"0" * 400 + b"}",
    b'{"mode": "off", "camera": "door"}',
    b'{"mode": "auto", "mode": "off"}',
    b'{"mode": "off"',
    b'{"mode":' + b"[" * 250,
    b'{"a":' * 100 + b"1" + b"}" * 100,
    b'{"mode": "off", "duration": 60}' + b" " * MAX_BYTES,
]


@pytest.mark.parametrize("payload", RUBBISH)
def test_rubbish_is_refused_without_being_repeated(payload: bytes) -> None:
    with pytest.raises(ControlError) as caught:
        parse_command(payload)

    assert "invalid" == caught.value.code
    assert str(caught.value).isascii()


@pytest.mark.parametrize("mode", list(Mode))
def test_a_mode_is_a_word_or_a_document(mode: Mode) -> None:
    word = mode.value.encode()

    assert ModeCommand(mode=mode) == parse_command(word)
    assert ModeCommand(mode=mode) == parse_command(json.dumps({"mode": mode, "duration": None}).encode())
    timed = json.dumps({"mode": mode, "duration": MAX_DURATION_S}).encode()

    assert ModeCommand(mode=mode, duration_s=MAX_DURATION_S) == parse_command(timed)


@given(
    st.one_of(
        st.binary(max_size=600),
        st.text(max_size=200).map(str.encode),
        st.recursive(
            st.none() | st.booleans() | st.floats() | st.integers() | st.sampled_from([*Mode, "x"]),
            lambda below: (
                st.lists(below, max_size=3) | st.dictionaries(st.sampled_from(["mode", "duration", "x"]), below)
            ),
        ).map(lambda document: json.dumps(document).encode()),
    )
)
def test_a_command_is_taken_only_if_the_schema_takes_it(payload: bytes) -> None:
    try:
        command = parse_command(payload)
    except ControlError as error:
        assert "invalid" == error.code
        return

    text = payload.decode()
    document = text if text in set(Mode) else json.loads(text)
    check_payload("detr_sentry/main/door/mode/set", json.dumps(document).encode())
    assert command.duration_s is None or 1 <= command.duration_s <= MAX_DURATION_S


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
async def test_rubbish_on_a_real_broker_changes_nothing_and_floods_no_log(
    place: Place, told: Told, broker: Broker, caplog: pytest.LogCaptureFixture, protocol: str
) -> None:
    instance = place.settings.instance
    topic = f"detr_sentry/{instance}/door/mode/set"
    async with Ear(broker.port) as ear:
        output = await told.start(mqtt_to(broker.port, protocol=protocol))
        await eventually(lambda: ear.last("door/state"))
        for payload in (*RUBBISH * 4, b"x" * (1 << 20)):
            await ear.say(topic, payload)
        await ear.say(f"detr_sentry/{instance}/nobody/mode/set", "off")
        await eventually(lambda: output.status()["commands_refused"] >= 4 * len(RUBBISH) + 1)
        await ear.say(topic, json.dumps({"mode": "alarmed", "duration": 100}))
        await eventually(lambda: ear.json("door/state")["mode"] == "alarmed")
        modes = [json.loads(payload)["mode"] for payload in ear.of("door/state")]

    assert ["auto", "alarmed"] == list(dict.fromkeys(modes))
    assert 1 == caplog.text.count("a command is ignored")
    assert 1 == caplog.text.count("not in the settings")
    assert len(caplog.text) < 20_000


async def test_a_retained_command_is_ignored_with_a_warning(
    place: Place, told: Told, broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    topic = f"detr_sentry/{place.settings.instance}/door/mode/set"
    async with Ear(broker.port) as ear:
        await ear.say(topic, "off", retain=True)
        output = await told.start(mqtt_to(broker.port))
        await eventually(lambda: "a retained command is ignored" in caplog.text)
        await ear.say(topic, "standby", retain=True)  # also while we listen
        await eventually(lambda: output.status()["commands_refused"] == 2)
        await ear.say(topic, b"", retain=True)
        await asyncio.sleep(0.5)

        assert {"auto"} == {json.loads(payload)["mode"] for payload in ear.of("door/state")}
        assert 2 == output.status()["commands_refused"]


async def test_a_mode_that_cannot_be_stored_is_refused(
    place: Place, told: Told, broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    topic = f"detr_sentry/{place.settings.instance}/door/mode/set"
    async with Ear(broker.port) as ear:
        output = await told.start(mqtt_to(broker.port))
        await eventually(lambda: ear.last("door/state"))
        (place.settings.state_dir / ".mode.json.new").mkdir()
        await ear.say(topic, "off")
        await eventually(lambda: output.status()["commands_refused"] == 1)

        assert "door: mode off is refused" in caplog.text
        assert "auto" == ear.json("door/state")["mode"]
        (place.settings.state_dir / ".mode.json.new").rmdir()
