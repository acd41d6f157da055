"""Where everything is on the broker: `detr_sentry/<instance>/...` and Home Assistant's discovery topics. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

ROOT = "detr_sentry"
ONLINE, OFFLINE = b"online", b"offline"


@dataclass(frozen=True, slots=True)
class CameraTopics:
    """The topics of one camera; `base` is `detr_sentry/<instance>/<camera>`."""

    base: str

    @property
    def availability(self) -> str:
        """`online` while what `person` says is of now, retained."""
        return f"{self.base}/availability"

    @property
    def person(self) -> str:
        """`ON`, `OFF` or `None`, retained."""
        return f"{self.base}/person"

    @property
    def state(self) -> str:
        """JSON, retained, only on change."""
        return f"{self.base}/state"

    @property
    def health(self) -> str:
        """JSON, retained, every ten seconds."""
        return f"{self.base}/health"

    @property
    def event(self) -> str:
        """JSON, each once, not retained."""
        return f"{self.base}/event"

    @property
    def snapshot(self) -> str:
        """JPEG of now, retained while the camera is not off."""
        return f"{self.base}/snapshot"

    @property
    def last_alarm(self) -> str:
        """JPEG of the last alarm's best frame, retained."""
        return f"{self.base}/last_alarm"

    @property
    def detections(self) -> str:
        """JSON, not retained."""
        return f"{self.base}/detections"

    @property
    def mode_set(self) -> str:
        """Takes commands."""
        return f"{self.base}/mode/set"

    @property
    def retained(self) -> frozenset[str]:
        """Everything that stays on the broker."""
        return frozenset(
            {self.availability, self.person, self.state, self.health, self.snapshot, self.last_alarm},
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Topics:
    """The topics of one engine. `instance` and cameras are ids of the settings, so they need no escaping."""

    instance: str
    discovery_prefix: str = "homeassistant"

    @property
    def base(self) -> str:
        """`detr_sentry/<instance>`."""
        return f"{ROOT}/{self.instance}"

    @property
    def availability(self) -> str:
        """`online`, and the last will: `offline`. Retained."""
        return f"{self.base}/availability"

    @property
    def info(self) -> str:
        """JSON by which a companion finds the engine's API, retained."""
        return f"{self.base}/info"

    @property
    def birth(self) -> str:
        """Where Home Assistant says that it has started."""
        return f"{self.discovery_prefix}/status"

    @property
    def commands(self) -> str:
        """The mode commands of all cameras."""
        return f"{self.base}/+/mode/set"

    def camera(self, camera: str) -> CameraTopics:
        """The topics of a camera."""
        return CameraTopics(f"{self.base}/{camera}")

    def discovery(self, camera: str) -> str:
        """Home Assistant's discovery topic of a camera's device."""
        return f"{self.discovery_prefix}/device/{self.instance}_{camera}/config"

    def commanded(self, topic: str, cameras: Iterable[str]) -> str | None:
        """The camera whose `mode/set` a topic is; None if it is of none of these."""
        return next((camera for camera in cameras if self.camera(camera).mode_set == topic), None)
