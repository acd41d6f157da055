from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from detr_sentry.ipc.heartbeat import Heartbeat, Phase
from detr_sentry.settings import load_settings

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.engine.gateway.conftest import Running

FILE = """\
# the front door
cameras:
  door:
    source: rtsp://user:secret@camera.local/stream  # keep me
    fps: 20
"""


@pytest.fixture
async def stored(start: Callable[..., Any], make_settings: Any, tmp_path: Path) -> Running:
    """A gateway whose settings come from a file, the environment and the command line."""
    file = tmp_path / "sentry.yaml"
    await asyncio.to_thread(file.write_text, FILE)
    base = make_settings()

    def load() -> Any:
        return load_settings(
            file,
            environ={"DETR_SENTRY_LOG__LEVEL": "warning"},
            flags={
                "instance": base.instance,
                "shm_root": str(base.shm_root),
                "state_dir": str(base.state_dir),
                "gateway": {"port": 0},
            },
        )

    running: Running = await start(settings=await asyncio.to_thread(load))
    return running


def text_of(running: Running) -> str:
    file = running.engine.settings.file
    assert file is not None
    return file.read_text()


async def test_values_come_with_their_origins_and_without_secrets(stored: Running) -> None:
    status, body = await stored.get("/api/v1/settings")
    settings = body["settings"]

    assert 200 == status
    assert {"value": 20.0, "origin": str(stored.engine.settings.file)} == settings["cameras.door.fps"]
    assert {"value": 3.0, "origin": "default"} == settings["cameras.door.standby_fps"]
    assert {"value": "warning", "origin": "environment DETR_SENTRY_LOG__LEVEL"} == settings["log.level"]
    assert "rtsp://********@camera.local/stream" == settings["cameras.door.source"]["value"]
    assert "secret" not in str(body)


async def test_a_change_is_stored_with_the_comments_kept(stored: Running) -> None:
    status, body = await stored.send(
        "PATCH", "/api/v1/settings", json={"cameras": {"door": {"fps": 7, "name": "Gate"}}}
    )
    text = await asyncio.to_thread(text_of, stored)
    _, again = await stored.get("/api/v1/settings")

    assert (200, 7.0) == (status, body["settings"]["cameras.door.fps"]["value"])
    assert FILE.replace("fps: 20", "fps: 7") + "    name: Gate\n" == text
    assert again["settings"] == body["settings"]
    assert "warning" == body["settings"]["log.level"]["value"]
    assert "secret" not in str(body)
    assert "next start" in body["applied"]


async def test_a_supervisor_applies_changes_by_itself(stored: Running) -> None:
    await asyncio.to_thread(
        lambda: Heartbeat(stored.engine.layout.heartbeat("supervisor"), "supervisor").beat(Phase.RUNNING)
    )
    _status, body = await stored.send("PATCH", "/api/v1/settings", json={"cameras": {"door": {"fps": 7}}})

    assert "restart within a second" in body["applied"]


async def test_null_removes_a_key(stored: Running) -> None:
    status, body = await stored.send("PATCH", "/api/v1/settings", json={"cameras": {"door": {"fps": None}}})

    assert (200, {"value": 30.0, "origin": "default"}) == (status, body["settings"]["cameras.door.fps"])


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"cameras": {"door": {"fps": 0}}}, "cameras.door.fps"),
        ({"cameras": {"door": {"fsp": 1}}}, "cameras.door.fsp"),
        ({"cameras": {"Door!": {"source": "demo:"}}}, "cameras.Door!"),
        ({"cameras": {"door": None}, "gateway": {"port": "x"}}, "gateway.port"),
        ({"cameras": 5}, "cameras"),
        ({"cameras": {"gate": {"fps": 3}}}, "cameras.gate.source"),
    ],
)
async def test_a_wrong_change_names_the_key_and_stores_nothing(stored: Running, changes: Any, key: str) -> None:
    status, problem = await stored.send("PATCH", "/api/v1/settings", json=changes)
    text = await asyncio.to_thread(text_of, stored)

    assert (422, "bad_setting", key, FILE) == (status, problem["code"], problem["key"], text)


async def test_a_source_sent_back_as_it_was_shown_keeps_its_password(stored: Running) -> None:
    _, body = await stored.get("/api/v1/settings")
    source = body["settings"]["cameras.door.source"]["value"]
    status, _ = await stored.send("PATCH", "/api/v1/settings", json={"cameras": {"door": {"source": source, "fps": 9}}})
    text = await asyncio.to_thread(text_of, stored)

    assert (200, FILE.replace("fps: 20", "fps: 9")) == (status, text)


async def test_a_new_source_replaces_the_old_one_with_its_password(stored: Running) -> None:
    source = "rtsp://other:pa55@camera.local/stream"
    status, body = await stored.send("PATCH", "/api/v1/settings", json={"cameras": {"door": {"source": source}}})
    again, _ = await stored.send(
        "PATCH",
        "/api/v1/settings",
        json={"cameras": {"door": {"source": body["settings"]["cameras.door.source"]["value"]}}},
    )
    text = await asyncio.to_thread(text_of, stored)

    assert (200, 200, FILE.replace("user:secret", "other:pa55").replace("stream  #", "stream   #")) == (
        status,
        again,
        text,
    )
    assert "pa55" not in str(body)


async def test_what_stands_for_a_secret_does_not_replace_it(stored: Running) -> None:
    source = "http://camera.local/other?password=********"
    status, problem = await stored.send("PATCH", "/api/v1/settings", json={"cameras": {"door": {"source": source}}})
    text = await asyncio.to_thread(text_of, stored)

    assert (422, "bad_setting", "cameras.door.source") == (status, problem["code"], problem["key"])
    assert FILE == text


async def test_a_disk_that_refuses_is_a_problem(stored: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    file = stored.engine.settings.file
    assert file is not None
    # A folder of that name cannot be replaced by a file, whoever we are.
    await asyncio.to_thread(file.unlink)
    await asyncio.to_thread(file.mkdir)
    status, problem = await stored.send("PATCH", "/api/v1/settings", json={"name": "x"})

    assert status in {422, 507}
    assert problem["code"] in {"bad_setting", "storage"}


async def test_many_changes_at_once_are_all_stored(stored: Running) -> None:
    changes = [{"cameras": {f"cam{number}": {"source": "demo:"}}} for number in range(6)]
    answers = await asyncio.gather(*(stored.send("PATCH", "/api/v1/settings", json=change) for change in changes))
    text = await asyncio.to_thread(text_of, stored)

    assert {200} == {status for status, _ in answers}
    assert all(f"cam{number}:" in text for number in range(6))


async def test_without_a_file_there_is_nothing_to_change(running: Running) -> None:
    assert running.engine.settings == replace(running.engine.settings, file=None)
    status, problem = await running.send("PATCH", "/api/v1/settings", json={"name": "x"})

    assert (409, "no_settings_file") == (status, problem["code"])


async def test_the_password_of_the_broker_is_hidden_and_kept(stored: Running) -> None:
    login = {"mqtt": {"host": "broker", "username": "me", "password": "sesame"}}
    _, first = await stored.send("PATCH", "/api/v1/settings", json=login)
    shown = {key: first["settings"][f"mqtt.{key}"]["value"] for key in ("host", "username", "password")}
    status, again = await stored.send("PATCH", "/api/v1/settings", json={"mqtt": {**shown, "port": 1884}})
    text = await asyncio.to_thread(text_of, stored)

    assert (200, "********") == (status, shown["password"])
    assert "sesame" not in f"{first}{again}"
    assert "password: sesame" in text
    assert "port: 1884" in text
