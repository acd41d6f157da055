from __future__ import annotations

import asyncio
import contextlib
import json
from typing import TYPE_CHECKING, Any

from aiohttp import WSMsgType

from detr_sentry.gateway import sockets
from detr_sentry.gateway.counters import Counters
from detr_sentry.gateway.live import MAX_BEHIND, LiveHub
from detr_sentry.ipc.messages import State

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import pytest
    from aiohttp import ClientWebSocketResponse

    from tests.engine.gateway.conftest import Running


class Feed:
    """A listener that takes messages until one is wanted."""

    def __init__(self, ws: ClientWebSocketResponse) -> None:
        self.ws = ws
        self.seen: list[dict[str, Any]] = []

    async def next(self, timeout_s: float = 5.0) -> dict[str, Any]:
        message: dict[str, Any] = await self.ws.receive_json(timeout=timeout_s)
        self.seen.append(message)
        return message

    async def until(self, **wanted: Any) -> dict[str, Any]:
        while True:
            message = await self.next()
            camera = message.get("camera")
            said = {**camera, **message} if isinstance(camera, dict) else message
            if all(said.get(key) == value for key, value in wanted.items()):
                return message


@contextlib.asynccontextmanager
async def listen(running: Running, query: str = "") -> AsyncIterator[Feed]:
    async with running.http.ws_connect(f"/api/v1/live{query}") as ws:
        yield Feed(ws)


async def test_the_full_state_comes_first_and_equals_the_api(running: Running) -> None:
    async with listen(running) as feed:
        snapshot = await feed.next()
    _, info = await running.get("/api/v1/info")
    _, cameras = await running.get("/api/v1/cameras")
    moving = {"frame_age_ms", "detection_age_ms"}

    assert "snapshot" == snapshot["type"]
    assert info == {**snapshot["info"], "companion": snapshot["companion"]}
    for told, asked in zip(snapshot["cameras"], cameras["cameras"], strict=True):
        assert {k: v for k, v in told.items() if k not in moving} == {k: v for k, v in asked.items() if k not in moving}


async def test_changes_follow_without_a_gap(running: Running) -> None:
    async with listen(running) as feed:
        snapshot = await feed.next()
        for number in range(1, 6):
            running.engine.push_state(State.ALARMED, count=number)
            await feed.until(count=number)
        running.engine.push_state(State.STANDBY)
        last = await feed.until(state="standby")

    numbers = [message["seq"] for message in feed.seen[1:]]
    assert list(range(snapshot["seq"] + 1, last["seq"] + 1)) == numbers
    assert all(message["type"] == "change" for message in feed.seen[1:])


async def test_events_and_the_claim_are_told(running: Running) -> None:
    server = running.engine.server
    assert server is not None
    event = {"id": "01KB1X5W9N6S4T3R2Q1P0M9K8J", "camera": "door", "type": "human_detected"}
    async with listen(running) as feed:
        await feed.next()
        server.push("event", {"event": event})
        told = await feed.until(event=event)
        server.push("picture", {"event": {**event, "snapshot": True, "snapshot_path": "/secret/place"}})
        picture = await feed.next()
        await running.send("PUT", "/api/v1/companion", json={"ha_instance": "x", "replace_mqtt_entities": False})
        claimed = await feed.next()

    assert "change" == told["type"]
    assert {**event, "snapshot": True} == picture["picture"]
    assert "x" == claimed["companion"]["ha_instance"]


async def test_a_dead_controller_is_told(running: Running) -> None:
    server = running.engine.server
    assert server is not None
    async with listen(running) as feed:
        await feed.next()
        await asyncio.to_thread(running.engine.layout.heartbeat("controller").unlink)
        await running.gateway.beats.refresh()
        await server.close()
        told = await feed.until(problem="controller_dead")

    assert (None, None) == (told["camera"]["state"], told["camera"]["mode"])


async def test_detections_come_only_if_asked_for(running: Running) -> None:
    async with listen(running) as quiet, listen(running, "?detections=1") as feed:
        await quiet.next()
        await feed.next()
        running.engine.push_detections((1, 2, 3, 4), frame=77)
        told = await feed.until(type="detections")
        running.engine.push_state(State.ALARMED, count=1)
        await quiet.until(state="alarmed")

    assert ("door", 77, "person") == (told["camera"], told["frame_number"], told["detections"][0]["label"])
    assert "detections" not in {message["type"] for message in quiet.seen}


async def test_a_client_may_ask_for_the_state_anew(running: Running) -> None:
    async with listen(running) as feed:
        await feed.next()
        await feed.ws.send_str('{"type":"snapshot"}')
        again = await feed.next()

    assert "snapshot" == again["type"]


async def test_a_client_that_says_anything_else_is_closed(running: Running) -> None:
    async with listen(running) as feed:
        await feed.next()
        await feed.ws.send_str("hello")
        message = await feed.ws.receive(timeout=5)

    assert (WSMsgType.CLOSE, 1003) == (message.type, message.data)


async def test_a_ping_comes_when_nothing_else_does(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sockets, "PING_S", 0.05)
    async with listen(running) as feed:
        await feed.next()
        ping = await feed.until(type="ping")

    assert running.gateway.live.seq >= ping["seq"]


async def test_measures_alone_are_no_change(running: Running) -> None:
    async with listen(running) as feed:
        await feed.next()
        for _ in range(10):
            await running.seen(running.engine.push_frame())
        running.engine.push_state(State.ALARMED, count=9)
        await feed.until(count=9)

    assert 2 == len(feed.seen)


async def test_the_last_listener_leaves_nothing_behind(running: Running) -> None:
    async with listen(running, "?detections=1") as feed:
        await feed.next()
    await running.until(lambda: running.gateway.counters.live == 0)

    assert not running.gateway.live.wants_detections


def test_a_listener_that_is_far_behind_gets_a_snapshot_instead() -> None:
    counters = Counters()
    hub = LiveHub(lambda: {"cameras": []}, counters)
    listener = hub.join(detections=True)
    taken = [json.loads(listener.take(hub.snapshot) or "null")]
    for number in range(MAX_BEHIND + 1):
        hub.change(camera={"id": "door", "count": number})
        hub.detections("door", {"frame_number": number, "detections": []})
    while message := listener.take(hub.snapshot):
        taken.append(json.loads(message))
    hub.leave(listener)
    hub.change(camera={})

    assert ["snapshot", "snapshot", "detections"] == [message["type"] for message in taken]
    assert (0, MAX_BEHIND + 1) == (taken[0]["seq"], taken[1]["seq"])
    assert MAX_BEHIND == taken[2]["frame_number"]
    assert 1 == counters.live_resyncs
    assert listener.take(hub.snapshot) is None
