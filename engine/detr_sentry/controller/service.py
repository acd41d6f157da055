"""The controller: one asyncio loop that turns detections into state, and state into what everybody else does.

It owns mode, state machine and history, writes the sentry rings and serves the control socket. The bell wakes it; every
`TICK_S` it looks anyway, so a lost bell costs time and never an alarm. Nothing in the loop touches a disk: mode and
claim are stored by worker threads, alarms by the recorder's.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from typing import TYPE_CHECKING, Any

from detr_sentry.controller.camera import Camera
from detr_sentry.controller.clock import Clock
from detr_sentry.controller.commands import Commands
from detr_sentry.controller.companion import Companion
from detr_sentry.controller.history import History
from detr_sentry.controller.modes import Modes
from detr_sentry.controller.outputs import ControlOutput
from detr_sentry.controller.problems import Health, problem_code, read_health
from detr_sentry.controller.recorder import Recorder
from detr_sentry.controller.report import camera_report, event_push, event_report
from detr_sentry.errors import SentryError
from detr_sentry.ipc.bells import Bell
from detr_sentry.ipc.control import ControlServer
from detr_sentry.ipc.heartbeat import Heartbeat, Phase
from detr_sentry.ipc.layout import Layout

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping, Sequence

    from detr_sentry.controller.outputs import Output
    from detr_sentry.controller.records import Record
    from detr_sentry.sentry.events import Mode, Step
    from detr_sentry.settings import Settings

    MakeOutputs = Callable[["Controller"], Sequence[Output]]

TICK_S = 0.2
HEALTH_EVERY_S = 1.0
OUTPUT_PAUSE_S = 5.0

_log = logging.getLogger("detr_sentry.controller")


class Controller:
    """The service without its process. `make_outputs(controller)` gives what else is told (MQTT).

    Make it before the loop runs: it opens rings and reads files. Raises WriterBusyError where another controller runs,
    ShmFullError, QueueLimitError, IpcError.
    """

    def __init__(
        self, settings: Settings, *, clock: Clock | None = None, make_outputs: MakeOutputs = lambda _: ()
    ) -> None:
        self.settings = settings
        self.clock = clock or Clock()
        self._layout = Layout(settings.shm_root, settings.instance)
        self._layout.create()
        self._heartbeat = Heartbeat(self._layout.heartbeat("controller"), "controller")
        self._heartbeat.beat(Phase.STARTING)
        self._modes = Modes(settings.state_dir, settings.cameras, self.clock)
        self.companion = Companion(settings.state_dir)
        self._cameras = {
            camera_id: Camera(camera, self._modes.mode(camera_id), self._layout, self.clock)
            for camera_id, camera in settings.cameras.items()
        }
        history = History(settings.state_dir, settings.history)
        self.snapshots = history.snapshots
        self.recorder = Recorder(
            history,
            self.clock,
            on_open=self._recall,
            on_problem=self._look_at_problems,
            on_picture=self._picture_stored,
        )
        self._health = dict.fromkeys(self._cameras, Health())
        self._problems: dict[str, str | None] = {}
        self._bell = Bell(self._layout.bell("controller"))
        self._server = ControlServer(self._layout.control_socket, Commands(self), greeting=self._greeting)
        self._outputs: list[Output] = [ControlOutput(self._server), *make_outputs(self)]
        self._listening: int | None = None
        self._error: BaseException | None = None

    # What the operations need

    def camera_ids(self) -> list[str]:
        """The cameras, in the order of the settings."""
        return list(self._cameras)

    def report(self, camera: str) -> dict[str, Any]:
        """One camera as the API shows it."""
        each = self._cameras[camera]
        return camera_report(
            camera,
            each.name,
            each.sentry.status,
            mode_until_ns=self._modes.until_ns(camera),
            problem=self._problems.get(camera),
            last_event_id=each.last_event_id,
        )

    async def set_mode(self, camera: str, mode: Mode, duration_s: float | None) -> None:
        """Store a mode, then act on it. Raises StorageError, and then nothing has changed."""
        await self._modes.choose(camera, mode, duration_s)
        _log.info("%s: mode %s%s", camera, mode, "" if duration_s is None else f" for {duration_s:g} s")
        self._take_mode(camera)

    def claim_changed(self) -> None:
        """Tell the outputs who has claimed the engine."""
        for output in self._outputs:
            output.companion_changed(self.companion.claim)

    # The loop

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until `stop`. Raises what made it impossible to go on."""
        loop = asyncio.get_running_loop()
        await self._server.start()
        lasting = [camera.resumed for camera in self._cameras.values() if camera.resumed is not None]
        works = (self.recorder.run(lasting=lasting), self._watch_health(), self._watch_modes())
        tasks = [self._keep(work, stop) for work in works]
        tasks += [loop.create_task(self._run_output(output)) for output in self._outputs]
        try:
            for camera in self._cameras.values():
                camera.publish()
            self._look_at_problems(tell=True)
            self.claim_changed()
            self._listen()
            while not stop.is_set():
                self._tick()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(TICK_S):
                        await stop.wait()
        finally:
            if self._listening is not None:
                loop.remove_reader(self._listening)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._server.close()
            await self.recorder.close()
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        """Let go of everything. The sentry rings keep what was said last, for whoever still reads."""
        for camera in self._cameras.values():
            camera.close()
        self._bell.close()
        self._heartbeat.close()

    def _keep(self, work: Coroutine[Any, Any, None], stop: asyncio.Event) -> asyncio.Task[None]:
        """A task without which the service is no use: its failure ends the service."""

        def ended(task: asyncio.Task[None]) -> None:
            if not task.cancelled() and task.exception() is not None:
                self._error = task.exception()
                stop.set()

        task = asyncio.get_running_loop().create_task(work)
        task.add_done_callback(ended)
        return task

    async def _run_output(self, output: Output) -> None:
        while True:
            try:
                await output.run()
            except Exception:  # noqa: BLE001 - a broken output must not end detection; the log has the traceback
                _log.exception("output %s failed; it is run again in %g s", output.name, OUTPUT_PAUSE_S)
                await asyncio.sleep(OUTPUT_PAUSE_S)
            else:
                return

    async def _watch_modes(self) -> None:
        while True:
            for camera_id in await self._modes.expire():
                _log.info("%s: the timed mode has ended, back to %s", camera_id, self._modes.mode(camera_id))
                self._take_mode(camera_id)
            await asyncio.sleep(TICK_S)

    def _tick(self) -> None:
        if self._bell.refresh():
            self._listen()
        self._poll()
        now_ns = self.clock.monotonic_ns()
        for camera in self._cameras.values():
            self._apply(camera, camera.sentry.tick(now_ns=now_ns))
            camera.publish_if_due()
        self._heartbeat.beat(Phase.RUNNING, self._status())

    def _listen(self) -> None:
        loop = asyncio.get_running_loop()
        if self._listening is not None:
            loop.remove_reader(self._listening)
        self._listening = self._bell.fileno()
        loop.add_reader(self._listening, self._rung)

    def _rung(self) -> None:
        self._bell.drain()
        self._poll()

    def _poll(self) -> None:
        for camera in self._cameras.values():
            found = camera.poll()
            if found is not None:
                self._apply(camera, *found)
                for output in self._outputs:
                    output.detections_read(camera.id)

    def _take_mode(self, camera_id: str) -> None:
        camera = self._cameras[camera_id]
        step = camera.sentry.set_mode(
            self._modes.mode(camera_id), now_ns=self.clock.monotonic_ns(), wall_ns=self.clock.wall_ns()
        )
        self._apply(camera, step)
        if not step.changed:  # the same mode for another time
            self._tell(camera, None)

    def _apply(self, camera: Camera, step: Step, trace: bytes | None = None) -> None:
        """Do what a step asks for; first what others wait for."""
        if step.changed:
            camera.publish(trace)
        changes = list(camera.changes(step))
        if step.changed:
            self._problems[camera.id] = self._problem(camera)
            self._tell(camera, trace)
        for event in step.events:
            report = event_push(camera.id, event)
            _log.info("%s: %s (%s)", camera.id, event.type, event.event_id)
            for output in self._outputs:
                output.event(report, trace)
        for change in changes:
            self.recorder.record(change)

    def _tell(self, camera: Camera, trace: bytes | None) -> None:
        report = self.report(camera.id)
        for output in self._outputs:
            output.camera_changed(report, trace)

    def _picture_stored(self, record: Record) -> None:
        report = event_report(record, self.snapshots)
        for output in self._outputs:
            output.picture_stored(report)

    def _recall(self, newest: Mapping[str, Record]) -> None:
        for camera_id, record in newest.items():
            if camera_id in self._cameras:
                self._cameras[camera_id].recall(record)
                self._tell(self._cameras[camera_id], None)

    # Problems

    async def _watch_health(self) -> None:
        while True:
            now_ns = self.clock.monotonic_ns()
            self._health = await asyncio.to_thread(read_health, self._layout, self.camera_ids(), now_ns)
            self._look_at_problems()
            await asyncio.sleep(HEALTH_EVERY_S)

    def _problem(self, camera: Camera) -> str | None:
        return problem_code(
            camera.sentry.status,
            self._health[camera.id],
            disk=self.recorder.problem,
            mode_lost=camera.id in self._modes.lost,
        )

    def _look_at_problems(self, *, tell: bool = False) -> None:
        for camera in self._cameras.values():
            problem = self._problem(camera)
            if problem == self._problems.get(camera.id) and not tell:
                continue
            if problem != self._problems.get(camera.id):
                _log.log(
                    logging.INFO if problem is None else logging.WARNING,
                    "%s: problem: %s",
                    camera.id,
                    problem or "none",
                )
            self._problems[camera.id] = problem
            self._tell(camera, None)

    def _status(self) -> dict[str, Any]:
        """The heartbeat's status."""
        return {
            "history": (self.recorder.problem or "ok").removeprefix("disk_"),
            "history_dropped": self.recorder.dropped,
            "outputs": {output.name: output.status() for output in self._outputs},
            "cameras": {
                camera.id: {
                    "state": camera.sentry.status.state.value,
                    "mode": camera.sentry.status.mode.value,
                    "blind": camera.sentry.status.blind,
                    "problem": self._problems.get(camera.id),
                    "used": camera.sentry.counters.used,
                    "gaps": camera.sentry.counters.gaps,
                    "duplicates": camera.sentry.counters.duplicates,
                    "late": camera.sentry.counters.late,
                    "corrupt": camera.corrupt,
                    "unpublished": camera.unpublished,
                }
                for camera in self._cameras.values()
            },
        }

    def _greeting(self) -> list[dict[str, Any]]:
        claim = self.companion.claim
        companion = {"push": "companion", "companion": None if claim is None else claim.report()}
        return [*({"push": "state", "camera": self.report(camera)} for camera in self._cameras), companion]


def outputs_of(controller: Controller) -> list[Output]:
    """What the settings want told besides the control socket: MQTT where there is a broker."""
    if controller.settings.mqtt.host is None:
        return []
    from detr_sentry.controller.mqtt_output import MqttOutput

    return [MqttOutput(controller)]


async def _serve(controller: Controller) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await controller.run(stop)


def run(settings: Settings) -> int:
    """The controller's process: serve until SIGTERM. Returns the exit status; 1 where it cannot run."""
    try:
        controller = Controller(settings, make_outputs=outputs_of)
    except (SentryError, OSError) as error:
        _log.error("%s", error)
        return 1
    try:
        asyncio.run(_serve(controller))
    except SentryError as error:
        _log.error("%s", error)
        return 1
    finally:
        controller.close()
    return 0
