from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detr_sentry import settings_json
from detr_sentry.errors import SettingsError, StorageError
from detr_sentry.settings import (
    CameraSettings,
    Settings,
    build_settings,
    change_settings,
    describe,
    load_settings,
    update_yaml,
)


def build(tree: dict[str, Any]) -> Settings:
    return build_settings(tree, origins={})


def camera(**values: Any) -> CameraSettings:
    return build({"cameras": {"door": {"source": "demo:", **values}}}).camera("door")


def test_defaults_need_nothing() -> None:
    settings = load_settings(environ={})

    assert settings == Settings()
    assert settings.gateway.host == "127.0.0.1"


def test_settings_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Settings().name = "x"  # type: ignore[misc]


def test_precedence_is_flags_environment_options_file(tmp_path: Path) -> None:
    file = tmp_path / "sentry.yaml"
    file.write_text("gateway: {host: file, port: 1, public_url: http://file}\nname: file\n")
    settings = load_settings(
        file,
        options={"gateway": {"host": "options", "port": 2}, "name": "options"},
        environ={"DETR_SENTRY_GATEWAY__HOST": "environment", "DETR_SENTRY_NAME": "environment"},
        flags={"name": "flags"},
    )

    assert (settings.name, settings.gateway.host, settings.gateway.port) == ("flags", "environment", 2)
    assert settings.gateway.public_url == "http://file"
    assert {
        "gateway.public_url": str(file),
        "gateway.port": "app options",
        "gateway.host": "environment DETR_SENTRY_GATEWAY__HOST",
        "name": "command line",
    } == {key: settings.origins[key] for key in ("gateway.public_url", "gateway.port", "gateway.host", "name")}


@pytest.mark.parametrize(
    ("tree", "key", "words"),
    [
        ({"gateway": {"prt": 1}}, "gateway.prt", "known here: allowed_hosts, host"),
        ({"bogus": 1}, "bogus", "known here"),
        ({"gateway": 3}, "gateway", "group"),
        ({"gateway": {"port": "http"}}, "gateway.port", "0 to 65535"),
        ({"gateway": {"port": 70000}}, "gateway.port", "0 to 65535"),
        ({"gateway": {"port": 1.5}}, "gateway.port", "whole"),
        ({"gateway": {"port": True}}, "gateway.port", "number"),
        ({"gateway": {"metrics_public": "perhaps"}}, "gateway.metrics_public", "true or false"),
        ({"gateway": {"public_url": "ftp://x"}}, "gateway.public_url", "http"),
        ({"gateway": {"allowed_hosts": 3}}, "gateway.allowed_hosts", "list"),
        ({"model": {"mirror": "ftp://models.lan"}}, "model.mirror", "http or https"),
        ({"model": {"mirror": "https://me:secret@models.lan/x"}}, "model.mirror", "without user name"),
        ({"model": {"mirror": "https:///models"}}, "model.mirror", "with a host"),
        ({"mqtt": {"host": "broker", "password": "x"}}, "mqtt.username", "is missing"),
        ({"mqtt": {"password": 4711}}, "mqtt.password", "quotes"),
        ({"mqtt": {"password": "a\nb"}}, "mqtt.password", "control"),
        ({"mqtt": {"protocol": "4"}}, "mqtt.protocol", "5, 3.1.1"),
        ({"mqtt": {"discovery": "no"}}, "mqtt.discovery", "auto, always, never"),
        ({"mqtt": {"discovery_prefix": "home/+"}}, "mqtt.discovery_prefix", "without +"),
        ({"mqtt": {"discovery_prefix": "home//x"}}, "mqtt.discovery_prefix", "MQTT topic"),
        ({"mqtt": {"tls": {"ca_file": "ca.pem"}}}, "mqtt.tls.enabled", "must be true"),
        ({"mqtt": {"tls": {"insecure": "yes"}}}, "mqtt.tls.enabled", "must be true"),
        ({"mqtt": {"tls": {"ca": "x"}}}, "mqtt.tls.ca", "known here: ca_file"),
        ({"model": {"mirror": "http://[::1"}}, "model.mirror", "is not a URL"),
        ({"instance": "Front Door"}, "instance", "a-z"),
        ({"name": ""}, "name", "text"),
        ({"name": "a\nb"}, "name", "control"),
        ({"log": {"level": "loud"}}, "log.level", "debug, info"),
        ({"cameras": {"Door": {"source": "x"}}}, "cameras.Door", ""),
        ({"cameras": {"door": {}}}, "cameras.door.source", "missing"),
        ({"cameras": {"door": None}}, "cameras.door", ""),
        ({"cameras": {"door": {"source": "x", "width": float("nan")}}}, "cameras.door.width", "number"),
        ({"cameras": {"door": {"source": "x", "sentry": {"hits": 6}}}}, "cameras.door.sentry.hits", "never"),
        (
            {"cameras": {"door": {"source": "x", "sentry": {"stay_threshold": 0.9}}}},
            "cameras.door.sentry.stay_threshold",
            "above",
        ),
        (
            {"cameras": {"door": {"source": "x", "sentry": {"zones": [{"name": "a", "points": [[0, 0], [1, 1]]}]}}}},
            "cameras.door.sentry.zones",
            "3 points",
        ),
    ],
)
def test_a_wrong_setting_is_named(tree: dict[str, Any], key: str, words: str) -> None:
    with pytest.raises(SettingsError) as caught:
        build(tree)

    assert caught.value.key.startswith(key)
    assert words in str(caught.value)


def test_the_origin_of_a_wrong_value_is_named() -> None:
    with pytest.raises(SettingsError, match=r"gateway\.port: .*environment DETR_SENTRY_GATEWAY__PORT"):
        load_settings(environ={"DETR_SENTRY_GATEWAY__PORT": "many"})


def test_an_environment_name_cannot_be_value_and_group() -> None:
    with pytest.raises(SettingsError, match="both"):
        load_settings(environ={"DETR_SENTRY_GATEWAY": "x", "DETR_SENTRY_GATEWAY__PORT": "1"})


@pytest.mark.parametrize("text", ["{", "- 1\n- 2\n", "a: 1\na: 2\n", "\x00", "x: !!python/object:os.system {}\n"])
def test_a_broken_file_is_named(tmp_path: Path, text: str) -> None:
    file = tmp_path / "sentry.yaml"
    file.write_text(text)

    with pytest.raises(SettingsError, match="sentry.yaml"):
        load_settings(file, environ={})


def test_unreadable_files_are_named(tmp_path: Path) -> None:
    latin = tmp_path / "latin.yaml"
    latin.write_bytes(b"name: caf\xe9")
    large = tmp_path / "large.yaml"
    large.write_text("#" * (1 << 21))
    for file in (tmp_path / "absent.yaml", latin, large):
        with pytest.raises(SettingsError, match=file.name):
            load_settings(file, environ={})


def test_an_empty_file_is_no_settings(tmp_path: Path) -> None:
    file = tmp_path / "sentry.yaml"
    file.write_text("# nothing yet\n")

    assert load_settings(file, environ={}).cameras == {}


def test_cameras_inherit_the_shared_rules() -> None:
    settings = build(
        {
            "sentry": {"hold_s": 7, "hits": 2},
            "motion": {"enabled": "no"},
            "cameras": {"a": {"source": "x"}, "b": {"source": "y", "sentry": {"hold_s": 1}, "name": "Back"}},
        }
    )

    assert (settings.camera("a").sentry.hold_s, settings.camera("b").sentry.hold_s) == (7, 1)
    assert (settings.camera("b").sentry.hits, settings.camera("b").motion.enabled) == (2, False)
    assert (settings.camera("a").name, settings.camera("b").name) == ("A", "Back")


def test_the_reference_preset() -> None:
    rules = camera(sentry={"preset": "reference"}).sentry

    assert (rules.hits, rules.window, rules.exit_frames, rules.hold_s) == (3, 3, 40, 0)


def test_own_values_beat_the_preset_and_the_preset_beats_shared_values() -> None:
    settings = build(
        {
            "sentry": {"exit_frames": 9},
            "cameras": {"door": {"source": "x", "sentry": {"preset": "reference", "hold_s": 1}}},
        }
    )

    assert (settings.camera("door").sentry.exit_frames, settings.camera("door").sentry.hold_s) == (40, 1)


def test_a_chosen_name_stays_beside_an_instance() -> None:
    assert build({"instance": "front", "name": "Porch"}).name == "Porch"
    assert build({"instance": "front"}).name == "DETR Sentry front"


def test_an_unknown_camera_names_the_known_ones() -> None:
    with pytest.raises(SettingsError, match="known: door"):
        build({"cameras": {"door": {"source": "x"}}}).camera("garden")


def test_describe_hides_credentials_and_names_origins(tmp_path: Path) -> None:
    file = tmp_path / "sentry.yaml"
    file.write_text("sentry: {hits: 2}\ncameras: {door: {source: 'rtsp://me:secret@cam/1'}}\n")
    described = describe(load_settings(file, environ={}))

    assert "secret" not in str(described)
    assert {"value": "rtsp://********@cam/1", "origin": str(file)} == described["cameras.door.source"]
    assert {"value": 2, "origin": str(file)} == described["cameras.door.sentry.hits"]
    assert {"value": 5, "origin": "default"} == described["cameras.door.sentry.window"]


@pytest.mark.parametrize("key", ["source", "standby_source"])
def test_a_source_that_nobody_can_read_is_refused_without_its_password(key: str) -> None:
    with pytest.raises(SettingsError, match=rf"cameras\.door\.{key}: gopher:// is not supported") as caught:
        build({"cameras": {"door": {"source": "demo:", key: "gopher://me:secret@cam"}}})

    assert "secret" not in str(caught.value)


def test_update_keeps_a_file_of_comments_only(tmp_path: Path) -> None:
    file = tmp_path / "sentry.yaml"
    file.write_text("# nothing yet")
    update_yaml(file, {"name": "x"})

    assert file.read_text() == "# nothing yet\nname: x\n"


def test_update_keeps_comments_and_order(tmp_path: Path) -> None:
    file = tmp_path / "sentry.yaml"
    file.write_text("# mine\nname: Porch  # the front\ncameras:\n  door:\n    source: x\n    fps: 10\n")
    update_yaml(file, {"cameras": {"door": {"fps": None, "width": 640}}, "log": {"level": "debug"}})

    assert file.read_text() == (
        "# mine\nname: Porch  # the front\ncameras:\n  door:\n    source: x\n    width: 640\nlog:\n  level: debug\n"
    )


def test_update_makes_the_file(tmp_path: Path) -> None:
    file = tmp_path / "new" / "sentry.yaml"
    update_yaml(file, {"name": "x"})

    assert load_settings(file, environ={}).name == "x"


def test_a_failed_update_leaves_the_file_and_no_rubbish(tmp_path: Path) -> None:
    target = tmp_path / "sentry.yaml"
    target.mkdir()
    with pytest.raises(SettingsError):
        update_yaml(target, {"name": "x"})
    blocked = tmp_path / "blocked"
    blocked.write_text("a file, not a folder")
    with pytest.raises(StorageError, match="sentry.yaml"):
        update_yaml(blocked / "sentry.yaml", {"name": "x"})

    assert {"sentry.yaml", "blocked"} == {path.name for path in tmp_path.iterdir()}


def test_change_validates_before_it_writes(tmp_path: Path) -> None:
    file = tmp_path / "sentry.yaml"
    file.write_text("name: Porch  # mine\nlog: {level: debug}\n")
    settings = load_settings(file, environ={})
    with pytest.raises(SettingsError, match=r"gateway\.port"):
        change_settings(settings, {"gateway": {"port": "x"}})

    assert file.read_text() == "name: Porch  # mine\nlog: {level: debug}\n"

    changed = change_settings(settings, {"gateway": {"port": 9000}, "log": {"level": None}})

    assert (changed.gateway.port, changed.log.level, changed.name) == (9000, "info", "Porch")
    assert load_settings(file, environ={}) == changed
    assert "# mine" in file.read_text()


def test_change_needs_a_file_but_not_yet_its_presence(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="no settings file"):
        change_settings(Settings(), {})
    file = tmp_path / "later.yaml"
    changed = change_settings(load_settings(file, environ={}, may_be_absent=True), {"name": "x"})

    assert (changed.name, changed.file, file.exists()) == ("x", file, True)


@pytest.mark.parametrize(("value", "expected"), [("yes", True), ("OFF", False), (True, True), ("1", True)])
def test_flags_take_the_words_of_the_environment(value: object, expected: object) -> None:
    assert build({"gateway": {"metrics_public": value}}).gateway.metrics_public is expected


def test_texts_take_commas_and_paths_take_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    settings = build({"gateway": {"allowed_hosts": "a.lan, b.lan"}, "state_dir": "~/x"})

    assert (settings.gateway.allowed_hosts, settings.state_dir) == (("a.lan", "b.lan"), Path("/home/me/x"))


def test_a_mirror_is_a_base_url_or_a_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")

    assert build({"model": {"mirror": "http://models.lan/detectors/"}}).model.mirror == "http://models.lan/detectors"
    assert build({"model": {"mirror": "~/models"}}).model.mirror == "/home/me/models"


def test_the_state_folder_follows_the_instance(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "/state")

    assert build({"instance": "front"}).state_dir == Path("/state/detr-sentry/front")


json_like = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(["gateway", "cameras", "log", "model", "sentry", "name", "x"]), json_like))
def test_any_tree_is_settings_or_a_settings_error(tree: dict[str, Any]) -> None:
    try:
        build(tree)
    except SettingsError as error:
        assert error.key


def test_the_json_schema_takes_what_the_engine_takes(tmp_path: Path) -> None:
    document = settings_json.json_schema()
    tree = {
        "instance": "front",
        "gateway": {"port": 9000, "public_url": "https://x.lan"},
        "sentry": {"preset": "reference", "zones": [{"name": "door", "points": [[0, 0], [1, 0], [1, 1]]}]},
        "cameras": {"door": {"source": "demo:", "fps": 15, "exposure": {"mode": "camera"}}},
    }
    jsonschema.validate(tree, document)
    build(tree)

    wrongs: list[dict[str, Any]] = [
        {"bogus": 1},
        {"gateway": {"port": -1}},
        {"cameras": {"a b": {"source": "x"}}},
        {"cameras": {"a": {}}},
    ]
    for wrong in wrongs:
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(wrong, document)
        with pytest.raises(SettingsError):
            build(wrong)


def test_the_committed_json_schema_is_fresh(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert settings_json.main(["--check"]) == 0

    stale = tmp_path / "stale.json"
    stale.write_text("{}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(settings_json, "FILE", stale)

        assert settings_json.main(["--check"]) == 1
        assert "stale" in capsys.readouterr().err
        assert settings_json.main([]) == 0
        assert settings_json.main(["--check"]) == 0


def test_the_broker_has_the_port_of_its_encryption() -> None:
    plain, encrypted, own = (
        build({"mqtt": tree}).mqtt.effective_port
        for tree in ({"host": "b"}, {"tls": {"enabled": True}}, {"tls": {"enabled": True}, "port": 1})
    )

    assert (1883, 8883, 1) == (plain, encrypted, own)


def test_the_password_of_the_broker_is_shown_nowhere() -> None:
    settings = load_settings(
        environ={"DETR_SENTRY_MQTT__PASSWORD": "sesame", "DETR_SENTRY_MQTT__USERNAME": "me"},
        options={"mqtt": {"host": "broker"}},
    )

    assert "sesame" == settings.mqtt.password
    assert "sesame" not in f"{describe(settings)}{settings}"
    assert {"value": "********", "origin": "environment DETR_SENTRY_MQTT__PASSWORD"} == describe(settings)[
        "mqtt.password"
    ]
    with pytest.raises(SettingsError) as caught:
        build({"mqtt": {"password": "sesame\n"}})

    assert "sesame" not in str(caught.value)


def test_the_state_folder_is_below_home_without_xdg(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.setenv("HOME", "/home/me")

    assert build({}).state_dir == Path("/home/me/.local/state/detr-sentry/main")


def test_describe_is_plain_data() -> None:
    zone = {"name": "porch", "points": [[0, 0], [1, 0], [1, 1]]}
    described = describe(
        camera_settings := build({"cameras": {"door": {"source": "demo:", "sentry": {"zones": [zone]}}}})
    )

    assert described["cameras.door.sentry.zones"]["value"] == [{"name": "porch", "points": [[0, 0], [1, 0], [1, 1]]}]
    assert described["state_dir"]["value"] == str(camera_settings.state_dir)


def test_telemetry_is_off_until_it_has_somewhere_to_go() -> None:
    assert not build({}).telemetry.enabled
    assert build({"telemetry": {"endpoint": "http://collector:4318"}}).telemetry.enabled


def test_mqtt_topics_hold_no_wildcards() -> None:
    with pytest.raises(SettingsError, match="without"):
        build({"mqtt": {"host": "broker", "discovery_prefix": "home/#"}})
