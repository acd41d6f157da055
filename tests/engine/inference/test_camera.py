from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detr_sentry.errors import BackendError
from detr_sentry.inference.camera import Camera
from detr_sentry.inference.model import Detector, open_detector
from detr_sentry.inference.schedule import Urgency
from detr_sentry.ipc.layout import Layout
from detr_sentry.ipc.messages import Mode, Outcome, State
from detr_sentry.settings import CameraSettings, ModelSettings, MotionSettings

Rig = Callable[[str], Any]
TRACE = bytes(range(1, 26))


@pytest.fixture
def detector(bright_detector: Callable[..., Path], tmp_path: Path) -> Iterator[Detector]:
    model = ModelSettings(name=str(bright_detector(nan_above=0.9)), threads=1)
    opened, _ = open_detector(model, tmp_path, floor=0.2)
    yield opened
    opened.backend.close()


@pytest.fixture
def camera(detector: Detector, layout: Layout) -> Iterator[Camera]:
    made = Camera(CameraSettings(id="door", source="demo:"), layout, detector)
    yield made
    made.close()


def test_without_frames_nothing_happens(camera: Camera) -> None:
    assert camera.poll(0.0) == (None, False)
    assert camera.infer() is False


def test_an_inferred_frame_is_one_message_with_its_identity(camera: Camera, rig: Rig, detector: Detector) -> None:
    door = rig("door")
    door.believe(State.VALIDATING)
    number = door.gray(204)

    assert camera.poll(0.0) == (Urgency.VALIDATING, False)
    assert camera.infer() is True
    message = door.receive()

    assert (message.outcome, message.frame_number, message.capture_epoch) == (Outcome.INFERRED, number, 9)
    assert (message.camera_id, message.width, message.height, message.pts_ns) == ("door", 96, 64, 1000)
    assert (message.trace, message.provider) == (TRACE, "CPU")
    assert message.model_hash.hex() == detector.contract.sha256[:16]
    assert min(message.inference_ns, message.decode_ns) > 0
    assert message.detections["confidence"].tolist() == pytest.approx([0.8], abs=0.01)
    assert [float(message.detections[0][name]) for name in ("x1", "y1", "x2", "y2")] == [0.0, 16.0, 48.0, 64.0]
    assert camera.poll(0.1) == (None, False)


@pytest.mark.parametrize(
    ("state", "mode", "urgency"),
    [
        (State.VALIDATING, Mode.AUTO, Urgency.VALIDATING),
        (State.ALARMED, Mode.AUTO, Urgency.ALARMED),
        (State.STANDBY, Mode.ALARMED, Urgency.ALARMED),
        (State.STANDBY, Mode.AUTO, Urgency.STANDBY),
    ],
)
def test_the_sentry_says_how_urgent_a_frame_is(
    state: State, mode: Mode, urgency: Urgency, camera: Camera, rig: Rig
) -> None:
    door = rig("door")
    door.believe(state, mode)
    door.gray(100)

    assert camera.poll(0.0) == (urgency, False)


def test_standby_gates_still_frames_and_says_so(camera: Camera, rig: Rig) -> None:
    door = rig("door")
    door.gray(100)
    assert camera.poll(0.0)[0] is Urgency.STANDBY  # the first picture passes
    camera.infer()
    door.receive()
    number = door.gray(100)

    assert camera.poll(0.3) == (None, True)
    message = door.receive()
    assert (message.outcome, message.frame_number, len(message)) == (Outcome.GATED, number, 0)
    assert (message.inference_ns, message.trace) == (0, TRACE)
    assert (camera.counts["gated"], camera.counts["inferred"]) == (1, 1)


def test_a_moved_frame_waits_and_the_newest_one_is_inferred(camera: Camera, rig: Rig) -> None:
    door = rig("door")
    door.gray(100)
    camera.poll(0.0)
    camera.infer()
    picture = np.full((64, 96, 3), 100, np.uint8)
    picture[16:56, 32:64] = 220
    door.send(picture)
    assert camera.poll(0.3)[0] is Urgency.STANDBY
    door.send(picture)
    newest = door.send(picture)

    assert camera.poll(0.4)[0] is Urgency.STANDBY
    assert camera.infer() is True
    assert door.receive().frame_number == newest
    assert camera.status["skipped"] == 2


def test_without_the_gate_every_standby_frame_is_inferred(detector: Detector, layout: Layout, rig: Rig) -> None:
    settings = CameraSettings(id="door", source="demo:", motion=MotionSettings(enabled=False))
    camera = Camera(settings, layout, detector)
    door = rig("door")
    for now_s in (0.0, 0.3, 0.6):
        door.gray(100)
        assert camera.poll(now_s) == (Urgency.STANDBY, False)
        assert camera.infer()
    camera.close()

    assert camera.counts == {"inferred": 3}


def test_skipped_frames_are_counted_exactly(camera: Camera, rig: Rig) -> None:
    door = rig("door")
    door.believe(State.ALARMED)
    for burst in (1, 4, 1, 3):
        for _ in range(burst):
            door.gray(100)
        camera.poll(0.0)
        camera.infer()

    assert camera.status["skipped"] == 5
    assert camera.status["inferred"] == 4


@pytest.mark.parametrize(("state", "work"), [(State.STANDBY, "gate"), (State.ALARMED, "model")])
@pytest.mark.parametrize(("data", "reason"), [(b"\xff\xd8 no picture", "jpeg"), (None, "geometry")])
def test_bad_frames_are_counted_once_and_not_tried_again(
    state: State,
    work: str,
    data: bytes | None,
    reason: str,
    camera: Camera,
    rig: Rig,
    caplog: pytest.LogCaptureFixture,
) -> None:
    door = rig("door")
    door.believe(state)
    for _ in range(2):
        if data is None:
            door.send(np.zeros((32, 32, 3), np.uint8), width=96, height=64)
        else:
            door.send(data)
        urgency, published = camera.poll(0.0)
        assert published is False
        if urgency is not None:
            assert camera.infer() is False
        assert camera.poll(0.1) == (None, False)

    assert camera.errors == {reason: 2}
    assert door.receive() is None
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    door.gray(100)
    assert camera.poll(0.2)[0] is not None


def test_numbers_that_are_not_finite_give_no_message(camera: Camera, rig: Rig) -> None:
    door = rig("door")
    door.believe(State.ALARMED)
    door.gray(250)
    camera.poll(0.0)

    with pytest.raises(BackendError, match="not finite"):
        camera.infer()

    assert camera.errors == {"backend": 1}
    assert door.receive() is None
    assert camera.poll(0.1) == (None, False)


def test_off_clears_the_detections_and_forgets_the_scene(camera: Camera, rig: Rig) -> None:
    door = rig("door")
    door.gray(200)
    camera.poll(0.0)
    camera.infer()
    assert door.detections.latest() is not None

    door.believe(State.OFF, Mode.OFF)
    assert camera.poll(0.1) == (None, False)
    assert door.detections.latest() is None

    door.gray(200)
    assert camera.poll(0.2) == (None, False)
    door.believe(State.STANDBY)
    assert camera.poll(0.3)[0] is Urgency.STANDBY  # as the first picture again


def test_a_person_keeps_the_track_id_and_a_new_capture_starts_others(camera: Camera, rig: Rig) -> None:
    door = rig("door")
    door.believe(State.ALARMED)
    ids = []
    for epoch, level in ((9, 200), (9, 210), (9, 70), (9, 200), (10, 200)):
        door.epoch = epoch
        door.gray(level)
        camera.poll(0.0)
        camera.infer()
        ids.append(door.receive().detections["track_id"].tolist())

    assert ids == [[1], [1], [0], [1], [2]]  # 70 of 255 lies below the stay threshold
