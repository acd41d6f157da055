from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import numpy.typing as npt
import pytest

from detr_sentry.inference.motion import FORGET_S, Motion, MotionGate

Gray = npt.NDArray[np.uint8]
STANDBY_FPS = 3.0
NEVER = 1e9


def standby_frames(path: Path, fps: float) -> Iterator[tuple[float, Gray]]:
    """Time and 1/8 gray of the frames that standby would take from a clip."""
    due_s = 0.0
    with av.open(str(path)) as clip:
        for number, frame in enumerate(clip.decode(video=0)):
            if number / fps >= due_s:
                due_s += 1 / STANDBY_FPS
                gray = frame.to_ndarray(format="gray")
                size = -(-gray.shape[1] // 8), -(-gray.shape[0] // 8)
                yield number / fps, cv2.resize(gray, size, interpolation=cv2.INTER_AREA).astype(np.uint8)


def scene(random: np.random.Generator, *, gain: float = 1.0, person: int | None = None, noise: float = 1.5) -> Gray:
    """A still scene of 60 x 80 with sensor noise, and a dark figure of 5 x 12 at column `person`."""
    rows, columns = np.mgrid[0:60, 0:80]
    picture = 90 + 40 * np.sin(rows / 9) + 30 * np.cos(columns / 7)
    if person is not None:
        picture[20:32, person : person + 5] = 20
    picture = picture * gain + random.normal(0, noise, picture.shape)
    clipped: Gray = np.clip(picture, 0, 255).astype(np.uint8)
    return clipped


@pytest.fixture
def random() -> np.random.Generator:
    return np.random.default_rng(5)


@pytest.fixture
def settled(random: np.random.Generator) -> MotionGate:
    """A gate that has watched the still scene for ten seconds."""
    gate = MotionGate(keep_alive_s=NEVER)
    for number in range(30):
        gate.update(scene(random), number / STANDBY_FPS)
    return gate


@pytest.mark.parametrize(
    ("clip", "most_passed"), [("one-by-one-person-detection", 0.05), ("wallflower-wavingtrees", 0.10)]
)
def test_people_pass_at_once_and_empty_scenes_hardly_ever(clip: str, most_passed: float, shared_dir: Path) -> None:
    truth: dict[str, Any] = json.loads((shared_dir / "media" / f"{clip}.json").read_text())
    seen: dict[float, float] = {}
    passed = empty = 0
    gate = MotionGate(keep_alive_s=NEVER)

    for now_s, gray in standby_frames(shared_dir / "media" / f"{clip}.mp4", truth["fps"]):
        visible = next((span for span in truth["visible"] if span["start"] <= now_s <= span["end"]), None)
        if visible and visible["start"] in seen:
            continue  # the sentry is alarmed by now, and the gate sleeps
        motion = gate.update(gray, now_s)
        if visible:
            if motion.passes:
                seen[visible["start"]] = now_s - visible["start"]
        elif motion is not Motion.FIRST and not any(
            span["start"] - 0.5 <= now_s <= span["end"] + 2.0 for span in truth["visible"]
        ):
            empty += 1
            passed += motion.passes

    assert len(seen) == len(truth["visible"])
    assert max(seen.values()) <= 0.7  # two standby frames
    assert empty > 40
    assert passed / empty <= most_passed


def test_the_first_picture_passes() -> None:
    assert MotionGate().update(np.zeros((9, 9), np.uint8), 0.0) is Motion.FIRST


def test_noise_alone_is_still(settled: MotionGate, random: np.random.Generator) -> None:
    answers = {settled.update(scene(random), 10 + number / STANDBY_FPS) for number in range(60)}

    assert answers == {Motion.STILL}


def test_a_small_figure_moves_the_picture(settled: MotionGate, random: np.random.Generator) -> None:
    assert settled.update(scene(random, person=40), 10.0) is Motion.MOVED
    assert settled.moved_pixels >= 30


@pytest.mark.parametrize("gain", [0.6, 0.8, 1.25, 1.5])
def test_light_that_changes_everywhere_is_still(gain: float, settled: MotionGate, random: np.random.Generator) -> None:
    answers = {settled.update(scene(random, gain=gain), 10 + number / STANDBY_FPS) for number in range(10)}

    assert answers == {Motion.STILL}


def test_a_figure_under_changed_light_is_seen(settled: MotionGate, random: np.random.Generator) -> None:
    assert settled.update(scene(random, gain=0.7, person=40), 10.0) is Motion.MOVED


def test_what_stays_becomes_background(settled: MotionGate, random: np.random.Generator) -> None:
    answers = [settled.update(scene(random, person=40), 10 + number / STANDBY_FPS) for number in range(180)]

    assert answers[:5] == [Motion.MOVED] * 5
    assert answers[-30:] == [Motion.STILL] * 30


def test_swaying_leaves_raise_their_own_bar(random: np.random.Generator) -> None:
    gate = MotionGate(keep_alive_s=NEVER)

    def swaying(number: int) -> Gray:
        picture = scene(random).astype(np.int16)
        picture[:, :30] += (random.integers(-25, 26, (60, 30))).astype(np.int16)
        return np.clip(picture, 0, 255).astype(np.uint8)

    answers = [gate.update(swaying(number), number / STANDBY_FPS) for number in range(120)]

    assert set(answers[:3]) == {Motion.FIRST, Motion.MOVED}
    assert set(answers[15:]) == {Motion.STILL}  # learned within five seconds


def test_sensitivity_sets_the_bar(random: np.random.Generator) -> None:
    gates = [MotionGate(sensitivity=value, keep_alive_s=NEVER) for value in (0.0, 0.5, 1.0)]
    for number in range(30):
        for gate in gates:
            gate.update(scene(random), number / STANDBY_FPS)
    faint = scene(random).astype(np.int16)
    faint[20:32, 40:45] += 10
    answers = [gate.update(faint.astype(np.uint8), 10.0) for gate in gates]

    assert answers == [Motion.STILL, Motion.MOVED, Motion.MOVED]


def test_the_model_runs_at_least_every_keep_alive(random: np.random.Generator) -> None:
    gate = MotionGate(keep_alive_s=2.0)
    answers = [gate.update(scene(random), number * 0.5) for number in range(13)]

    assert answers == [Motion.FIRST, *([Motion.STILL] * 3 + [Motion.KEEP_ALIVE]) * 3]


@pytest.mark.parametrize("change", ["pause", "size", "reset"])
def test_a_scene_that_is_not_the_old_one_starts_anew(
    change: str, settled: MotionGate, random: np.random.Generator
) -> None:
    picture, now_s = scene(random), 10.0
    if change == "pause":
        now_s += FORGET_S
    elif change == "size":
        picture = picture[:30]
    else:
        settled.reset()

    assert settled.update(picture, now_s) is Motion.FIRST
