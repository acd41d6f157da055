"""MQTT as an output of the controller: what is said about each camera, discovery, and the commands that come in."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from typing import TYPE_CHECKING, Any, Protocol

from detr_sentry import __version__
from detr_sentry.controller import discovery, payloads
from detr_sentry.controller.backoff import Complaints
from detr_sentry.controller.mode_command import parse_command
from detr_sentry.controller.mqtt import BrokerLink, LinkState, until_one_ends
from detr_sentry.controller.outbox import Message, Order, Outbox
from detr_sentry.controller.report import event_report
from detr_sentry.controller.retained import Retained
from detr_sentry.controller.topics import OFFLINE, ONLINE, Topics
from detr_sentry.controller.watcher import Watcher
from detr_sentry.errors import ControlError, StorageError
from detr_sentry.ipc.heartbeat import read_heartbeat
from detr_sentry.ipc.layout import Layout

if TYPE_CHECKING:
    from pathlib import Path

    from detr_sentry.controller.backoff import BackOff
    from detr_sentry.controller.companion import Claim, Companion
    from detr_sentry.controller.mode_command import ModeCommand
    from detr_sentry.controller.recorder import Recorder
    from detr_sentry.sentry.events import Mode
    from detr_sentry.settings import Settings

TICK_S = 0.5
HEALTH_EVERY_S = 10.0
BIRTH_JITTER_S = 2.0  # Home Assistant starts with many devices at once; it must be right within five seconds

_log = logging.getLogger("detr_sentry.controller")


class Engine(Protocol):
    """What MQTT needs of the controller."""

    settings: Settings
    companion: Companion
    recorder: Recorder
    snapshots: Path

    async def set_mode(self, camera: str, mode: Mode, duration_s: float | None) -> None: ...  # noqa: D102


class MqttOutput:
    """Made before the event loop runs, used only in its thread. Everything it is told returns at once."""

    name = "mqtt"

    def __init__(self, engine: Engine, *, backoff: BackOff | None = None) -> None:
        settings = engine.settings
        self._engine = engine
        self._settings = settings
        self._topics = Topics(instance=settings.instance, discovery_prefix=settings.mqtt.discovery_prefix)
        self._layout = Layout(settings.shm_root, settings.instance)
        self._claim = engine.companion.claim
        self._retained = Retained(settings.state_dir, settings.instance)
        self._outbox = Outbox(on_put=self._wake)
        self.link = BrokerLink(
            settings.mqtt,
            client_id=self._retained.client_id,
            will=self._topics.availability,
            subscriptions=(self._topics.commands, self._topics.birth, self._topics.availability),
            outbox=self._outbox,
            on_connected=self._connected,
            on_message=self._received,
            before_send=self._before_send,
            on_sent=self._sent,
            backoff=backoff,
        )
        self._watchers = {
            camera: Watcher(
                camera,
                self._topics.camera(camera),
                self._layout,
                stay_threshold=each.sentry.stay_threshold,
                detections=settings.mqtt.detections,
                put=self._outbox.put,
            )
            for camera, each in settings.cameras.items()
        }
        self._belongs: set[str] = set()
        self._complaints = Complaints()
        self._commands: dict[str, ModeCommand] = {}
        self._commanded = asyncio.Event()
        self._birth: asyncio.TimerHandle | None = None
        self._alarms: dict[str, dict[str, Any]] = {}  # pictures to be sent, by camera
        self._looked_up: set[str] = set()
        self._health_at_s = 0.0

    # What the controller tells

    def camera_changed(self, report: dict[str, Any], trace: bytes | None) -> None:  # noqa: ARG002 - for spans
        """Latest wins, by topic."""
        for message in self._watchers[report["id"]].announcer.changed(report, time.monotonic()):
            self._outbox.put(message)

    def detections_read(self, camera: str) -> None:
        """Show the frame and its boxes, if somebody could see it."""
        if self.link.state is LinkState.CONNECTED:
            self._watchers[camera].look(time.monotonic())

    def event(self, report: dict[str, Any], trace: bytes | None) -> None:  # noqa: ARG002 - for spans
        """Every one, as far as the outbox goes."""
        camera = report["camera"]
        payload = payloads.event(f"{self._settings.instance}_{camera}", report)
        topic = self._topics.camera(camera).event
        self._outbox.put_event(Message(topic=topic, payload=payload, retain=False, order=Order.EVENT))

    def picture_stored(self, report: dict[str, Any]) -> None:
        """Latest wins, by camera."""
        if report["camera"] in self._watchers:
            self._alarms[report["camera"]] = report
            self._looked_up.add(report["camera"])

    def companion_changed(self, claim: Claim | None) -> None:
        """Discovery steps aside for a companion that asks for it, and comes back after it."""
        self._claim = claim
        self._settle()

    def status(self) -> dict[str, Any]:
        """For the heartbeat."""
        return {
            "link": self.link.state.value,
            "error": self.link.error,
            "connections": self.link.connections,
            "waiting": len(self._outbox),
            "events_dropped": self._outbox.dropped,
            "commands_refused": self._complaints.total,
            "not_allowed": self.link.refused.total,
        }

    # The work

    async def run(self) -> None:
        """Serve until cancelled."""
        try:
            await until_one_ends(self.link.run(), self._tick(), self._obey())
        finally:
            if self._birth is not None:
                self._birth.cancel()
            for watcher in self._watchers.values():
                await watcher.close()

    async def _tick(self) -> None:
        while True:
            now_s = time.monotonic()
            for watcher in self._watchers.values():
                for message in watcher.announcer.due(now_s):
                    self._outbox.put(message)
            if self.link.state is LinkState.CONNECTED:
                if now_s >= self._health_at_s:
                    self._health_at_s = now_s + HEALTH_EVERY_S
                    await self._tell_health()
                    await self._look_up_alarms()
                await self._show_alarms(now_s)
            await asyncio.sleep(TICK_S)

    async def _tell_health(self) -> None:
        for message in await asyncio.to_thread(self._read_health):
            self._outbox.put(message, again=True)  # also unchanged: a broker that does not answer is noticed by it

    def _read_health(self) -> list[Message]:
        now_ns = time.monotonic_ns()

        def status(service: str, camera: str | None = None) -> dict[str, Any]:
            beat = read_heartbeat(self._layout.heartbeat(service, camera))
            return {} if beat is None or beat.overdue(now_ns) else beat.status

        inference = status("inference")
        return [
            Message(
                topic=self._topics.camera(camera).health,
                payload=payloads.health(status("capture", camera), inference, camera),
            )
            for camera in self._watchers
        ]

    async def _look_up_alarms(self) -> None:
        """The last alarm of before this start, once the history can tell."""
        for camera, watcher in self._watchers.items():
            event_id = watcher.announcer.last_event_id
            if camera in self._looked_up or event_id is None:
                continue
            try:
                record = await self._engine.recorder.event(event_id)
            except StorageError:
                continue
            if record is not None and record.snapshot_ns is not None and camera not in self._looked_up:
                self._alarms[camera] = event_report(record, self._engine.snapshots)
            self._looked_up.add(camera)

    async def _show_alarms(self, now_s: float) -> None:
        for camera, report in list(self._alarms.items()):
            watcher = self._watchers[camera]
            if watcher.announcer.alarm_picture_is_due(report["id"], now_s):
                del self._alarms[camera]
                await watcher.show_alarm(report)

    async def _obey(self) -> None:
        """Set the modes that were commanded, the newest of each camera."""
        while True:
            await self._commanded.wait()
            self._commanded.clear()
            commands, self._commands = self._commands, {}
            for camera, command in commands.items():
                try:
                    await self._engine.set_mode(camera, command.mode, command.duration_s)
                except StorageError as error:
                    self._complain("storage", f"{camera}: mode {command.mode} is refused: {error}")

    # What the broker link calls

    def _wake(self) -> None:
        self.link.wake.set()

    def _connected(self) -> None:
        self._outbox.renew()
        self._settle()
        self._say_online()
        self._health_at_s = 0.0

    def _say_online(self) -> None:
        message = Message(topic=self._topics.availability, payload=ONLINE, order=Order.ONLINE)
        self._outbox.put(message, again=True)

    def _settle(self) -> None:
        """Put what belongs on the broker, and remove what does not: of removed cameras, and discovery if unwanted."""
        claimed = self._claim is not None and self._claim.replace_mqtt_entities
        discover = discovery.wanted(self._settings.mqtt.discovery, claimed=claimed)
        url = self._settings.gateway.public_url
        belongs = {self._topics.availability}
        for camera, settings in self._settings.cameras.items():
            belongs |= self._topics.camera(camera).retained
            if discover:
                topic = self._topics.discovery(camera)
                belongs.add(topic)
                config = discovery.device_config(self._topics, camera, settings.name, version=__version__, url=url)
                self._outbox.put(Message(topic=topic, payload=payloads.to_json(config)))
        if url is not None:
            belongs.add(self._topics.info)
            info = payloads.info(
                instance=self._settings.instance, name=self._settings.name, version=__version__, url=url
            )
            self._outbox.put(Message(topic=self._topics.info, payload=info))
        for topic in (self._retained.topics | self._outbox.retained()) - belongs:
            self._outbox.put(Message(topic=topic, payload=b""))
        self._belongs = belongs

    async def _before_send(self, message: Message) -> None:
        """Remember what will stay on the broker before it does."""
        if message.payload and message.topic not in self._retained.topics:
            await self._retained.add(self._outbox.retained() | {message.topic})

    async def _sent(self, message: Message) -> None:
        if message.retain and not message.payload and message.topic not in self._belongs:
            self._outbox.forget(message.topic)
            await self._retained.remove({message.topic})

    def _received(self, topic: str, payload: bytes, retained: bool) -> None:  # noqa: FBT001 - MQTT's own flag
        if topic == self._topics.birth:
            if payload == ONLINE and not retained and (self._birth is None or self._birth.cancelled()):
                loop = asyncio.get_running_loop()
                self._birth = loop.call_later(random.uniform(0, BIRTH_JITTER_S), self._reborn)  # noqa: S311 - jitter
            return
        if topic == self._topics.availability:
            if payload == OFFLINE:  # the will of a connection before this one came late
                self._say_online()
            return
        self._command(topic, payload, retained=retained)

    def _reborn(self) -> None:
        """Home Assistant has started: say everything again."""
        self._birth = None
        self._outbox.renew()
        self._say_online()

    def _command(self, topic: str, payload: bytes, *, retained: bool) -> None:
        camera = self._topics.commanded(topic, self._watchers)
        if camera is None:
            self._complain("camera", "a command for a camera that is not in the settings is ignored")
            return
        if not payload and retained:
            return  # somebody removes a retained command
        if retained:
            self._complain("retained", f"{topic}: a retained command is ignored: send commands without retain")
            return
        try:
            self._commands[camera] = parse_command(payload)
        except ControlError as error:
            self._complain("invalid", f"{topic}: a command is ignored: {error}")
            return
        self._commanded.set()

    def _complain(self, kind: str, text: str) -> None:
        held_back = self._complaints.admit(kind, time.monotonic())
        if held_back is not None:
            _log.warning("%s%s", text, f" ({held_back} more of these before)" if held_back else "")
