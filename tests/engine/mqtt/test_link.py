"""The line to the broker: refused, lost, frozen, flapping, and well again."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import logging
import shutil
import ssl
import subprocess
import tempfile
import time
from pathlib import Path

import aiomqtt
import pytest
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.reasoncodes import ReasonCode

from detr_sentry.controller import mqtt
from detr_sentry.controller.mqtt import LinkState
from detr_sentry.controller.mqtt_output import MqttOutput
from detr_sentry.controller.outbox import MAX_EVENTS
from detr_sentry.settings import MqttTlsSettings
from tests.engine.controller.conftest import Place, SentryReader, end_alarm, eventually, raise_alarm

from .broker import PASSWORD, USER, Broker, Ear, Line, free_port
from .conftest import MakeBroker, Told, mqtt_to


def is_refused(output: MqttOutput) -> bool:
    return output.link.state is LinkState.REFUSED


async def test_a_wrong_password_is_named_and_tried_again_slowly(
    place: Place, told: Told, sentry: SentryReader, broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    output = await told.start(mqtt_to(broker.port, password="no"))
    await eventually(lambda: output.link.state is LinkState.REFUSED)

    assert "refuses user engine: check mqtt.username, mqtt.password" in (output.link.error or "")
    assert "trying again in" in caplog.text
    assert float(caplog.text.partition("trying again in ")[2].partition(" s")[0]) > 40

    await raise_alarm(place, sentry)  # detection does not mind
    assert output.status()["connections"] == 0


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
async def test_nobody_comes_in_without_a_name(told: Told, broker: Broker, protocol: str) -> None:
    output = await told.start(mqtt_to(broker.port, username=None, password=None, protocol=protocol))
    await eventually(lambda: output.link.state is LinkState.REFUSED)

    assert "a client without user name" in (output.link.error or "")


async def test_what_the_access_list_denies_is_named_and_the_rest_goes_on(
    place: Place, told: Told, make_broker: MakeBroker, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mqtt, "ASK_AGAIN_S", 1.0)
    broker = make_broker(acl="user engine\ntopic readwrite detr_sentry/#\ntopic read homeassistant/status")
    async with Ear(broker.port) as ear:
        output = await told.start(mqtt_to(broker.port))
        await eventually(lambda: ear.last("/availability") == b"online" and ear.last("door/health"))
        await eventually(lambda: output.link.refused.total)

        assert None is ear.last("_door/config")
        assert "user engine may not write homeassistant/device/" in caplog.text
        assert "access list (ACL)" in caplog.text
        assert LinkState.CONNECTED is output.link.state

        await eventually(lambda: output.link.refused.total >= 2)  # it is asked again, and only logged once

        assert 1 == caplog.text.count("may not write")


async def test_tls_takes_the_own_authority_and_no_other(
    told: Told, make_broker: MakeBroker, certificates: Path, caplog: pytest.LogCaptureFixture
) -> None:
    broker = make_broker(tls=certificates)
    ours = MqttTlsSettings(enabled=True, ca_file=certificates / "ca.pem")
    context = await asyncio.to_thread(ssl.create_default_context, cafile=str(certificates / "ca.pem"))
    context.check_hostname = False
    async with Ear(broker.port, tls=context) as ear:
        await told.start(mqtt_to(broker.port, host="localhost", tls=ours))
        await eventually(lambda: ear.last("/availability") == b"online")
        await told.stop()
        insecure = MqttTlsSettings(enabled=True, insecure=True)
        output = await told.start(mqtt_to(broker.port, tls=insecure))
        await eventually(lambda: output.link.state is LinkState.CONNECTED)
        await told.stop()
    for host, tls, words in (
        ("localhost", MqttTlsSettings(enabled=True, ca_file=certificates / "other.pem"), "certificate is not trusted"),
        ("127.0.0.1", ours, "certificate is not trusted"),
        ("localhost", MqttTlsSettings(enabled=True, ca_file=certificates / "none.pem"), "none.pem is not there"),
    ):
        output = await told.start(mqtt_to(broker.port, host=host, tls=tls))
        await eventually(functools.partial(is_refused, output))

        assert words in (output.link.error or "")
        await told.stop()


async def test_a_plain_broker_is_not_spoken_to_in_tls(told: Told, broker: Broker) -> None:
    tls = MqttTlsSettings(enabled=True, insecure=True)
    output = await told.start(mqtt_to(broker.port, tls=tls))
    await eventually(lambda: output.link.state is LinkState.LOST and output.link.error)

    assert LinkState.LOST is output.link.state
    assert output.link.error != ""


async def test_a_client_id_that_is_taken_is_named(told: Told, broker: Broker, caplog: pytest.LogCaptureFixture) -> None:
    output = await told.start(mqtt_to(broker.port))
    client_id = output._retained.client_id
    login = mqtt_to(broker.port)

    async def copy_of_the_engine() -> None:
        while True:
            await eventually(lambda: output.link.state is LinkState.CONNECTED, within_s=100)
            with contextlib.suppress(aiomqtt.MqttError):
                async with aiomqtt.Client(
                    "127.0.0.1",
                    broker.port,
                    username=login.username,
                    password=login.password,
                    identifier=client_id,
                    protocol=aiomqtt.ProtocolVersion.V5,
                ) as client:
                    async for _message in client.messages:
                        pass

    rival = asyncio.create_task(copy_of_the_engine())
    await eventually(lambda: output.link.state is LinkState.REFUSED)
    rival.cancel()
    await asyncio.gather(rival, return_exceptions=True)

    assert f"does another client use the client id {client_id}" in caplog.text


@pytest.mark.parametrize(
    ("packet", "reason", "words"),
    [
        (PacketTypes.DISCONNECT, "Session taken over", "another client has taken the client id"),
        (PacketTypes.CONNACK, "Unsupported protocol version", "set mqtt.protocol to '3.1.1'"),
        (PacketTypes.CONNACK, "Bad user name or password", "check mqtt.username"),
        (PacketTypes.CONNACK, "Banned", "refuses the client id"),
    ],
)
async def test_what_the_broker_says_is_explained(
    told: Told, broker: Broker, packet: int, reason: str, words: str
) -> None:
    output = await told.start(mqtt_to(broker.port))
    cause = aiomqtt.MqttCodeError(ReasonCode(packet, reason))
    error = aiomqtt.MqttError("Disconnected")
    error.__cause__ = cause
    trouble = output.link._explain(error)

    assert trouble.refused
    assert words in trouble.text


async def test_a_broker_that_is_restarted_is_told_everything_again(place: Place, told: Told, broker: Broker) -> None:
    output = await told.start(mqtt_to(broker.port))
    await eventually(lambda: output.link.state is LinkState.CONNECTED)
    await asyncio.to_thread(broker.stop)
    await eventually(lambda: output.link.state is LinkState.LOST)
    await asyncio.sleep(2)
    await asyncio.to_thread(broker.start)
    started_s = time.monotonic()
    async with Ear(broker.port) as ear:
        needed = ("_door/config", "door/person", "door/state", f"{place.settings.instance}/availability")
        await eventually(lambda: all(ear.last(each) for each in needed), within_s=25)

    assert time.monotonic() - started_s < 25
    assert b"online" == ear.last(f"{place.settings.instance}/availability")


async def test_a_broker_that_is_not_there_is_said_once(
    place: Place, told: Told, sentry: SentryReader, caplog: pytest.LogCaptureFixture
) -> None:
    output = await told.start(mqtt_to(free_port()))
    await eventually(lambda: output.link._backoff._next_s >= 4.0)
    warnings = [record for record in caplog.records if "cannot be reached" in record.message]

    assert [logging.WARNING] == [record.levelno for record in warnings if record.levelno > logging.DEBUG]

    await raise_alarm(place, sentry)
    await end_alarm(place, sentry)

    assert 3 == len(output._outbox._events)

    ended_s = time.monotonic()
    await told.stop()

    assert time.monotonic() - ended_s < 2


async def test_an_alarm_during_an_outage_is_told_late_and_the_person_is_never_seen_where_nobody_is(
    place: Place, told: Told, sentry: SentryReader, broker: Broker
) -> None:
    instance = place.settings.instance
    async with Ear(broker.port) as ear, Line(broker.port) as line:
        output = await told.start(mqtt_to(line.port))
        await raise_alarm(place, sentry)
        await eventually(lambda: ear.last("door/person") == b"ON" and len(ear.of("door/event")) == 2)
        line.refusing = True
        line.cut()
        await eventually(lambda: ear.last(f"{instance}/availability") == b"offline")
        await eventually(lambda: output.link.state is LinkState.LOST)
        await end_alarm(place, sentry)
        ear.messages.clear()
        line.refusing = False
        await eventually(lambda: len(ear.of("door/event")) == 1)
        topics = [heard.topic.partition(f"{instance}/")[2] for heard in ear.messages]

        assert [b"OFF"] == ear.of("door/person")[:1]
        assert [b"online"] == ear.of(f"{instance}/availability")[:1]
        assert topics.index("door/person") < topics.index("availability") < topics.index("door/event")
        assert b"standby_resumed" in ear.of("door/event")[0]


async def test_a_line_that_is_frozen_is_noticed(
    place: Place, told: Told, sentry: SentryReader, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mqtt, "KEEPALIVE_S", 2)
    monkeypatch.setattr(mqtt, "SEND_TIMEOUT_S", 1.5)
    monkeypatch.setattr(mqtt, "CONNECT_TIMEOUT_S", 1.0)
    async with Ear(broker.port) as ear, Line(broker.port) as line:
        output = await told.start(mqtt_to(line.port))
        await eventually(lambda: ear.last("/availability") == b"online")
        line.frozen = True
        frozen_s = time.monotonic()
        await raise_alarm(place, sentry)
        await eventually(lambda: output.link.state is LinkState.LOST)

        assert time.monotonic() - frozen_s < 10
        assert len(output._outbox) < 20

        await eventually(lambda: ear.last(f"{place.settings.instance}/availability") == b"offline", within_s=15)
        line.frozen = False
        await eventually(lambda: ear.last(f"{place.settings.instance}/availability") == b"online", within_s=15)


async def test_a_broker_that_flaps_is_not_hammered_and_slows_nothing(
    place: Place, told: Told, sentry: SentryReader, broker: Broker
) -> None:
    async with Line(broker.port) as line:
        output = await told.start(mqtt_to(line.port))
        for _ in range(2):
            await eventually(lambda: output.link.state is LinkState.CONNECTED)
            line.cut()
            await eventually(lambda: output.link.state is LinkState.LOST)

        assert output.link._backoff._next_s >= 2.0  # short connections do not count as success

        for _ in range(MAX_EVENTS):
            output.event(
                {
                    "camera": "door",
                    "timestamp": "",
                    "state": "standby",
                    "previous_state": "off",
                    "type": "x",
                    "id": "y",
                },
                None,
            )
        await raise_alarm(place, sentry)

        assert len(output._outbox._events) <= MAX_EVENTS
        assert output.status()["events_dropped"] >= 0


async def test_it_ends_at_once_at_whatever_moment(told: Told, broker: Broker) -> None:
    for moment in range(25):
        await told.start(mqtt_to(broker.port))
        await asyncio.sleep(moment * 0.002)
        async with asyncio.timeout(3):
            await told.stop()


def find_rules_plugin() -> Path | None:
    return next(Path("/usr/lib").glob("*/mosquitto_dynamic_security.so"), None)


async def test_a_subscription_that_is_denied_is_named(
    told: Told, make_broker: MakeBroker, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    plugin = await asyncio.to_thread(find_rules_plugin)
    if plugin is None or shutil.which("mosquitto_ctrl") is None:
        pytest.skip("Mosquitto has no mosquitto_dynamic_security.so or mosquitto_ctrl")
    rules = Path(tempfile.mkdtemp(prefix="ds-rules")) / "rules.json"
    rules.parent.chmod(0o777)
    init = ["mosquitto_ctrl", "dynsec", "init", str(rules), USER, PASSWORD]
    await asyncio.to_thread(subprocess.run, init, check=True, capture_output=True)
    document = json.loads(rules.read_text())
    document["defaultACLAccess"] = dict.fromkeys(document["defaultACLAccess"], True) | {"subscribe": False}
    document["roles"] = [{**role, "acls": []} for role in document["roles"]]
    rules.write_text(json.dumps(document))
    rules.chmod(0o666)
    lines = [f"plugin {plugin}", f"plugin_opt_config_file {rules}"]
    broker = await asyncio.to_thread(make_broker, *lines)
    output = await told.start(mqtt_to(broker.port))
    await eventually(lambda: output.link.state is LinkState.CONNECTED)

    assert "user engine may not read detr_sentry/" in caplog.text

    await eventually(lambda: output.status()["waiting"] == 0)
    shutil.rmtree(rules.parent)
