from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from detr_sentry.evaluation.empties import Stretch
from detr_sentry.evaluation.false_alarms import FalseAlarms, most_alarms
from detr_sentry.inference.model import Detector, open_detector
from detr_sentry.settings import SentrySettings, Settings

RULES = SentrySettings()
LIGHT = {"#": 255, "+": 170, ".": 0}


class Flashes:
    """A stretch for each text: `#` is a white frame, `+` a grey one (0.947), `.` a black one, three a second."""

    kind = "photos"
    text = "flashes"

    def __init__(self, *patterns: str) -> None:
        self.patterns = patterns

    @property
    def frames(self) -> int:
        return sum(map(len, self.patterns))

    def stretches(self) -> Iterator[Stretch]:
        for pattern in self.patterns:
            frames = []
            for number, letter in enumerate(pattern):
                picture = np.full((48, 64, 3), LIGHT[letter], np.uint8)
                picture[0, number] = 77
                frames.append((number / 3, picture))
            yield Stretch(name=pattern, frames=frames)


@pytest.fixture
def detector(seeing_light: Settings) -> Detector:
    found, _ = open_detector(seeing_light.model, seeing_light.state_dir, floor=0.001)
    return found


def test_three_of_five_looks_are_an_alarm_and_fewer_are_not(detector: Detector) -> None:
    judge = FalseAlarms(detector, RULES, standby_fps=3.0)
    quiet, loud = Flashes("." * 20, "..#..#....", "##........"), Flashes("..#.##....", ".###" + "." * 20 + "###.")

    found = judge.count([quiet, loud])

    assert [0, 3] == [source["alarms"] for source in found["sources"]]
    assert [4, 9] == [source["frames_at_enter_threshold"] for source in found["sources"]]
    total = found["total"]
    assert (78, 3) == (total["frames"], total["alarms"])
    assert math.isclose(78 / 3 / 3600, total["hours"], abs_tol=1e-4)
    assert math.isclose(3 / (78 / 3 / 3600), total["alarms_per_hour"], rel_tol=1e-3)
    assert total["alarms_per_hour"] < total["alarms_per_hour_at_most"]
    assert total["highest_score"] > 0.99
    assert "..#..#...., frame 3" == total["highest_at"]


def test_stricter_sentries_judge_the_same_scores(detector: Detector) -> None:
    judge = FalseAlarms(detector, RULES, standby_fps=3.0)

    found = judge.count([Flashes("+++++", "#####")])

    assert {"0.5": 2, "0.9": 2, "0.95": 1}.items() <= found["alarms_by_threshold"].items()
    assert 10 == len(found["alarms_by_threshold"])
    loose = FalseAlarms(detector, dataclasses.replace(RULES, enter_threshold=0.93), standby_fps=3.0)
    assert {"0.93": 2, "0.95": 1} == loose.count([Flashes("+++++", "#####")])["alarms_by_threshold"]


def test_the_same_picture_twice_is_one_distinct_frame(detector: Detector) -> None:
    found = FalseAlarms(detector, RULES, standby_fps=3.0).count([Flashes("....", "......"), Flashes("..")])

    assert [6, 2] == [source["distinct_frames"] for source in found["sources"]]
    assert (12, 6) == (found["total"]["frames"], found["total"]["distinct_frames"])


def test_rules_decide_and_not_the_score_alone(detector: Detector) -> None:
    strict = dataclasses.replace(RULES, min_area=0.9)

    found = FalseAlarms(detector, strict, standby_fps=3.0).count([Flashes("#####")])["total"]

    assert (0, 0) == (found["alarms"], found["frames_at_enter_threshold"])
    assert found["highest_score"] > 0.99


def test_frames_that_fooled_the_model_are_kept_and_progress_goes_up(detector: Detector, tmp_path: Path) -> None:
    heard: list[int] = []

    FalseAlarms(detector, RULES, standby_fps=3.0, keep=tmp_path / "kept").count(
        [Flashes(".#.", ".."), Flashes("#")], heard.append
    )

    names = sorted(path.name for path in (tmp_path / "kept").iterdir())
    assert {"___-2-6_10_22_34.jpg", "_-1-6_10_22_34.jpg"} == {name.split("-", 1)[1] for name in names}
    assert [1, 2, 3, 4, 5, 6] == heard


@pytest.mark.parametrize(("seen", "most"), [(0, 2.996), (1, 4.744), (10, 16.962)])
def test_the_upper_bound_is_poissons(seen: int, most: float) -> None:
    """Against tables of the exact one-sided 95 % limit."""
    assert math.isclose(most, most_alarms(seen), abs_tol=0.001)
