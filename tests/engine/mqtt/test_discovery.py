"""Every branch of the discovery payload, against the schema and against what Home Assistant was measured to want."""

from __future__ import annotations

import json
from typing import Any

import pytest

from detr_sentry.controller import payloads
from detr_sentry.controller.discovery import device_config, wanted
from detr_sentry.controller.topics import Topics

from .broker import check_payload


def config(instance: str = "main", camera: str = "door", url: str | None = None) -> dict[str, Any]:
    return device_config(Topics(instance=instance), camera, "Front door", version="1.2", url=url)


@pytest.mark.parametrize(
    ("choice", "claimed", "expected"),
    [
        ("auto", False, True),
        ("auto", True, False),
        ("always", True, True),
        ("always", False, True),
        ("never", False, False),
        ("never", True, False),
    ],
)
def test_discovery_is_wanted(choice: str, claimed: bool, expected: bool) -> None:
    assert expected is wanted(choice, claimed=claimed)


@pytest.mark.parametrize("url", [None, "http://sentry.lan:8099"])
@pytest.mark.parametrize("instance", ["main", "edge_7"])
@pytest.mark.parametrize("camera", ["door", "_front__door_", "_", "a" * 32])
def test_the_payload_is_as_the_schema_has_it(instance: str, camera: str, url: str | None) -> None:
    topics = Topics(instance=instance)
    payload = payloads.to_json(config(instance, camera, url))

    assert check_payload(topics.discovery(camera), payload).endswith("/config")
    assert ("configuration_url" in json.loads(payload)["device"]) == (url is not None)


def test_entities_have_ids_that_people_can_read() -> None:
    ids = {key: each["default_entity_id"] for key, each in config(camera="front__door_")["components"].items()}

    assert ("binary_sensor.front_door_person", "camera.front_door", "image.front_door_last_alarm") == (
        ids["person"],
        ids["camera"],
        ids["last_alarm"],
    )
    assert "select.edge_7_door_mode" == config("edge_7")["components"]["mode"]["default_entity_id"]
    assert "camera.camera" == config(camera="_")["components"]["camera"]["default_entity_id"]


def test_unique_ids_are_unique_across_cameras_and_instances() -> None:
    unique = [
        component["unique_id"]
        for instance in ("main", "edge_7")
        for camera in ("door", "yard")
        for component in config(instance, camera)["components"].values()
    ]

    assert len(unique) == len(set(unique))


def test_what_needs_sight_is_unavailable_while_the_camera_is_blind_and_the_rest_is_not() -> None:
    components = config()["components"]
    seeing = {key for key, each in components.items() if len(each["availability"]) == 2}

    assert {"person", "count", "camera"} == seeing
    assert {"detr_sentry/main/availability"} == {each["availability"][0]["topic"] for each in components.values()}
    assert {"all"} == {each["availability_mode"] for each in components.values()}
    assert ["count"] == [key for key, each in components.items() if each.get("enabled_by_default") is False]


def test_topics_are_written_out() -> None:
    text = json.dumps(config())

    assert "~" not in text
    assert "object_id" not in text.replace("default_entity_id", "")
