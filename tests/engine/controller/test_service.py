from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from detr_sentry.errors import ControlError
from detr_sentry.ipc.bells import Bell
from detr_sentry.ipc.messages import Mode, PixelFormat, State
from detr_sentry.sentry.events import Mode as SentryMode

from .conftest import PERSON, Place, Runner, SentryReader, end_alarm, eventually, raise_alarm, state_of, stored

if TYPE_CHECKING:
    from detr_sentry.controller.companion import Claim

SMALLER = (10.0, 8.0, 20.0, 40.0, 0.9)
LARGER = (5.0, 4.0, 60.0, 44.0, 0.9)


async def test_the_sentry_is_told_at_once_and_again_every_second(
    place: Place, runner: Runner, sentry: SentryReader
) -> None:
    await runner.start()
    first = sentry.read()

    assert first is not None
    assert (State.STANDBY, Mode.AUTO, False, 3.0) == (first.state, first.mode, first.blind, first.capture_fps)

    def again() -> bool:
        view = sentry.read()
        return view is not None and view.timestamp_ns > first.timestamp_ns

    await eventually(again)


async def test_an_alarm_is_raised_told_stored_and_ended(place: Place, runner: Runner, sentry: SentryReader) -> None:
    bells = [Bell(place.layout.bell("capture", "door")), Bell(place.layout.bell("inference"))]
    await runner.start()
    pushes = place.client().subscribe()

    assert (await anext(pushes))["camera"]["id"] == "door"

    for bell in bells:
        bell.drain()
    place.detect(PERSON)
    await eventually(lambda: state_of(sentry) is State.VALIDATING)

    assert [1, 1] == [bell.drain() for bell in bells]

    await raise_alarm(place, sentry)
    alarmed = sentry.read()

    assert alarmed is not None
    assert (-1.0, 1, 26, bytes(range(25))) == (
        alarmed.capture_fps,
        alarmed.count,
        len(alarmed.event_id),
        alarmed.trace,
    )

    await end_alarm(place, sentry)
    (event,) = await stored(place, 1)

    assert ("human_detected", "door", 1, True) == (event["type"], event["camera"], event["count"], event["snapshot"])
    assert alarmed.event_id == event["id"]
    assert event["start"] < event["end"]

    told = []
    async with asyncio.timeout(10):
        while "standby_resumed" not in told:
            push = await anext(pushes)
            if push["push"] == "event":
                told.append(push["event"]["type"])
                assert push["event"]["id"] == event["id"]

    assert ["validation_started", "human_detected", "standby_resumed"] == told

    await pushes.aclose()
    for bell in bells:
        bell.close()


async def test_the_snapshot_is_the_frame_of_the_detection_and_then_the_best(
    place: Place, runner: Runner, sentry: SentryReader
) -> None:
    controller = await runner.start()
    await place.see(2, SMALLER, level=10)
    first = place.detect(SMALLER, level=30)
    await eventually(lambda: state_of(sentry) is State.ALARMED)
    event_id = controller.report("door")["last_event_id"]
    picture = controller.snapshots / f"{event_id}.jpg"
    await eventually(picture.exists)

    assert first == picture.read_bytes()
    assert 0o600 == picture.stat().st_mode & 0o777

    too_soon = place.detect(LARGER, level=60)
    await asyncio.sleep(0.3)

    assert too_soon != picture.read_bytes()

    await asyncio.sleep(1.0)
    await place.see(5, SMALLER, level=70)

    assert first == picture.read_bytes()

    best = place.detect(LARGER, level=100)
    await eventually(lambda: best == picture.read_bytes())
    await place.see(5, SMALLER, level=1)

    assert best == picture.read_bytes()

    async with place.client() as client:
        event = await client.call("get_event", event_id=event_id)

    assert (True, True, list(LARGER[:4]), str(picture)) == (
        event["snapshot"],
        event["snapshot_exact"],
        event["box"],
        event["snapshot_path"],
    )
    assert pytest.approx(0.9) == event["confidence"]
    assert event["end"] is None


async def test_a_camera_faster_than_the_model_gets_the_newest_frame_and_says_so(
    place: Place, runner: Runner, sentry: SentryReader
) -> None:
    controller = await runner.start()
    await place.see(2, PERSON)
    place.bell.drain()
    place.bell.ring, ring = lambda: None, place.bell.ring  # type: ignore[method-assign]
    place.detect(PERSON, level=50)
    newest = place.frame(place.number + 5, pixel_format=PixelFormat.RGB24, level=90)
    ring()
    await eventually(lambda: state_of(sentry) is State.ALARMED)
    picture = controller.snapshots / f"{controller.report('door')['last_event_id']}.jpg"
    await eventually(picture.exists)
    async with place.client() as client:
        (event,) = (await client.call("list_events"))["events"]

    assert (True, False) == (event["snapshot"], event["snapshot_exact"])
    assert newest != picture.read_bytes()
    assert picture.read_bytes().startswith(b"\xff\xd8")


async def test_a_timed_mode_ends_by_itself(place: Place, runner: Runner, sentry: SentryReader) -> None:
    await runner.start()
    async with place.client() as client:
        report = await client.call("set_mode", camera="door", mode="alarmed", duration_s=0.5)

        assert ("alarmed", "standby", -1.0) == (report["mode"], report["state"], report["capture_fps"])
        assert report["mode_until"] is not None

        await eventually(lambda: (view := sentry.read()) is not None and view.mode is Mode.AUTO)
        report = await client.call("get_state", camera="door")

    assert ("auto", None, 3.0) == (report["mode"], report["mode_until"], report["capture_fps"])


async def test_blind_is_told_with_its_cause_and_goes_away(place: Place, runner: Runner, sentry: SentryReader) -> None:
    controller = await runner.start()
    await place.see(2)

    assert (False, None) == (controller.report("door")["person"], controller.report("door")["problem"])

    await eventually(lambda: controller.report("door")["problem"] == "blind")
    view = sentry.read()

    assert view is not None
    assert (True, State.STANDBY) == (view.blind, view.state)
    assert controller.report("door")["person"] is None

    await asyncio.to_thread(place.beat, "unauthorized")
    await eventually(lambda: controller.report("door")["problem"] == "camera_unauthorized")
    await asyncio.to_thread(place.beat)
    place.detect()
    await eventually(lambda: controller.report("door")["problem"] is None)


async def test_the_heartbeat_tells_what_happens(place: Place, runner: Runner) -> None:
    await runner.start()
    path = place.layout.heartbeat("controller")
    await place.see(3)
    await eventually(lambda: json.loads(path.read_text())["status"].get("cameras", {}).get("door", {}).get("used"))
    await runner.stop()

    assert not path.exists()


async def test_the_same_mode_for_another_time_is_told(place: Place, runner: Runner) -> None:
    controller = await runner.start()
    pushes = place.client().subscribe()
    await anext(pushes)
    await anext(pushes)
    await controller.set_mode("door", SentryMode.AUTO, 60)
    push = await anext(pushes)

    assert push["camera"]["mode_until"] is not None

    await pushes.aclose()


async def test_a_mode_that_cannot_be_stored_is_refused(place: Place, runner: Runner, sentry: SentryReader) -> None:
    await runner.start()
    (place.settings.state_dir / "mode.json").mkdir()
    async with place.client() as client:
        with pytest.raises(ControlError, match=r"mode\.json") as caught:
            await client.call("set_mode", camera="door", mode="off")

        assert caught.value.code == "storage"
        assert (await client.call("get_state", camera="door"))["mode"] == "auto"
    assert state_of(sentry) is State.STANDBY


async def test_the_companions_claim_is_kept_and_told(place: Place, runner: Runner) -> None:
    await runner.start()
    async with place.client() as client:
        assert await client.call("get_companion") is None

        pushes = place.client().subscribe()
        await anext(pushes)

        assert {"push": "companion", "companion": None} == await anext(pushes)

        claim = await client.call("set_companion", ha_instance="abc", replace_mqtt_entities=True)

        assert ("abc", True) == (claim["ha_instance"], claim["replace_mqtt_entities"])

        push = await anext(pushes)
        while push["push"] != "companion":
            push = await anext(pushes)

        assert claim == push["companion"]

        await pushes.aclose()
    await runner.stop()
    await runner.start()
    async with place.client() as client:
        assert claim == await client.call("get_companion")

        await client.call("clear_companion")

        assert await client.call("get_companion") is None
    await runner.stop()
    controller = await runner.start()

    assert controller.companion.claim is None


class Listener:
    """An output that fails at first."""

    name = "listener"

    def __init__(self) -> None:
        self.runs = 0
        self.told: list[tuple[str, Any]] = []
        self.read: list[str] = []

    async def run(self) -> None:
        self.runs += 1
        if self.runs == 1:
            raise RuntimeError("broker")
        await asyncio.Event().wait()

    def camera_changed(self, report: dict[str, Any], trace: bytes | None) -> None:
        self.told.append(("camera", report["state"]))

    def event(self, report: dict[str, Any], trace: bytes | None) -> None:
        self.told.append((report["type"], trace))

    def detections_read(self, camera: str) -> None:
        self.read.append(camera)

    def status(self) -> dict[str, Any]:
        return {"told": len(self.told)}

    def picture_stored(self, report: Mapping[str, Any]) -> None:
        self.told.append(("picture", Path(report["snapshot_path"]).name))

    def companion_changed(self, claim: Claim | None) -> None:
        self.told.append(("companion", claim))


async def test_outputs_are_told_everything_and_survive_their_failures(
    place: Place, runner: Runner, sentry: SentryReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("detr_sentry.controller.service.OUTPUT_PAUSE_S", 0.05)
    listener = Listener()
    controller = await runner.start(make_outputs=lambda _: [listener])
    await eventually(lambda: listener.runs == 2)

    assert [("camera", "standby"), ("companion", None)] == listener.told[:2]

    await raise_alarm(place, sentry)
    name = f"{controller.report('door')['event_id']}.jpg"
    await eventually(lambda: ("picture", name) in listener.told)

    assert ("human_detected", bytes(range(25))) in listener.told
    assert ["door"] == sorted(set(listener.read))
    assert listener.status() == controller._status()["outputs"]["listener"]


async def test_the_state_file_is_readable_json(place: Place, runner: Runner) -> None:
    await runner.start()
    async with place.client() as client:
        await client.call("set_mode", camera="door", mode="off", duration_s=60)
    stored_mode = json.loads((place.settings.state_dir / "mode.json").read_text())

    assert {"mode": "off", "back": "auto", "duration_s": 60} == {
        key: value for key, value in stored_mode["cameras"]["door"].items() if key != "until"
    }
