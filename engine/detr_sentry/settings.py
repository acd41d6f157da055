"""Settings: parsed once, at the edge, into frozen values.

Sources, weakest first: the defaults, `sentry.yaml`, the app's options, environment variables, command line flags.
Every value remembers where it came from, and an error names the key and that origin. Environment variables are
`DETR_SENTRY_` + the path with `__` between its parts: `DETR_SENTRY_GATEWAY__PORT=9000`.

A missing value is `None`; nothing here touches a camera, a socket or shared memory.
"""

from __future__ import annotations

import dataclasses
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import voluptuous as vol

from detr_sentry._settings_file import read_yaml, update_yaml
from detr_sentry._settings_schema import ID_PATTERN, PRESETS, SCHEMA, VALIDATE
from detr_sentry._settings_values import (
    DEFAULT_SHM_ROOT,
    CameraSettings,
    ExposureSettings,
    GatewaySettings,
    HistorySettings,
    LogSettings,
    ModelSettings,
    MotionSettings,
    MqttSettings,
    MqttTlsSettings,
    SentrySettings,
    Settings,
    TelemetrySettings,
    Zone,
    default_state_dir,
)
from detr_sentry.errors import SettingsError
from detr_sentry.source_url import HIDDEN, parse_source, redact

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = [
    "DEFAULT_SHM_ROOT",
    "ID_PATTERN",
    "CameraSettings",
    "ExposureSettings",
    "GatewaySettings",
    "HistorySettings",
    "LogSettings",
    "ModelSettings",
    "MotionSettings",
    "MqttSettings",
    "MqttTlsSettings",
    "SentrySettings",
    "Settings",
    "TelemetrySettings",
    "Zone",
    "build_settings",
    "change_settings",
    "describe",
    "load_settings",
    "shown",
    "update_yaml",
]

ENVIRONMENT_PREFIX = "DETR_SENTRY_"
FLAGS_VARIABLE = "DETR_SENTRY_FLAGS"  # JSON: how the supervisor hands its command line to the services, unseen by `ps`
_SECRET_KEYS = frozenset({"mqtt.password"})
_OTHER_VARIABLES = {FLAGS_VARIABLE, "DETR_SENTRY_TEST_DATA", "DETR_SENTRY_CACHE", "DETR_SENTRY_CONFIG"}


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted keys of a nested mapping; lists are values."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        path = f"{prefix}{key}"
        if isinstance(value, dict):
            flat.update(flatten(value, f"{path}."))
        else:
            flat[path] = value
    return flat


def merge(base: dict[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with `over` laid on it, mappings merged, everything else replaced. Returns a new mapping."""
    result = dict(base)
    for key, value in over.items():
        below = result.get(key)
        result[key] = merge(below, value) if isinstance(value, dict) and isinstance(below, dict) else value
    return result


def environment_tree(environ: Mapping[str, str]) -> tuple[dict[str, Any], dict[str, str]]:
    """Settings in the environment as a nested mapping, and their origins by dotted key."""
    tree: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for name in sorted(environ):
        if not name.startswith(ENVIRONMENT_PREFIX) or name in _OTHER_VARIABLES:
            continue
        parts = name.removeprefix(ENVIRONMENT_PREFIX).lower().split("__")
        node = tree
        for part in parts[:-1]:
            node = node.setdefault(part, {})
            if not isinstance(node, dict):
                raise SettingsError(".".join(parts), "is set both as a value and as a group", f"environment {name}")
        node[parts[-1]] = environ[name]
        origins[".".join(parts)] = f"environment {name}"
    return tree, origins


def load_settings(
    file: Path | None = None,
    *,
    options: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] | None = None,
    flags: Mapping[str, Any] | None = None,
    may_be_absent: bool = False,
) -> Settings:
    """Settings from all sources, validated.

    A `file` that `may_be_absent` is where settings will be stored, and empty until then. Raises SettingsError naming
    the first wrong key and its origin.
    """
    content = {} if file is None or (may_be_absent and not file.exists()) else read_yaml(file)
    return _from_layers(content, file, options or {}, os.environ if environ is None else environ, flags or {})


def change_settings(settings: Settings, changes: Mapping[str, Any]) -> Settings:
    """Store `changes` (nested; None removes a key) in the settings file, and return what the file then says.

    The result is validated before anything is written. Environment and flags still win over the file when services
    start. Raises SettingsError (also without a file) and StorageError.
    """
    if settings.file is None:
        raise SettingsError("", "there is no settings file to change: start with --config FILE")
    content = read_yaml(settings.file) if settings.file.exists() else {}
    changed = _from_layers(_without_none(merge(content, changes)), settings.file, {}, {}, {})
    update_yaml(settings.file, changes)
    return changed


def _without_none(tree: dict[str, Any]) -> dict[str, Any]:
    return {
        key: _without_none(value) if isinstance(value, dict) else value
        for key, value in tree.items()
        if value is not None
    }


def _from_layers(
    content: dict[str, Any],
    file: Path | None,
    options: Mapping[str, Any],
    environ: Mapping[str, str],
    flags: Mapping[str, Any],
) -> Settings:
    layers: list[tuple[dict[str, Any], Callable[[str], str]]] = []
    if content:
        layers.append((content, lambda _key: str(file)))
    if options:
        layers.append((dict(options), lambda _key: "app options"))
    environment, names = environment_tree(environ)
    layers.append((environment, lambda key: names.get(key, "environment")))
    if flags:
        layers.append((dict(flags), lambda _key: "command line"))

    tree: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for layer, origin in layers:
        tree = merge(tree, layer)
        origins.update({key: origin(key) for key in flatten(layer)})
    return build_settings(tree, origins=origins, file=file)


def build_settings(tree: Mapping[str, Any], *, origins: Mapping[str, str], file: Path | None = None) -> Settings:
    """Validate a nested mapping of settings. Raises SettingsError."""
    try:
        valid = VALIDATE(dict(tree))
    except vol.MultipleInvalid as error:
        raise _explain(error.errors[0], origins) from None
    shared_sentry, shared_motion = valid.pop("sentry", {}), valid.pop("motion", {})
    cameras = {
        camera_id: _camera(camera_id, values or {}, shared_sentry, shared_motion, origins)
        for camera_id, values in valid.pop("cameras", {}).items()
    }
    groups = {
        "log": LogSettings,
        "telemetry": TelemetrySettings,
        "gateway": GatewaySettings,
        "model": ModelSettings,
        "mqtt": MqttSettings,
        "history": HistorySettings,
    }
    if "mqtt" in valid:
        valid["mqtt"] = _mqtt(valid["mqtt"], origins)
    values = {key: groups[key](**value) if key in groups else value for key, value in valid.items()}
    values.setdefault("state_dir", default_state_dir(values.get("instance", "main")))
    if "name" not in values and "instance" in values:
        values["name"] = f"DETR Sentry {values['instance']}"
    return Settings(**values, cameras=cameras, file=file, origins=dict(origins))


def _mqtt(values: dict[str, Any], origins: Mapping[str, str]) -> dict[str, Any]:
    """The group with its inner values made; half of a login or of an encryption is an error."""
    tls = MqttTlsSettings(**values.get("tls", {}))
    if "password" in values and "username" not in values:
        raise SettingsError(
            "mqtt.username", "is missing: a password needs a user name", origins.get("mqtt.password", "")
        )
    if (tls.ca_file is not None or tls.insecure) and not tls.enabled:
        raise SettingsError("mqtt.tls.enabled", "must be true where ca_file or insecure is set")
    return {**values, "tls": tls}


def _camera(
    camera_id: str,
    values: dict[str, Any],
    shared_sentry: Mapping[str, Any],
    shared_motion: Mapping[str, Any],
    origins: Mapping[str, str],
) -> CameraSettings:
    path = f"cameras.{camera_id}"
    if "source" not in values:
        raise SettingsError(f"{path}.source", "is missing: say where the pictures come from, for example /dev/video0")
    for key in ("source", "standby_source"):
        try:
            parse_source(values.get(key, "demo:"))
        except SettingsError as error:
            raise SettingsError(f"{path}.{key}", error.reason, origins.get(f"{path}.{key}", "")) from None
    rules: dict[str, Any] = {}
    for layer in (shared_sentry, values.pop("sentry", {})):
        rules.update({**PRESETS[layer.get("preset", "default")], **layer})
    rules.pop("preset", None)
    sentry = SentrySettings(**rules)
    if sentry.hits > sentry.window:
        raise SettingsError(f"{path}.sentry.hits", f"{sentry.hits} of the last {sentry.window} frames can never be met")
    if sentry.stay_threshold > sentry.enter_threshold:
        key = f"{path}.sentry.stay_threshold"
        raise SettingsError(
            key, f"must not be above enter_threshold ({sentry.enter_threshold:g})", origins.get(key, "")
        )
    motion = MotionSettings(**{**shared_motion, **values.pop("motion", {})})
    exposure = ExposureSettings(**values.pop("exposure", {}))
    name = values.pop("name", camera_id.replace("_", " ").capitalize())
    return CameraSettings(id=camera_id, name=name, exposure=exposure, motion=motion, sentry=sentry, **values)


def _explain(error: vol.Invalid, origins: Mapping[str, str]) -> SettingsError:
    """The first voluptuous error as one of ours: dotted key, origin, and for an unknown key the nearest known ones."""
    path = [str(part) for part in error.path]
    key = ".".join(path)
    reason = error.msg
    if isinstance(error, vol.Invalid) and reason in {"extra keys not allowed", "not a valid option"}:
        reason = f"is not a setting; known here: {', '.join(sorted(_known_keys(path[:-1])))}"
    elif reason == "expected a dictionary":
        reason = "must be a group of settings"
    origin = next((where for dotted, where in origins.items() if dotted == key or dotted.startswith(f"{key}.")), "")
    return SettingsError(key, reason, origin)


def _known_keys(path: list[str]) -> list[str]:
    node: Any = SCHEMA
    for part in path:
        node = node.get(part) or next((value for name, value in node.items() if callable(name)), {})
    return [name for name in node if isinstance(name, str)]


def shown(key: str, value: str) -> str:
    """The text of the setting `key` as people may see it: `HIDDEN` for secrets and for credentials in URLs."""
    return HIDDEN if key in _SECRET_KEYS else redact(value)


def describe(settings: Settings) -> dict[str, dict[str, Any]]:
    """Every setting by dotted key as `{"value", "origin"}`; secrets are hidden (see `shown`), paths are text."""

    def plain(value: Any) -> Any:
        if isinstance(value, str):
            return redact(value)
        if isinstance(value, Path):
            return str(value)
        if isinstance(value, tuple | list):
            return [plain(item) for item in value]
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        return value

    def origin(key: str) -> str:
        shared = re.sub(r"^cameras\.[^.]+\.(?=sentry\.|motion\.)", "", key)
        return settings.origins.get(key) or settings.origins.get(shared, "default")

    tree = dataclasses.asdict(settings)
    for key in ("file", "origins"):
        tree.pop(key)
    for camera in tree["cameras"].values():
        camera.pop("id")
    return {
        key: {"value": shown(key, value) if isinstance(value, str) else plain(value), "origin": origin(key)}
        for key, value in flatten(tree).items()
        if value != {}
    }
