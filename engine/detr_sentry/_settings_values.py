"""The frozen values that settings become; `detr_sentry.settings` is their public face."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from detr_sentry.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Mapping

DEFAULT_SHM_ROOT = Path("/dev/shm/detr-sentry")  # noqa: S108 - users share it as they do /tmp


def default_state_dir(instance: str) -> Path:
    """Where mode, token and history of an instance live unless a setting says otherwise (XDG base directories)."""
    root = os.environ.get("XDG_STATE_HOME")
    return (Path(root) if root else Path.home() / ".local" / "state") / "detr-sentry" / instance


@dataclass(frozen=True, slots=True, kw_only=True)
class LogSettings:
    """How services log. `services` overrides the level by service name."""

    level: str = "info"
    format: str = "human"
    services: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class TelemetrySettings:
    """OpenTelemetry export; off unless an endpoint is set. `sampling` is the share of traces kept, 0..1."""

    endpoint: str | None = None
    sampling: float = 1.0

    @property
    def enabled(self) -> bool:
        """Whether spans and metrics are exported."""
        return self.endpoint is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewaySettings:
    """Where the API and the page listen.

    `ingress_port` opens a second listener that needs no token and answers only `ingress_peer`: the Supervisor's.
    """

    host: str = "127.0.0.1"
    port: int = 8099
    public_url: str | None = None
    allowed_hosts: tuple[str, ...] = ()
    metrics_public: bool = False
    ingress_port: int | None = None
    ingress_peer: str = "172.30.32.2"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSettings:
    """The detector. `name`: `embedded`, a catalogue name, an imported one or a path; `labels` are the classes found.

    `mirror` is a base URL or folder that holds `NAME.onnx` of the catalogue, asked instead of the models' own hosts.
    """

    name: str = "embedded"
    backend: str = "auto"
    threads: int | None = None
    labels: tuple[str, ...] = ("person",)
    cache_dir: Path | None = None
    mirror: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MqttTlsSettings:
    """Encryption to the broker. Without `ca_file` the system's authorities count; `insecure` checks no certificate."""

    enabled: bool = False
    ca_file: Path | None = None
    insecure: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class MqttSettings:
    """The broker; without a `host` there is no MQTT. Without a `port` it is 1883, with TLS 8883.

    `discovery` says whether Home Assistant is told of the entities: `auto` while no companion has claimed the engine.
    `detections` publishes the boxes too, up to five times a second.
    """

    host: str | None = None
    port: int | None = None
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    tls: MqttTlsSettings = field(default_factory=MqttTlsSettings)
    protocol: str = "5"
    discovery: str = "auto"
    discovery_prefix: str = "homeassistant"
    detections: bool = False

    @property
    def effective_port(self) -> int:
        """The port that is used."""
        return self.port or (8883 if self.tls.enabled else 1883)


@dataclass(frozen=True, slots=True, kw_only=True)
class HistorySettings:
    """How much of the past is kept; the oldest events go first."""

    max_events: int = 1000
    max_age_days: float = 30.0
    max_snapshot_mb: float = 512.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ExposureSettings:
    """V4L2 exposure: `camera` leaves the device's own choice, `limited` is aperture priority with a longest time."""

    mode: str = "limited"
    limit_ms: float = 33.0


@dataclass(frozen=True, slots=True, kw_only=True)
class MotionSettings:
    """The motion gate of standby. `sensitivity` 0..1; `keep_alive_s` is the longest time without running the model."""

    enabled: bool = True
    sensitivity: float = 0.5
    keep_alive_s: float = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Zone:
    """A polygon in which people count. `points` are (x, y) as shares of the picture, 0..1."""

    name: str
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SentrySettings:
    """When a person is believed, and when they have gone (design: the sentry).

    `hits` of the last `window` distinct inferred frames must hold a person that passes the rules. `min_area` is a share
    of the picture. Scores of `enter_threshold` and above count towards an alarm, of `stay_threshold` and above keep it.
    """

    hits: int = 3
    window: int = 5
    enter_threshold: float = 0.5
    stay_threshold: float = 0.35
    min_area: float = 0.0
    dwell_s: float = 0.0
    hold_s: float = 3.0
    exit_frames: int = 3
    validating_timeout_s: float = 2.0
    blind_after_s: float = 3.0
    zones: tuple[Zone, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class CameraSettings:
    """One camera. Sizes in pixels, rates in frames per second; `None` lets the source choose."""

    id: str
    source: str
    name: str = ""
    standby_source: str | None = None
    width: int | None = None
    height: int | None = None
    fps: float = 30.0
    standby_fps: float = 3.0
    exposure: ExposureSettings = field(default_factory=ExposureSettings)
    motion: MotionSettings = field(default_factory=MotionSettings)
    sentry: SentrySettings = field(default_factory=SentrySettings)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything the engine can be told, validated. `origins` maps each dotted key that was set to its origin."""

    instance: str = "main"
    name: str = "DETR Sentry"
    state_dir: Path = field(default_factory=lambda: default_state_dir("main"))
    shm_root: Path = DEFAULT_SHM_ROOT
    log: LogSettings = field(default_factory=LogSettings)
    telemetry: TelemetrySettings = field(default_factory=TelemetrySettings)
    gateway: GatewaySettings = field(default_factory=GatewaySettings)
    model: ModelSettings = field(default_factory=ModelSettings)
    mqtt: MqttSettings = field(default_factory=MqttSettings)
    history: HistorySettings = field(default_factory=HistorySettings)
    cameras: Mapping[str, CameraSettings] = field(default_factory=dict)
    file: Path | None = None
    origins: Mapping[str, str] = field(default_factory=dict)

    def camera(self, camera_id: str) -> CameraSettings:
        """The settings of one camera; SettingsError names the known ones otherwise."""
        try:
            return self.cameras[camera_id]
        except KeyError:
            known = ", ".join(self.cameras) or "none"
            raise SettingsError("cameras", f"there is no camera {camera_id!r}; known: {known}") from None
