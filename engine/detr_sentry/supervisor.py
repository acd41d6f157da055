"""Starts, watches and restarts the services of one machine.

Each service is a program of its own (`exec`, never a bare fork). One that ends is started again after a capped
back-off; one whose heartbeat is overdue is killed, with its stacks in the log, and replaced. A changed settings file
restarts the services that it concerns. SIGTERM ends everything within `STOP_WITHIN_S`: the cameras first, and last the
controller, which has events to store.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import signal
import subprocess
import sys
import time
import webbrowser
from typing import TYPE_CHECKING, Any

from detr_sentry._supervised import Service, State, concerns_of, end_hung, reason_of
from detr_sentry.errors import SettingsError, WriterBusyError
from detr_sentry.ipc.heartbeat import Heartbeat, Phase, read_heartbeat
from detr_sentry.ipc.layout import Layout
from detr_sentry.ipc.leftovers import clean
from detr_sentry.settings import FLAGS_VARIABLE

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from detr_sentry.settings import Settings

logger = logging.getLogger("detr_sentry.supervisor")

POLL_S = 0.2  # how often ended and hung services are looked for
FIRST_BACK_OFF_S = 0.5  # a service that died once is wanted back at once
LAST_BACK_OFF_S = 30.0  # one that cannot start must not spin, yet a mended cause should show within half a minute
STEADY_AFTER_S = 60.0  # a service that ran so long has its back-off forgiven
STARTING_S = 20.0  # interpreter and imports on a slow board, before the first beat
STOP_WITHIN_S = 2.0
STOP_ORDER = ("capture", "inference", "gateway", "controller")


class Supervisor:
    """Runs every service of `settings` until told to stop.

    `reload` reads the settings again; it is called when their file changes. `flags` is the command line's share of the
    settings, handed to the services in their environment. `open_page` opens a browser once the page answers.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        flags: Mapping[str, Any] | None = None,
        reload: Callable[[], Settings] | None = None,
        open_page: bool = False,
    ) -> None:
        self.settings = settings
        self._flags = dict(flags or {})
        self._reload = reload
        self._layout = Layout(settings.shm_root, settings.instance)
        self._stopping = False
        self._file_stamp = self._stamp()
        self.services = [Service(kind) for kind in ("controller", "gateway", "inference")]
        self.services += [Service("capture", camera) for camera in settings.cameras]
        self._trial: tuple[Settings, subprocess.Popen[bytes]] | None = None
        self._announced = False
        self._open_page = open_page

    def run(self) -> int:
        """Supervise until SIGTERM or SIGINT; the exit status is 0 after an ordered stop. Raises IpcError."""
        self._layout.create()
        lock = self._lock()
        previous = {number: signal.signal(number, self._stop) for number in (signal.SIGTERM, signal.SIGINT)}
        heartbeat = Heartbeat(self._layout.heartbeat("supervisor"), "supervisor")
        try:
            for service in self.services:
                self._start(service)
            while not self._stopping:
                heartbeat.beat(Phase.RUNNING, self.status())
                self._tick(time.monotonic())
                time.sleep(POLL_S)
        finally:
            self._end_trial()
            self._end_all()
            heartbeat.close()
            clean(self._layout)
            os.close(lock)
            for number, handler in previous.items():
                signal.signal(number, handler)
        return 0

    def status(self) -> dict[str, Any]:
        """What runs, for the heartbeat: per service its state, pid, restarts and the reason of the last end."""
        return {
            "services": {
                service.name: {
                    "state": str(service.state),
                    "pid": service.process.pid if service.process else None,
                    "restarts": service.restarts,
                    "reason": service.reason,
                }
                for service in self.services
            }
        }

    def _stop(self, _number: int, _frame: object) -> None:
        self._stopping = True

    def _lock(self) -> int:
        path = self._layout.base / "supervisor.lock"
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = os.pread(descriptor, 20, 0).decode("ascii", "replace").strip()
            os.close(descriptor)
            raise WriterBusyError(
                f"instance {self.settings.instance!r} is already running as process {pid}; "
                "stop it, or give this one another name with --instance"
            ) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        return descriptor

    def _start(self, service: Service) -> None:
        environment = {**os.environ, FLAGS_VARIABLE: json.dumps(self._flags)}
        self._layout.heartbeat(service.kind, service.camera).unlink(missing_ok=True)
        service.concerns = concerns_of(service, self.settings)
        service.process = subprocess.Popen(  # noqa: S603 - our own interpreter and our own module
            service.command(self.settings), env=environment, stdin=subprocess.DEVNULL, start_new_session=True
        )
        service.started_at = time.monotonic()
        self._change(service, State.STARTING)

    def _change(self, service: Service, state: State, why: str = "", level: int = logging.DEBUG) -> None:
        if service.state is not state:
            logger.log(level, "%s is %s%s", service.name, state, f": {why}" if why else "")
        service.state = state

    def _tick(self, now: float) -> None:
        for service in self.services:
            if service.process is not None and service.process.poll() is not None:
                self._ended(service, now)
            elif service.process is not None:
                self._watch(service, now)
            elif now >= service.start_again_at:
                service.restarts += 1
                self._start(service)
        self._announce()
        self._watch_trial()
        stamp = self._stamp()
        if stamp != self._file_stamp:
            self._file_stamp = stamp
            self._settings_changed()

    def _ended(self, service: Service, now: float) -> None:
        assert service.process is not None
        service.reason = reason_of(service.process.returncode)
        service.process = None
        if now - service.started_at >= STEADY_AFTER_S:
            service.failures = 0
        back_off = min(LAST_BACK_OFF_S, FIRST_BACK_OFF_S * 2**service.failures)
        service.failures += 1
        service.start_again_at = now + back_off
        self._change(service, State.WAITING, f"{service.reason}; starts again in {back_off:g} s", logging.WARNING)

    def _watch(self, service: Service, now: float) -> None:
        assert service.process is not None
        beat = read_heartbeat(self._layout.heartbeat(service.kind, service.camera))
        if beat is None or beat.pid != service.process.pid:
            overdue = now - service.started_at > STARTING_S
        else:
            overdue = beat.overdue(time.monotonic_ns())
            if service.state is not State.RUNNING and not overdue:
                level = logging.INFO if service.restarts else logging.DEBUG
                self._change(service, State.RUNNING, f"process {service.process.pid}", level)
        if overdue:
            logger.error("%s (process %d) hangs: no heartbeat in time; replacing it", service.name, service.process.pid)
            end_hung(service.process)

    def _announce(self) -> None:
        """Say once where the page is, as soon as it answers."""
        running = any(service.kind == "gateway" and service.state is State.RUNNING for service in self.services)
        if self._announced or not running:
            return
        beat = read_heartbeat(self._layout.heartbeat("gateway"))
        url = beat.status.get("url") if beat else None
        if url:
            self._announced = True
            logger.info("live page: %s", url)
            if self._open_page:
                webbrowser.open(url)

    def _stamp(self) -> tuple[int, int] | None:
        if self.settings.file is None:
            return None
        try:
            stat = self.settings.file.stat()
        except OSError:
            return None
        return stat.st_mtime_ns, stat.st_size

    def _settings_changed(self) -> None:
        if self._reload is None or self._file_stamp is None:
            return
        try:
            fresh = self._reload()
        except SettingsError as error:
            logger.error("the changed settings are not used: %s", error)  # noqa: TRY400 - the traceback says nothing more
            return
        if (fresh.instance, fresh.shm_root) != (self.settings.instance, self.settings.shm_root):
            logger.error("the changed settings are not used: instance and shm_root need a restart of the whole engine")
            return
        if fresh.model != self.settings.model:
            self._try_model(fresh)
        else:
            self._apply(fresh)

    def _try_model(self, fresh: Settings) -> None:
        """Have a child look at the new model first: one that is refused must not replace one that works."""
        self._end_trial()
        words = [sys.executable, "-m", "detr_sentry", "inference", "--check", "--config", str(fresh.file)]
        environment = {**os.environ, FLAGS_VARIABLE: json.dumps(self._flags)}
        self._trial = (
            fresh,
            subprocess.Popen(  # noqa: S603 - our own interpreter and our own module
                words, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
            ),
        )

    def _watch_trial(self) -> None:
        if self._trial is None or self._trial[1].poll() is None:
            return
        (fresh, process), self._trial = self._trial, None
        _, said = process.communicate()
        if process.returncode == 0:
            self._apply(fresh)
        else:
            reason = said.decode("utf-8", "replace").strip().rpartition("\n")[2]
            logger.error("the changed settings are not used: %s", reason.removeprefix("detr-sentry: "))

    def _end_trial(self) -> None:
        if self._trial is not None:
            self._trial[1].kill()
            self._trial[1].communicate()
            self._trial = None

    def _apply(self, fresh: Settings) -> None:
        self.settings = fresh
        known = {service.camera for service in self.services if service.kind == "capture"}
        for service in [service for service in self.services if service.kind == "capture"]:
            if service.camera not in fresh.cameras:
                self._end([service])
                self.services.remove(service)
        self.services += [Service("capture", camera) for camera in fresh.cameras if camera not in known]
        changed = [service for service in self.services if service.concerns != concerns_of(service, fresh)]
        logger.info("the settings changed: restarting %s", ", ".join(service.name for service in changed) or "nothing")
        self._end(changed)
        for service in changed:
            service.failures = 0
            self._start(service)

    def _end_all(self) -> None:
        """Stop in order: no new frames, then no new detections, then the page, then the last events are stored."""
        deadline = time.monotonic() + STOP_WITHIN_S
        for position, kind in enumerate(STOP_ORDER):
            share = (deadline - time.monotonic()) / (len(STOP_ORDER) - position)
            self._end([service for service in self.services if service.kind == kind], max(0.1, share))

    def _end(self, services: Sequence[Service], patience_s: float = 1.0) -> None:
        running = [service for service in services if service.process is not None]
        for service in running:
            assert service.process is not None
            service.process.terminate()
        deadline = time.monotonic() + patience_s
        for service in running:
            assert service.process is not None
            try:
                service.process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                logger.warning("%s did not stop in time and was killed", service.name)
                service.process.kill()
                service.process.wait()
            service.process = None
            self._change(service, State.STOPPED)
