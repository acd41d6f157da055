"""`detr-sentry capture` as a process of its own, seen as the other services see it: rings, bell, heartbeat, log."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kernel_cameras import wait_for

from detr_sentry.capture.source import FULL_RATE
from detr_sentry.ipc.bells import Bell
from detr_sentry.ipc.heartbeat import read_heartbeat
from detr_sentry.ipc.layout import Layout
from detr_sentry.ipc.messages import FrameView, Mode, SentryWriter, State
from detr_sentry.ipc.ring import RingReader

if TYPE_CHECKING:
    from collections.abc import Callable

STANDBY, OFF = 3.0, 0.0


class CaptureProcess:
    """The capture of camera `door`; this object plays the controller, which gives orders, and a reader."""

    def __init__(self, source: str, **settings: object) -> None:
        self.layout = Layout(Path("/dev/shm/detr-sentry"), "guest")
        self.layout.create()
        self._sentry = SentryWriter(self.layout.stream("door", "sentry"), camera_id="door", slots=6)
        self._bell = Bell(self.layout.bell("capture", "door"))
        self._frames = RingReader(self.layout.stream("door", "frames"))
        self._log = Path("/run/capture.log")
        settings |= {"source": source, "standby_fps": STANDBY}
        environment = {f"DETR_SENTRY_CAMERAS__DOOR__{key.upper()}": str(value) for key, value in settings.items()}
        environment |= {"DETR_SENTRY_INSTANCE": "guest", "DETR_SENTRY_STATE_DIR": "/run/state"}
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [Path(sys.executable).with_name("detr-sentry"), "capture", "door"],
                env=os.environ | environment,
                stderr=log,
            )

    @property
    def log_lines(self) -> list[str]:
        return self._log.read_text().splitlines()

    @property
    def resident_kib(self) -> int:
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0])

    @property
    def descriptors(self) -> int:
        return len(list(Path(f"/proc/{self._process.pid}/fd").iterdir()))

    @property
    def published(self) -> bool:
        """Whether there is a frame to be read."""
        return self._frames.latest() is not None

    def order(self, fps: float) -> None:
        """What the controller does: STANDBY, OFF, or FULL_RATE for an alarm."""
        state = {STANDBY: State.STANDBY, OFF: State.OFF, FULL_RATE: State.ALARMED}[fps]
        self._sentry.publish(
            state=state,
            mode=Mode.OFF if fps == OFF else Mode.AUTO,
            blind=False,
            capture_fps=fps,
            since_ns=time.time_ns(),
            count=0,
            event_id="",
            timestamp_ns=time.time_ns(),
        )
        self._bell.ring()

    def status(self) -> dict[str, Any]:
        beat = read_heartbeat(self.layout.heartbeat("capture", "door"))
        return dict(beat.status) if beat is not None else {}

    def wait_link(self, link: str, seconds: float = 30.0) -> float:
        """Seconds until the heartbeat says `link`."""
        start = time.monotonic()
        self._wait_for(lambda: self.status().get("link") == link, seconds, f"link {link}")
        return time.monotonic() - start

    def next_frame(self, seconds: float = 30.0) -> dict[str, Any]:
        """The next frame that is published from now on."""
        seen = self._frames.latest()
        return self._new_frame(seen, seconds)

    def watch(self, count: int) -> dict[str, Any]:
        """What the next `count` frames that a reader gets are like."""
        frames = [self.next_frame()]
        while len(frames) < count:
            frames.append(self._new_frame(frames[-1]["key"], 30.0))
        span_s = (frames[-1]["captured_ns"] - frames[0]["captured_ns"]) / 1e9
        return {
            "distinct": len({frame["digest"] for frame in frames}),
            "fps": round((frames[-1]["number"] - frames[0]["number"]) / span_s, 2),
            "ages_ms": sorted(round(frame["age_ms"], 1) for frame in frames),
            "size": frames[-1]["size"],
            "format": frames[-1]["format"],
        }

    def _new_frame(self, seen: tuple[int, int] | None, seconds: float) -> dict[str, Any]:
        lease = self._wait_for(lambda: self._frames.acquire(newer_than=seen), seconds, "a frame")
        with lease:
            frame = FrameView(lease)
            return {
                "key": lease.key,
                "number": frame.frame_number,
                "captured_ns": frame.captured_monotonic_ns,
                "age_ms": (time.monotonic_ns() - frame.captured_monotonic_ns) / 1e6,
                "digest": hashlib.blake2b(frame.data).hexdigest(),
                "size": [frame.width, frame.height],
                "format": frame.pixel_format.name,
            }

    def _wait_for(self, condition: Callable[[], Any], seconds: float, what: str) -> Any:
        try:
            return wait_for(condition, seconds, what)
        except TimeoutError as error:
            log = "\n".join(self.log_lines[-20:])
            error.add_note(f"status {self.status()}, exit {self._process.poll()}, log:\n{log}")
            raise

    def stop(self) -> tuple[int, float]:
        """End it as the supervisor does; exit status and seconds taken."""
        start = time.monotonic()
        self._process.send_signal(signal.SIGTERM)
        status = self._process.wait(30)
        taken = time.monotonic() - start
        self._sentry.close()
        self._bell.close()
        self._frames.close()
        return status, taken
