"""On a real broker: what is said, to whom, and in which order."""

from __future__ import annotations

import asyncio
import json

import numpy as np
import simplejpeg

from detr_sentry import __version__
from detr_sentry.controller.mqtt import LinkState
from detr_sentry.settings import GatewaySettings
from tests.engine.controller.conftest import PERSON, Place, SentryReader, end_alarm, eventually, raise_alarm

from .broker import Broker, Ear
from .conftest import Told, mqtt_to, with_cameras


async def test_an_alarm_is_told_from_its_start_to_its_end(
    place: Place, told: Told, sentry: SentryReader, broker: Broker
) -> None:
    async with Ear(broker.port) as ear:
        gateway = GatewaySettings(public_url="http://sentry.lan:8099")
        output = await told.start(mqtt_to(broker.port), gateway=gateway)
        await eventually(lambda: ear.last("/availability") == b"online" and ear.last("door/health"))

        assert b"None" == ear.last("door/person")

        await place.see(1)
        await eventually(lambda: ear.last("door/person") == b"OFF")
        await raise_alarm(place, sentry)
        await eventually(lambda: ear.last("door/person") == b"ON")

        assert ("alarmed", 1, False) == tuple(ear.json("door/state")[key] for key in ("state", "count", "blind"))

        await end_alarm(place, sentry)
        await eventually(lambda: ear.last("door/person") == b"OFF" and len(ear.of("door/event")) == 3)
        await eventually(lambda: ear.last("door/last_alarm"))
        said = ear.check()
        events = [json.loads(payload) for payload in ear.of("door/event")]

    instance = place.settings.instance
    assert ["validation_started", "human_detected", "standby_resumed"] == [each["event_type"] for each in events]
    assert {f"{instance}_door"} == {each["device_id"] for each in events}
    assert 1 == len({each["event_id"] for each in events})
    assert {"instance_id": instance, "name": "DETR Sentry", "version": __version__, "url": gateway.public_url} == (
        ear.json("/info")
    )
    assert {"availability", "person", "state", "health", "event", "snapshot", "last_alarm"} <= {
        name.rpartition("/")[2] for name in said
    }
    assert "{discovery_prefix}/device/{instance}_{camera}/config" in said
    assert {"link": "connected", "error": None, "waiting": 0, "events_dropped": 0} == {
        key: output.status()[key] for key in ("link", "error", "waiting", "events_dropped")
    }


async def test_the_engine_is_online_after_its_states_and_offline_when_it_ends(
    place: Place, told: Told, broker: Broker
) -> None:
    async with Ear(broker.port) as ear:
        await told.start(mqtt_to(broker.port))
        await eventually(lambda: ear.of(f"{place.settings.instance}/availability"))
        order = [heard.topic.partition("/")[2].partition("/")[2] for heard in ear.messages]
        await told.stop()
        await eventually(lambda: ear.of(f"{place.settings.instance}/availability") == [b"online", b"offline"])
    async with Ear(broker.port) as late:
        await eventually(lambda: late.of(f"{place.settings.instance}/availability"))

        assert [b"offline"] == late.of(f"{place.settings.instance}/availability")
        assert b"None" == late.last("door/person")

    assert order.index("availability") > max(order.index(each) for each in ("door/person", "door/availability"))
    assert order.index("availability") > order.index("door/state")


async def test_a_blind_camera_is_unavailable(place: Place, told: Told, broker: Broker) -> None:
    async with Ear(broker.port) as ear:
        await told.start(mqtt_to(broker.port))
        await place.see(1)
        await eventually(lambda: ear.of("door/availability")[-1:] == [b"online"] and ear.last("door/person") == b"OFF")
        await eventually(lambda: ear.last("door/availability") == b"offline")
        await eventually(lambda: ear.last("door/person") == b"None")

        assert ear.json("door/state")["blind"] is True
        assert ear.json("door/state")["problem"] is not None

        ear.messages.clear()
        await place.see(1)
        await eventually(lambda: b"online" in ear.of("door/availability"))
        said = [(heard.topic.rpartition("/")[2], heard.payload) for heard in ear.messages]

        assert said.index(("person", b"OFF")) < said.index(("availability", b"online"))

        ear.check()


async def test_the_snapshot_is_the_frame_of_the_detection_with_its_box_and_goes_when_the_camera_is_off(
    place: Place, told: Told, sentry: SentryReader, broker: Broker
) -> None:
    async with Ear(broker.port) as ear:
        await told.start(mqtt_to(broker.port))
        await raise_alarm(place, sentry)
        await eventually(lambda: ear.last("door/snapshot"))
        started = len(ear.of("door/snapshot"))
        before_s = asyncio.get_running_loop().time()
        while asyncio.get_running_loop().time() < before_s + 3:
            place.detect(PERSON, level=195 + place.number % 10)
            await asyncio.sleep(0.03)
        count = len(ear.of("door/snapshot")) - started
        seconds = asyncio.get_running_loop().time() - before_s
        picture = simplejpeg.decode_jpeg(ear.last("door/snapshot") or b"")

        assert 2 <= count <= 2 * seconds + 1
        assert (48, 64, 3) == picture.shape
        assert int(np.abs(picture[44:47, 50:60].astype(int) - 200).max()) < 16
        # the box is drawn in red: its left edge at x=10
        assert picture[30, 10, 0] > picture[30, 10, 1] + 60

        instance = place.settings.instance
        await ear.say(f"detr_sentry/{instance}/door/mode/set", "off")
        await eventually(lambda: ear.last("door/snapshot") == b"")
        await eventually(lambda: ear.last("door/person") == b"None")
        place.detect(PERSON)
        await asyncio.sleep(1.0)

        assert (b"", b"online", "off") == (
            ear.last("door/snapshot"),
            ear.last("door/availability"),
            ear.json("door/state")["state"],
        )
    async with Ear(broker.port) as late:
        await eventually(lambda: late.of("door/state"))

        assert [] == late.of("door/snapshot")


async def test_boxes_are_told_only_where_they_are_asked_for(place: Place, told: Told, broker: Broker) -> None:
    async with Ear(broker.port) as ear:
        await told.start(mqtt_to(broker.port, detections=True))
        await eventually(lambda: ear.last("door/availability") == b"online")
        before_s = asyncio.get_running_loop().time()
        for _ in range(60):
            place.detect(PERSON)
            await asyncio.sleep(0.02)
        await eventually(lambda: len(ear.of("door/detections")) >= 2)
        seconds = asyncio.get_running_loop().time() - before_s

        assert len(ear.of("door/detections")) <= 5 * seconds + 1
        (found,) = ear.json("door/detections")["detections"]

        assert ("person", 1, list(PERSON[:4])) == (found["label"], found["class_id"], found["box"])

        ear.check()
        await told.stop()
        ear.messages.clear()
        await told.start(mqtt_to(broker.port))
        await eventually(lambda: ear.last("door/availability") == b"online")
        await place.see(5, PERSON)

        assert [] == ear.of("door/detections")


async def test_mqtt_3_1_1_will_do(place: Place, told: Told, sentry: SentryReader, broker: Broker) -> None:
    async with Ear(broker.port) as ear:
        await told.start(mqtt_to(broker.port, protocol="3.1.1"))
        await raise_alarm(place, sentry)
        await eventually(lambda: ear.last("door/person") == b"ON")
        await ear.say(f"detr_sentry/{place.settings.instance}/door/mode/set", '{"mode": "standby", "duration": 60}')
        await eventually(lambda: ear.json("door/state")["mode"] == "standby")
        ear.check()


async def test_home_assistant_is_told_again_when_it_starts(place: Place, told: Told, broker: Broker) -> None:
    async with Ear(broker.port) as ear:
        await told.start(mqtt_to(broker.port))
        await eventually(lambda: ear.last("door/health"))
        ear.messages.clear()
        await ear.say("homeassistant/status", "offline")
        await asyncio.sleep(0.3)

        assert ["homeassistant/status"] == [heard.topic for heard in ear.messages]

        await ear.say("homeassistant/status", "online")
        await ear.say("homeassistant/status", "online")
        await eventually(lambda: ear.last("door/config") and ear.last(f"{place.settings.instance}/availability"))
        await asyncio.sleep(0.3)

        assert 1 == len(ear.of("_door/config"))
        assert [b"online"] == ear.of(f"{place.settings.instance}/availability")


async def test_a_will_that_comes_late_does_not_stay(place: Place, told: Told, broker: Broker) -> None:
    async with Ear(broker.port) as ear:
        await told.start(mqtt_to(broker.port))
        topic = f"detr_sentry/{place.settings.instance}/availability"
        await eventually(lambda: ear.of(topic))
        await ear.say(topic, "offline", retain=True)
        await eventually(lambda: ear.of(topic)[-2:] == [b"offline", b"online"])


async def test_nothing_stays_of_a_camera_that_is_removed(place: Place, told: Told, broker: Broker) -> None:
    instance = place.settings.instance
    async with Ear(broker.port) as ear:
        cameras = {**place.settings.cameras, **with_cameras(place, "yard")}
        gateway = GatewaySettings(public_url="http://sentry.lan:8099")
        await told.start(mqtt_to(broker.port), cameras=cameras, gateway=gateway)
        await eventually(lambda: ear.last("yard/health") and ear.last("_yard/config"))
        await told.stop()
    await told.start(mqtt_to(broker.port))
    output = told.output
    assert output is not None
    await eventually(lambda: not any("yard" in topic for topic in output._retained.topics))
    async with Ear(broker.port) as late:
        await eventually(lambda: late.last("door/health") and late.last("_door/config"))

        assert [] == [heard.topic for heard in late.messages if "yard" in heard.topic or heard.topic.endswith("/info")]

    stored = json.loads((place.settings.state_dir / "mqtt.json").read_text())

    assert f"detr_sentry/{instance}/door/state" in stored["topics"]
    assert not any("yard" in topic for topic in stored["topics"])


async def test_discovery_steps_aside_for_a_companion_and_comes_back(place: Place, told: Told, broker: Broker) -> None:
    async with Ear(broker.port) as ear, place.client() as client:
        await told.start(mqtt_to(broker.port))
        await eventually(lambda: ear.last("_door/config"))
        await client.call("set_companion", ha_instance="abc", replace_mqtt_entities=False)
        await client.call("set_companion", ha_instance="abc", replace_mqtt_entities=True)
        await eventually(lambda: ear.last("_door/config") == b"")

        assert 2 == len(ear.of("_door/config"))

        await told.stop()
        await told.start(mqtt_to(broker.port, discovery="always"))
        await eventually(lambda: ear.last("_door/config"))
        await told.stop()
        await told.start(mqtt_to(broker.port))
        await eventually(lambda: ear.last("_door/config") == b"")
        async with place.client() as again:
            await again.call("clear_companion")
        await eventually(lambda: ear.last("_door/config"))
        await told.stop()
        output = await told.start(mqtt_to(broker.port, discovery="never"))
        await eventually(lambda: ear.last("_door/config") == b"" and output.link.state is LinkState.CONNECTED)
        ear.check()


async def test_the_last_alarm_is_shown_after_a_restart_and_a_cleared_broker(
    place: Place, told: Told, sentry: SentryReader, broker: Broker
) -> None:
    async with Ear(broker.port) as ear:
        await told.start(mqtt_to(broker.port))
        await raise_alarm(place, sentry)
        await end_alarm(place, sentry)
        await eventually(lambda: ear.last("door/last_alarm"))
        before = ear.last("door/last_alarm")
        await told.stop()
        await ear.say(f"detr_sentry/{place.settings.instance}/door/last_alarm", b"", retain=True)
        await eventually(lambda: ear.last("door/last_alarm") == b"")
        await told.start(mqtt_to(broker.port))
        await eventually(lambda: ear.last("door/last_alarm"), within_s=15)

        assert before == ear.last("door/last_alarm")
