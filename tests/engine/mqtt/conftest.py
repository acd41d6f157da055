"""A controller with real rings and a real broker."""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from detr_sentry.controller.mqtt_output import MqttOutput
from detr_sentry.controller.service import Controller
from detr_sentry.settings import MqttSettings
from tests.engine.controller.conftest import (  # noqa: F401 - fixtures
    Place,
    Runner,
    no_blocking,
    place,
    runner,
    sentry,
)

from .broker import MOSQUITTO, PASSWORD, USER, Broker

MakeBroker = Callable[..., Broker]


@pytest.fixture
def make_broker() -> Iterator[MakeBroker]:
    """Makes and starts brokers; they end with the test."""
    if MOSQUITTO is None or shutil.which("mosquitto_passwd") is None:
        pytest.skip("no Mosquitto: sudo apt-get install mosquitto")
    folder = Path(tempfile.mkdtemp(prefix="ds-broker"))
    folder.chmod(0o755)
    brokers: list[Broker] = []

    def make(*lines: str, **options: Any) -> Broker:
        broker = Broker(folder / f"b{len(brokers)}", *lines, **options)
        brokers.append(broker)
        broker.start()
        return broker

    yield make
    for broker in brokers:
        broker.stop()
    shutil.rmtree(folder)


@pytest.fixture
def broker(make_broker: MakeBroker) -> Broker:
    """A broker that wants a password."""
    return make_broker()


@pytest.fixture
def certificates() -> Iterator[Path]:
    """A folder with an authority (`ca.pem`), another one (`other.pem`), and the broker's certificate for localhost."""
    folder = Path(tempfile.mkdtemp(prefix="ds-tls"))
    folder.chmod(0o755)
    new = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj"]
    for name in ("ca", "other"):
        subprocess.run(
            [*new, f"/CN={name}", "-keyout", str(folder / f"{name}.key"), "-out", str(folder / f"{name}.pem")],
            check=True,
            capture_output=True,
        )
    (folder / "names").write_text("subjectAltName=DNS:localhost\n")
    request = f"req -newkey rsa:2048 -nodes -subj /CN=localhost -keyout {folder}/server.key -out {folder}/server.csr"
    authority = f"-CA {folder}/ca.pem -CAkey {folder}/ca.key -CAcreateserial"
    sign = f"x509 -req -in {folder}/server.csr {authority} -days 2 -extfile {folder}/names -out {folder}/server.pem"
    for step in (request, sign):
        subprocess.run(["openssl", *step.split()], check=True, capture_output=True)
    yield folder
    shutil.rmtree(folder)


def mqtt_to(port: int, **changes: Any) -> MqttSettings:
    """Settings of the engine's user."""
    login = {"host": "127.0.0.1", "port": port, "username": USER, "password": PASSWORD}
    return MqttSettings(**{**login, **changes})


class Told:
    """Starts controllers with MQTT in this loop, and keeps their outputs."""

    def __init__(self, controllers: Runner) -> None:
        self._runner = controllers
        self.output: MqttOutput | None = None
        self.controller: Controller | None = None

    async def start(self, mqtt: MqttSettings, **changes: Any) -> MqttOutput:
        """A controller that speaks to a broker."""

        def outputs(controller: Controller) -> list[MqttOutput]:
            self.output = MqttOutput(controller)
            return [self.output]

        self.controller = await self._runner.start(mqtt=mqtt, make_outputs=outputs, **changes)
        assert self.output is not None
        return self.output

    async def stop(self) -> None:
        """End it in order."""
        await self._runner.stop()


@pytest.fixture
def told(runner: Runner) -> Told:  # noqa: F811 - the fixture
    return Told(runner)


def with_cameras(place: Place, *cameras: str) -> dict[str, Any]:  # noqa: F811 - the fixture
    """Settings of the place with these cameras, as the first."""
    first = place.settings.cameras["door"]
    return {camera: dataclasses.replace(first, id=camera, name=camera.title()) for camera in cameras}
