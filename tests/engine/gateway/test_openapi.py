from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Any

import jsonschema
import pytest
from openapi_spec_validator import validate
from ruamel.yaml import YAML

from detr_sentry.ipc.messages import State

if TYPE_CHECKING:
    from pathlib import Path

    from tests.engine.gateway.conftest import Running

EVENT = "01KB1X5W9N6S4T3R2Q1P0M9K8J"


@pytest.fixture(scope="module")
def description(repository: Path) -> dict[str, Any]:
    """schemas/openapi.yaml."""
    loaded: dict[str, Any] = YAML(typ="safe").load(repository / "schemas" / "openapi.yaml")
    return loaded


def check(description: dict[str, Any], name: str, value: Any) -> None:
    """Validate a value against a schema of the description, formats included."""
    schema = {"$ref": f"#/components/schemas/{name}", "components": description["components"]}
    jsonschema.Draft202012Validator(schema, format_checker=jsonschema.FormatChecker()).validate(value)


def test_the_description_is_openapi_3_1(description: dict[str, Any]) -> None:
    validate(description)

    assert "3.1.0" == description["openapi"]


async def test_every_route_is_described_and_every_description_is_served(
    running: Running, description: dict[str, Any]
) -> None:
    (app,) = running.apps
    served = {
        (route.method.lower(), route.resource.canonical)
        for route in app.router.routes()
        if route.resource is not None and route.method != "HEAD"
    }
    described = {(method, path) for path, operations in description["paths"].items() for method in operations}

    assert served == described


async def test_the_description_is_served_as_it_is(running: Running, repository: Path) -> None:
    async with running.http.get("/api/v1/openapi.yaml") as response:
        body = await response.text()

    assert await asyncio.to_thread((repository / "schemas" / "openapi.yaml").read_text) == body
    assert "application/yaml" == response.content_type


def test_every_example_fits_its_schema(description: dict[str, Any]) -> None:
    checked = 0
    for operations in description["paths"].values():
        for operation in operations.values():
            bodies = [operation.get("requestBody", {}), *operation["responses"].values()]
            for body in bodies:
                for media in body.get("content", {}).values():
                    examples = [media["example"]] if "example" in media else []
                    examples += [example["value"] for example in media.get("examples", {}).values()]
                    for example in examples:
                        schema = {**media["schema"], "components": description["components"]}
                        jsonschema.Draft202012Validator(schema).validate(example)
                        checked += 1
    for name, schema in description["components"]["schemas"].items():
        for example in schema.get("examples", []):
            check(description, name, example)
            checked += 1

    assert checked >= 15


async def test_what_is_answered_fits_the_description(running: Running, description: dict[str, Any]) -> None:
    engine = running.engine
    engine.push_state(State.ALARMED, count=1, event_id=EVENT)
    await running.until(lambda: running.gateway.feeds["door"].last_event_id is not None)
    _, info = await running.get("/api/v1/info")
    _, cameras = await running.get("/api/v1/cameras")
    _, settings = await running.get("/api/v1/settings")
    _, problem = await running.get("/api/v1/none")
    async with running.viewer() as viewer:
        frame = (await viewer.receive()).head
        engine.switch_off()
        off = (await viewer.receive()).head
    async with running.http.ws_connect("/api/v1/live?detections=1") as ws:
        snapshot = await ws.receive_json(timeout=5)
        engine.push_state(State.STANDBY)
        change = await ws.receive_json(timeout=5)
        engine.push_detections((1, 2, 3, 4))
        while (detections := await ws.receive_json(timeout=5))["type"] != "detections":
            check(description, "LiveChange", detections)

    check(description, "Info", info)
    for camera in cameras["cameras"]:
        check(description, "Camera", camera)
    check(description, "Settings", settings)
    check(description, "Problem", problem)
    check(description, "StreamMessage", frame)
    check(description, "StreamMessage", off)
    check(description, "LiveSnapshot", snapshot)
    check(description, "LiveChange", change)
    check(description, "LiveDetections", detections)
    assert EVENT == cameras["cameras"][0]["last_event_id"]


def test_the_checks_above_can_fail(description: dict[str, Any]) -> None:
    with pytest.raises(jsonschema.ValidationError):
        check(description, "Camera", {"id": "door"})


def test_no_code_of_the_gateway_is_missing_in_the_description(description: dict[str, Any], repository: Path) -> None:
    text = str(description)
    sources = (repository / "engine" / "detr_sentry" / "gateway").glob("*.py")
    codes = {
        code
        for source in sources
        for code in re.findall(r'ProblemError\(\s*\d+,\s*"([a-z_]+)"', source.read_text())
        if code != "internal"
    }

    assert codes >= {"camera_off", "no_controller", "unauthorized"}
    assert set() == {code for code in codes if code not in text}
