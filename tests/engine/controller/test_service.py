from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from detr_sentry.controller.service import Controller
from detr_sentry.errors import ControlError, IpcError, WriterBusyError
from detr_sentry.ipc.bells import Bell
from detr_sentry.ipc.messages import Mode, PixelFormat, State
from detr_sentry.ipc.ring import RingReader, RingWriter

from .conftest import PERSON, Place, Runner, SentryReader, eventually

if TYPE_CHECKING:
    from detr_sentry.controller.companion import Claim

SMALLER = (10.0, 8.0, 20.0, 40.0, 0.9)
LARGER = (5.0, 4.0, 60.0, 44.0, 0.9)


def state_of(sentry: SentryReader) -> State | None:
    view = sentry.read()
    return None if view is None else view.state


async def raise_alarm(place: Place, sentry: SentryReader) -> None:
    for _ in range(200):
        await place.see(1, PERSON)
        if state_of(sentry) is State.ALARMED:
            return
    raise AssertionError("no alarm")


async def end_alarm(place: Place, sentry: SentryReader) -> None:
    for _ in range(200):
        await place.see(1)
        if state_of(sentry) is State.STANDBY:
            return
    raise AssertionError("the alarm does not end")


async def stored(runner_place: Place, count: int) -> list[dict[str, Any]]:
    async with runner_place.client() as client:
        for _ in range(500):
            events: list[dict[str, Any]] = (await client.call("list_events"))["events"]
            if len(events) == count and all(event["end"] for event in events):
                return events
            await asyncio.sleep(0.02)
    raise AssertionError(events)


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


async def test_off_closes_the_camera_and_survives_a_restart(place: Place, runner: Runner, sentry: SentryReader) -> None:
    await runner.start()
    await raise_alarm(place, sentry)
    async with place.client() as client:
        report = await client.call("set_mode", camera="door", mode="off")

    assert ("off", "off", None, None) == (report["state"], report["mode"], report["person"], report["problem"])
    view = sentry.read()
    assert view is not None
    assert (State.OFF, Mode.OFF, 0.0) == (view.state, view.mode, view.capture_fps)
    (event,) = await stored(place, 1)
    assert event["end"] is not None

    await place.see(10, PERSON)
    await runner.stop()
    await runner.start()
    await place.see(10, PERSON)

    assert state_of(sentry) is State.OFF

    async with place.client() as client:
        await client.call("set_mode", camera="door", mode="auto")
    await raise_alarm(place, sentry)


async def test_a_timed_mode_ends_by_itself(place: Place, runner: Runner, sentry: SentryReader) -> None:
    await runner.start()
    async with place.client() as client:
        report = await client.call("set_mode", camera="door", mode="alarmed", duration_s=0.5)

        assert ("alarmed", "standby", -1.0) == (report["mode"], report["state"], report["capture_fps"])
        assert report["mode_until"] is not None

        await eventually(lambda: (view := sentry.read()) is not None and view.mode is Mode.AUTO)
        report = await client.call("get_state", camera="door")

    assert ("auto", None, 3.0) == (report["mode"], report["mode_until"], report["capture_fps"])


async def test_a_restart_in_an_alarm_goes_on_with_it(place: Place, runner: Runner, sentry: SentryReader) -> None:
    controller = await runner.start()
    await raise_alarm(place, sentry)
    before = controller.report("door")
    await eventually((controller.snapshots / f"{before['event_id']}.jpg").exists)
    await runner.kill()
    controller = await runner.start()
    after = controller.report("door")

    assert ("alarmed", before["event_id"], before["since"]) == (after["state"], after["event_id"], after["since"])

    await place.see(3, PERSON)

    assert controller.report("door")["person"]

    await end_alarm(place, sentry)
    (event,) = await stored(place, 1)

    assert (before["event_id"], True, 1) == (event["id"], event["snapshot"], event["count"])


async def test_detections_of_before_the_start_are_not_taken_for_now(
    place: Place, runner: Runner, sentry: SentryReader
) -> None:
    place.detect(PERSON, age_s=30)
    controller = await runner.start()
    await asyncio.sleep(0.5)

    assert (None, 0) == (controller.report("door")["person"], controller._cameras["door"].sentry.counters.used)


async def test_a_writer_that_starts_anew_is_followed(place: Place, runner: Runner, sentry: SentryReader) -> None:
    controller = await runner.start()
    await place.see(3)
    place.close()
    place.epoch, place.number = 8, 0
    await asyncio.to_thread(place.writers)
    await raise_alarm(place, sentry)

    assert controller._cameras["door"].sentry.counters.epochs == 2


async def test_a_lost_bell_costs_time_and_no_alarm(place: Place, runner: Runner, sentry: SentryReader) -> None:
    await runner.start()
    place.bell.ring = lambda: None  # type: ignore[method-assign]
    for _ in range(100):
        place.detect(PERSON)
        await asyncio.sleep(0.1)
        if state_of(sentry) is State.ALARMED:
            break

    assert state_of(sentry) is State.ALARMED


async def test_a_bell_that_was_removed_is_made_anew(place: Place, runner: Runner, sentry: SentryReader) -> None:
    await runner.start()
    Bell.unlink(place.layout.bell("controller"))
    await asyncio.sleep(0.5)
    place.bell.refresh()
    await raise_alarm(place, sentry)


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


async def test_a_second_controller_is_refused(place: Place, runner: Runner) -> None:
    await runner.start()
    with pytest.raises(WriterBusyError, match="already writes"):
        await asyncio.to_thread(Controller, place.settings)


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

    async def run(self) -> None:
        self.runs += 1
        if self.runs == 1:
            raise RuntimeError("broker")
        await asyncio.Event().wait()

    def camera_changed(self, report: dict[str, Any], trace: bytes | None) -> None:
        self.told.append(("camera", report["state"]))

    def event(self, report: dict[str, Any], trace: bytes | None) -> None:
        self.told.append((report["type"], trace))

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


async def test_after_a_restart_the_last_event_is_known(place: Place, runner: Runner, sentry: SentryReader) -> None:
    controller = await runner.start()
    await raise_alarm(place, sentry)
    await end_alarm(place, sentry)
    before = controller.report("door")
    await stored(place, 1)
    await runner.stop()
    controller = await runner.start()
    await eventually(lambda: controller.report("door")["last_event_id"] is not None)
    after = controller.report("door")

    assert (before["last_event_id"], before["last_seen"]) == (after["last_event_id"], after["last_seen"])


async def test_it_runs_without_any_camera(place: Place, runner: Runner) -> None:
    await runner.start(cameras={})
    async with place.client() as client:
        assert {"cameras": []} == await client.call("get_state")


async def test_the_state_file_is_readable_json(place: Place, runner: Runner) -> None:
    await runner.start()
    async with place.client() as client:
        await client.call("set_mode", camera="door", mode="off", duration_s=60)
    stored_mode = json.loads((place.settings.state_dir / "mode.json").read_text())

    assert {"mode": "off", "back": "auto", "duration_s": 60} == {
        key: value for key, value in stored_mode["cameras"]["door"].items() if key != "until"
    }


async def test_a_broken_message_is_counted_and_the_next_one_used(
    place: Place, runner: Runner, sentry: SentryReader, caplog: pytest.LogCaptureFixture
) -> None:
    controller = await runner.start()
    camera = controller._cameras["door"]
    assert place.detections is not None
    for number in range(2):
        slot = place.detections.ring.begin()
        assert slot is not None
        slot[:] = b"\xff" * len(slot)
        place.detections.ring.publish()
        place.bell.ring()
        await eventually(lambda: camera.corrupt == number + 1)  # noqa: B023 - awaited at once

    assert 1 == sum(entry.levelno >= logging.WARNING for entry in caplog.records)

    assert slot is not None
    place.close()
    await asyncio.to_thread(place.writers)
    await raise_alarm(place, sentry)


async def test_a_broken_sentry_ring_is_no_alarm_to_resume(place: Place, runner: Runner) -> None:
    def leave_rubbish() -> None:
        ring = RingWriter(place.layout.stream("door", "sentry"), slot_bytes=500, slots=3)
        slot = ring.begin()
        assert slot is not None
        slot[:] = b"\xff" * len(slot)
        ring.publish()
        ring.close()

    await asyncio.to_thread(leave_rubbish)
    controller = await runner.start()

    assert ("standby", None) == (controller.report("door")["state"], controller.report("door")["event_id"])


async def test_readers_that_hold_every_slot_delay_the_news_only(
    place: Place, runner: Runner, sentry: SentryReader
) -> None:
    controller = await runner.start()
    camera = controller._cameras["door"]
    readers = [RingReader(place.layout.stream("door", "sentry")) for _ in range(6)]
    for reader in readers:
        assert reader.acquire() is not None
        camera.publish()

    assert camera.unpublished >= 1

    async with place.client() as client:
        await client.call("set_mode", camera="door", mode="off")
    for reader in readers:
        reader.close()
    await eventually(lambda: state_of(sentry) is State.OFF)


async def test_a_failure_of_a_part_ends_the_service(
    place: Place, runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise IpcError("no more memory")

    monkeypatch.setattr("detr_sentry.controller.service.read_health", fail)
    await runner.start()
    await asyncio.sleep(0.5)
    with pytest.raises(IpcError, match="no more memory"):
        await runner.stop()
