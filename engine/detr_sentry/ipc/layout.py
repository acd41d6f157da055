"""Where the services of one instance meet: paths below the shared memory root and names of message queues."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from detr_sentry.errors import IpcError

if TYPE_CHECKING:
    from pathlib import Path

Stream = Literal["frames", "detections", "sentry"]

STREAMS: tuple[Stream, ...] = ("frames", "detections", "sentry")

_ID = re.compile(r"[a-z0-9_]{1,32}")


def check_id(value: str, what: str) -> str:
    """The value itself, if it may name a directory, a message queue and an MQTT topic level.

    Raises:
        IpcError: anything but 1 to 32 of `a-z`, `0-9` and `_`; `what` says whose id it is.
    """
    if _ID.fullmatch(value) is None:
        raise IpcError(f"{what} {value!r}: an id is 1 to 32 of the characters a-z, 0-9 and _")
    return value


@dataclass(frozen=True, slots=True)
class Layout:
    """Names below `shm_root/instance`; every method is pure but `create`.

    Raises:
        IpcError: the instance, a camera or a service is not an id.
    """

    shm_root: Path
    instance: str

    def __post_init__(self) -> None:
        check_id(self.instance, "instance")

    @property
    def base(self) -> Path:
        """The directory of this instance."""
        return self.shm_root / self.instance

    @property
    def control_socket(self) -> Path:
        """The controller's socket."""
        return self.base / "control.sock"

    def stream(self, camera: str, stream: Stream) -> Path:
        """The directory of one stream of a camera."""
        return self.base / check_id(camera, "camera") / stream

    def heartbeat(self, service: str, camera: str | None = None) -> Path:
        """The heartbeat file of a service; a service that runs once per camera names its camera."""
        return self.base / "heartbeat" / self._member(service, camera)

    def bell(self, service: str, camera: str | None = None) -> str:
        """The name of a consumer's message queue."""
        return f"/ds.{self.instance}.{self._member(service, camera)}"

    def create(self) -> None:
        """Makes the base and heartbeat directories, for this user only, below a root that users share like /tmp.

        Raises:
            IpcError: they cannot be made, or belong to another user.
        """
        try:
            if not self.shm_root.is_dir():
                self.shm_root.mkdir(parents=True, exist_ok=True)
                self.shm_root.chmod(0o1777)
            for directory in (self.base, self.base / "heartbeat"):
                directory.mkdir(mode=0o700, exist_ok=True)
            owner = self.base.stat().st_uid
        except OSError as error:
            raise IpcError(
                f"{self.base} cannot be made: {error.strerror}; set shm_root to a tmpfs that this user may write"
            ) from error
        if owner != os.geteuid():
            raise IpcError(
                f"{self.base} belongs to user {owner}, this is user {os.geteuid()}: "
                "all services of an instance run as one user; choose another instance name"
            )

    @staticmethod
    def _member(service: str, camera: str | None) -> str:
        check_id(service, "service")
        return service if camera is None else f"{service}.{check_id(camera, 'camera')}"
