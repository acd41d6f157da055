from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import pytest

from detr_sentry.errors import ControlError
from detr_sentry.ipc.messages import Mode, State

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.engine.gateway.conftest import Running

EVENT = "01KB1X5W9N6S4T3R2Q1P0M9K8J"
KEYS = {
    "id", "name", "state", "mode", "blind", "problem", "since", "count", "fps", "frame_age_ms", "detection_age_ms",
    "inference_ms", "provider", "model", "width", "height", "pixel_format", "drops", "last_seen", "last_event_id",
    "source",
}  # fmt: skip


async def test_a_camera_has_every_key_of_the_contract(running: Running) -> None:
    running.engine.push_state(State.ALARMED, count=2, event_id=EVENT)
    await running.until(lambda: running.gateway.feeds["door"].last_event_id is not None)
    status, body = await running.get("/api/v1/cameras")
    (camera,) = body["cameras"]
    ages = {camera.pop("frame_age_ms"), camera.pop("detection_age_ms")}

    assert 200 == status
    assert KEYS <= {*camera, "frame_age_ms", "detection_age_ms"}
    assert all(0 <= age < 5000 for age in ages)
    assert {
        "id": "door",
        "name": "Front door",
        "state": "alarmed",
        "mode": "auto",
        "mode_until": None,
        "blind": False,
        "problem": None,
        "since": "2023-11-14T22:13:20.000Z",
        "count": 2,
        "fps": None,
        "inference_ms": 12.34,
        "provider": "CPUExecutionProvider",
        "model": "embedded",
        "width": 320,
        "height": 240,
        "pixel_format": "MJPEG",
        "drops": {"bad_jpeg": 2},
        "link": "connected",
        "last_seen": None,
        "last_event_id": EVENT,
        "source": "rtsp://********@camera.local/stream",
    } == camera


async def test_a_camera_off_has_no_measures_and_no_problem(running: Running) -> None:
    running.engine.switch_off()
    await running.until(lambda: running.gateway.feeds["door"].off)
    _status, body = await running.get("/api/v1/cameras")
    (camera,) = body["cameras"]

    assert ("off", "off", None, None) == (camera["state"], camera["mode"], camera["problem"], camera["count"])
    assert (None, None, None) == (camera["fps"], camera["frame_age_ms"], camera["detection_age_ms"])


async def test_a_blind_camera_counts_nobody(running: Running) -> None:
    running.engine.push_state(State.ALARMED, count=1, blind=True)
    await running.until(
        lambda: bool(running.gateway.feeds["door"].sentry and running.gateway.feeds["door"].sentry.blind)
    )
    camera = running.gateway.camera("door")

    assert ("alarmed", True, None, "blind") == (camera["state"], camera["blind"], camera["count"], camera["problem"])


async def test_fps_is_measured_and_falls_to_zero(start: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    running: Running = await start()
    engine, feed = running.engine, running.gateway.feeds["door"]
    began = time.monotonic() - 1.5
    for step in range(31):
        await running.seen(engine.push_frame(age_s=time.monotonic() - (began + step * 0.05)))
    measured = feed.fps
    monkeypatch.setattr(feed, "_clock_ns", lambda: time.monotonic_ns() + 3_000_000_000)
    stopped = feed.fps

    assert measured == pytest.approx(20, rel=0.05)
    assert 0.0 == stopped


async def test_without_a_controller_the_cameras_still_answer(start: Callable[..., Any]) -> None:
    running: Running = await start(controlled=False)
    engine = running.engine
    await running.seen(engine.push_frame())
    await asyncio.to_thread(running.engine.layout.heartbeat("controller").unlink)
    await running.gateway.beats.refresh()
    status, body = await running.get("/api/v1/cameras")
    (camera,) = body["cameras"]
    changed, problem = await running.send("POST", "/api/v1/cameras/door/mode", json={"mode": "off"})
    events, _ = await running.get("/api/v1/events")

    assert (200, None, None, None) == (status, camera["mode"], camera["state"], camera["blind"])
    assert (320, "controller_dead") == (camera["width"], camera["problem"])
    assert (503, "no_controller") == (changed, problem["code"])
    assert 503 == events


async def test_a_controller_that_comes_back_is_found(start: Callable[..., Any]) -> None:
    running: Running = await start()
    link = running.gateway.link
    assert running.engine.server is not None
    await running.engine.server.close()
    await running.until(lambda: not link.cameras)
    gone, _ = await running.send("POST", "/api/v1/cameras/door/mode", json={"mode": "standby"})
    await running.engine.serve_control()
    await running.until(lambda: bool(link.cameras))
    back, _ = await running.send("POST", "/api/v1/cameras/door/mode", json={"mode": "standby"})

    assert (503, 200) == (gone, back)


@pytest.mark.parametrize("mode", ["auto", "standby", "alarmed", "off"])
async def test_a_mode_is_set(running: Running, mode: str) -> None:
    status, camera = await running.send("POST", "/api/v1/cameras/door/mode", json={"mode": mode, "duration": 90})

    assert (200, mode, [(mode, 90.0)]) == (status, camera["mode"], running.engine.modes)
    assert KEYS <= set(camera)


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"mode": "On"}, 422, "invalid"),
        ({}, 422, "invalid"),
        ({"mode": 1}, 422, "invalid"),
        ({"mode": True}, 422, "invalid"),
        ({"mode": "off", "duration": 0}, 422, "invalid"),
        ({"mode": "off", "duration": -1}, 422, "invalid"),
        ({"mode": "off", "duration": "5"}, 422, "invalid"),
        ({"mode": "off", "duration": True}, 422, "invalid"),
        ({"mode": "off", "duration": 1e300}, 422, "invalid"),
        ({"mode": "off", "more": 1}, 422, "invalid"),
        ([], 422, "invalid"),
        ("off", 422, "invalid"),
    ],
)
async def test_a_wrong_mode_request_changes_nothing(running: Running, body: Any, status: int, code: str) -> None:
    answered, problem = await running.send("POST", "/api/v1/cameras/door/mode", json=body)

    assert (status, code, []) == (answered, problem["code"], running.engine.modes)


@pytest.mark.parametrize(
    ("data", "status", "code"),
    [
        (b"", 400, "bad_json"),
        (b"{", 400, "bad_json"),
        (b"\xff\xfe", 400, "bad_json"),
        (b'{"mode":NaN}', 400, "bad_json"),
        (b'{"a":' * 100 + b"1" + b"}" * 100, 422, "invalid"),
        (b"[" * 60_000, 400, "bad_json"),
        (b" " * 100_000, 413, "too_large"),
    ],
)
async def test_a_hostile_body_is_refused(running: Running, data: bytes, status: int, code: str) -> None:
    answered, problem = await running.send(
        "POST", "/api/v1/cameras/door/mode", data=data, headers={"Content-Type": "application/json"}
    )

    assert (status, code) == (answered, problem["code"])


@pytest.mark.parametrize(
    ("refusal", "status", "code"),
    [
        (ControlError("storage", "disk full"), 507, "storage"),
        (ControlError("invalid", "no"), 422, "invalid"),
        (ControlError("unknown_camera", "no"), 404, "unknown_camera"),
        (ControlError("busy", "later"), 503, "busy"),
        (ControlError("internal", "oops"), 502, "internal"),
    ],
)
async def test_a_refusal_of_the_controller_is_passed_on(
    running: Running, refusal: ControlError, status: int, code: str
) -> None:
    running.engine.refuse = refusal
    answered, problem = await running.send("POST", "/api/v1/cameras/door/mode", json={"mode": "off"})

    assert (status, code) == (answered, problem["code"])
    assert (status, refusal.code) == (problem["status"], problem["code"])


@pytest.mark.parametrize("camera", ["nobody", "DOOR", "..", "door%2F..", "%00", "a" * 5000])
async def test_an_unknown_camera_is_not_found(running: Running, camera: str) -> None:
    mode, _ = await running.send("POST", f"/api/v1/cameras/{camera}/mode", json={"mode": "off"})
    snapshot, _ = await running.get(f"/api/v1/cameras/{camera}/snapshot.jpg")

    assert {mode, snapshot} <= {400, 404}


async def test_info_tells_what_the_inference_service_says_that_it_uses(running: Running) -> None:
    running.engine.beat(provider="CUDAExecutionProvider", model="rf-detr-nano", embedded=False)
    await running.gateway.beats.refresh()
    status, info = await running.get("/api/v1/info")

    assert 200 == status
    assert ("CUDAExecutionProvider", "rf-detr-nano", False) == (info["provider"], info["model"], info["embedded"])
    assert (running.engine.settings.instance, True, None) == (
        info["instance_id"],
        info["controller"],
        info["companion"],
    )


async def test_info_knows_nothing_of_a_dead_inference_service(running: Running) -> None:
    await asyncio.to_thread(running.engine.layout.heartbeat("inference").unlink)
    await running.gateway.beats.refresh()
    _status, info = await running.get("/api/v1/info")

    assert (None, None, None) == (info["provider"], info["model"], info["inference"])


async def test_events_come_in_pages(running: Running) -> None:
    ids = [f"01KB1X5W9N6S4T3R2Q1P0M9K{number:02d}" for number in range(9, 0, -1)]
    running.engine.events = [{"id": event, "camera": "door", "snapshot_path": "/secret/place"} for event in ids]
    _, first = await running.get("/api/v1/events?limit=4")
    _, second = await running.get(f"/api/v1/events?limit=4&before={first['events'][-1]['id']}&camera=door")

    assert ids[:8] == [event["id"] for event in first["events"] + second["events"]]
    assert all("snapshot_path" not in event for event in first["events"])


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("?limit=0", 422),
        ("?limit=501", 422),
        ("?limit=x", 422),
        ("?limit=1_0", 422),
        ("?limit=%D9%A3", 422),
        ("?before=nothing", 422),
        ("?before=../../../../etc/passwd", 422),
        ("?camera=nobody", 404),
    ],
)
async def test_a_wrong_query_for_events_is_refused(running: Running, query: str, status: int) -> None:
    answered, _ = await running.get(f"/api/v1/events{query}")

    assert status == answered


async def test_an_events_picture_is_served_from_disk(running: Running) -> None:
    folder = running.engine.settings.state_dir / "events"
    await asyncio.to_thread(folder.mkdir, parents=True)
    await asyncio.to_thread((folder / f"{EVENT}.jpg").write_bytes, running.engine.jpeg)
    status, body = await running.get(f"/api/v1/events/{EVENT}/snapshot.jpg")
    async with running.http.get(f"/api/v1/events/{EVENT}/snapshot.jpg") as response:
        etag = response.headers["ETag"]
    known, _ = await running.get(f"/api/v1/events/{EVENT}/snapshot.jpg", headers={"If-None-Match": etag})
    await asyncio.to_thread((folder / f"{EVENT}.jpg").write_bytes, running.engine.jpeg + b"better")
    better, _ = await running.get(f"/api/v1/events/{EVENT}/snapshot.jpg", headers={"If-None-Match": etag})
    missing, _ = await running.get(f"/api/v1/events/{EVENT[:-1]}0/snapshot.jpg")

    assert (200, running.engine.jpeg, 404) == (status, body, missing)
    assert (304, 200) == (known, better)


async def test_a_companion_claims_and_releases(running: Running) -> None:
    claim = {"ha_instance": "abc", "replace_mqtt_entities": True}
    status, stored = await running.send("PUT", "/api/v1/companion", json=claim)
    await running.until(lambda: running.gateway.link.companion is not None)
    _, info = await running.get("/api/v1/info")
    released, _ = await running.send("DELETE", "/api/v1/companion")
    wrong, _ = await running.send("PUT", "/api/v1/companion", json={"ha_instance": "", "replace_mqtt_entities": True})

    assert (200, "abc", 204, 422) == (status, stored["ha_instance"], released, wrong)
    assert "abc" == info["companion"]["ha_instance"]
    assert running.engine.companion is None


async def test_probes(start: Callable[..., Any]) -> None:
    running: Running = await start()
    alive, _ = await running.get("/healthz")
    not_ready, problem = await running.get("/readyz")
    running.engine.push_frame()
    running.engine.push_detections()
    await running.until(lambda: running.gateway.ready)
    ready, _ = await running.get("/readyz")
    running.engine.switch_off()
    await running.until(lambda: running.gateway.feeds["door"].off)
    off, _ = await running.get("/readyz")

    assert (200, 200, 200) == (alive, ready, off)
    assert not_ready == 200 or problem["code"] == "not_ready"


async def test_not_ready_without_rings(start: Callable[..., Any]) -> None:
    running: Running = await start()
    running.engine.close_boxes()
    await running.until(lambda: not running.gateway.ready)
    status, problem = await running.get("/readyz")

    assert (503, "not_ready") == (status, problem["code"])
    assert "door" in problem["detail"]


async def test_metrics_count(running: Running) -> None:
    async with running.viewer() as viewer:
        await viewer.receive()
        status, body = await running.get("/metrics")
    lines = body.decode().splitlines()

    assert 200 == status
    assert "detr_sentry_gateway_viewers 1" in lines
    assert "detr_sentry_gateway_frames_sent_total 1" in lines
    assert 'detr_sentry_camera_state{camera="door",state="standby"} 1' in lines
    assert 'detr_sentry_camera_drops_total{camera="door",reason="bad_jpeg"} 2' in lines
    assert 'detr_sentry_service_up{service="inference"} 1' in lines


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/api/v1/none", 404, "not_found"),
        ("POST", "/api/v1/info", 405, "method_not_allowed"),
        ("DELETE", "/", 405, "method_not_allowed"),
        ("TRACE", "/", 405, "method_not_allowed"),
    ],
)
async def test_every_error_is_a_problem_document(
    running: Running, method: str, path: str, status: int, code: str
) -> None:
    async with running.http.request(method, path, headers={"Content-Type": "application/json"}) as response:
        body = await response.json(content_type="application/problem+json")

    assert (status, status, code) == (response.status, body["status"], body["code"])
    assert {"type", "title", "detail"} <= set(body)


async def test_every_answer_is_hardened(running: Running) -> None:
    seen = []
    for path in ("/", "/api/v1/cameras", "/api/v1/none", "/healthz", "/api/v1/cameras/door/snapshot.jpg"):
        async with running.http.get(path) as response:
            seen.append(response.headers)

    assert {"nosniff"} == {headers["X-Content-Type-Options"] for headers in seen}
    assert {"detr-sentry"} == {headers["Server"] for headers in seen}
    assert all("default-src 'none'" in headers["Content-Security-Policy"] for headers in seen)
    assert all("Access-Control-Allow-Origin" not in headers for headers in seen)


async def test_a_mode_that_the_ring_already_shows_is_answered_whole(running: Running) -> None:
    running.engine.push_state(State.STANDBY, Mode.STANDBY)
    status, camera = await running.send("POST", "/api/v1/cameras/door/mode", json={"mode": "alarmed"})

    assert (200, "alarmed") == (status, camera["mode"])
