"""The controller when things around it end, begin, break or get lost."""

from __future__ import annotations

import asyncio
import logging

import pytest

from detr_sentry.controller.service import Controller
from detr_sentry.errors import IpcError, WriterBusyError
from detr_sentry.ipc.bells import Bell
from detr_sentry.ipc.messages import Mode, State
from detr_sentry.ipc.ring import RingReader, RingWriter

from .conftest import PERSON, Place, Runner, SentryReader, end_alarm, eventually, raise_alarm, state_of, stored


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


async def test_a_second_controller_is_refused(place: Place, runner: Runner) -> None:
    await runner.start()
    with pytest.raises(WriterBusyError, match="already writes"):
        await asyncio.to_thread(Controller, place.settings)


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

    await runner.start()
    (_, _, task), *_ = runner._running
    monkeypatch.setattr("detr_sentry.controller.service.read_health", fail)
    await eventually(task.done)
    with pytest.raises(IpcError, match="no more memory"):
        await runner.stop()


async def test_frames_that_are_broken_cost_the_picture_and_not_the_alarm(
    place: Place, runner: Runner, sentry: SentryReader
) -> None:
    controller = await runner.start()
    assert place.frames is not None
    frames = place.frames
    await place.see(2, PERSON)
    place.bell.ring, ring = lambda: None, place.bell.ring  # type: ignore[method-assign]
    await eventually(place.consumed)
    place.detect(PERSON)
    slot = frames.ring.begin()
    assert slot is not None
    slot[:] = b"\xff" * len(slot)
    frames.ring.publish()
    ring()
    await eventually(lambda: state_of(sentry) is State.ALARMED)
    event_id = controller.report("door")["event_id"]
    async with asyncio.timeout(10), place.client() as client:
        while not (events := (await client.call("list_events"))["events"]):  # noqa: ASYNC110 - another thread's progress
            await asyncio.sleep(0.02)

    assert (event_id, False, list(PERSON[:4])) == (events[0]["id"], events[0]["snapshot"], events[0]["box"])


async def test_alarms_of_a_camera_that_was_removed_stay(place: Place, runner: Runner, sentry: SentryReader) -> None:
    await runner.start()
    await raise_alarm(place, sentry)
    await end_alarm(place, sentry)
    (event,) = await stored(place, 1)
    await runner.stop()
    await runner.start(cameras={})

    assert [event] == await stored(place, 1)
