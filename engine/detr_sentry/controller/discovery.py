"""Home Assistant's MQTT discovery: one device message for each camera. Pure.

Measured on Home Assistant 2026.11: a device message must not abbreviate topics by `~` at its root, `object_id` is
ignored for `default_entity_id`, and every component needs a `unique_id`. See https://www.home-assistant.io/integrations/mqtt
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from detr_sentry.sentry.events import EventType, Mode, State

if TYPE_CHECKING:
    from detr_sentry.controller.topics import Topics

ORIGIN = "DETR Sentry"


def wanted(choice: str, *, claimed: bool) -> bool:
    """Whether entities are to be discovered. `claimed`: a companion shows them itself and asked MQTT to step aside."""
    return choice == "always" or (choice == "auto" and not claimed)


def device_config(topics: Topics, camera: str, name: str, *, version: str, url: str | None) -> dict[str, Any]:
    """The device message of a camera. `url` is where the engine's page is, if people can reach it."""
    identifier = f"detr_sentry_{topics.instance}_{camera}"
    device: dict[str, Any] = {
        "identifiers": [identifier],
        "name": name,
        "manufacturer": ORIGIN,
        "model": "Sentry camera",
        "sw_version": version,
    }
    if url is not None:
        device["configuration_url"] = url
    own = "" if topics.instance == "main" else f"{topics.instance}_"
    stem = re.sub("_+", "_", f"{own}{camera}").strip("_") or "camera"  # an entity id may hold no other underscores
    components = _components(topics, camera)
    for key, component in components.items():
        suffix = "" if key == "camera" else f"_{key}"
        component["unique_id"] = f"{identifier}_{key}"
        component["default_entity_id"] = f"{component['platform']}.{stem}{suffix}"
    return {"device": device, "origin": {"name": ORIGIN, "sw_version": version}, "components": components}


def _components(topics: Topics, camera: str) -> dict[str, dict[str, Any]]:
    place = topics.camera(camera)
    engine = {"availability": [{"topic": topics.availability}], "availability_mode": "all"}
    seeing = {
        "availability": [{"topic": topics.availability}, {"topic": place.availability}],
        "availability_mode": "all",
    }
    return {
        "person": {
            **seeing,
            "platform": "binary_sensor",
            "name": "Person",
            "device_class": "occupancy",
            "state_topic": place.person,
        },
        "count": {
            **seeing,
            "platform": "sensor",
            "name": "Persons",
            "icon": "mdi:account-multiple",
            "state_class": "measurement",
            "state_topic": place.state,
            "value_template": "{{ value_json.count }}",
            "enabled_by_default": False,
        },
        "camera": {**seeing, "platform": "camera", "name": None, "topic": place.snapshot},
        "state": {
            **engine,
            "platform": "sensor",
            "name": "State",
            "icon": "mdi:shield-account",
            "device_class": "enum",
            "options": [state.value for state in State],
            "state_topic": place.state,
            "value_template": "{{ value_json.state }}",
        },
        "mode": {
            **engine,
            "platform": "select",
            "name": "Mode",
            "icon": "mdi:shield-edit",
            "options": [mode.value for mode in Mode],
            "state_topic": place.state,
            "value_template": "{{ value_json.mode }}",
            "command_topic": place.mode_set,
            "qos": 1,
        },
        "problem": {
            **engine,
            "platform": "binary_sensor",
            "name": "Problem",
            "device_class": "problem",
            "entity_category": "diagnostic",
            "state_topic": place.state,
            "value_template": "{{ 'ON' if value_json.problem else 'OFF' }}",
            "json_attributes_topic": place.state,
            "json_attributes_template": "{{ {'reason': value_json.problem} | tojson }}",
        },
        "event": {
            **engine,
            "platform": "event",
            "name": "Event",
            "icon": "mdi:account-alert",
            "event_types": [kind.value for kind in EventType],
            "state_topic": place.event,
            "qos": 1,
        },
        "last_alarm": {
            **engine,
            "platform": "image",
            "name": "Last alarm",
            "image_topic": place.last_alarm,
            "content_type": "image/jpeg",
        },
    }
