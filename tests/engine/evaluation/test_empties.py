from __future__ import annotations

import json
from pathlib import Path

import av
import numpy as np
import pytest
import simplejpeg

from detr_sentry.errors import SettingsError, SourceError
from detr_sentry.evaluation.empties import EmptySource, open_empty

FPS = 3.0


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """Four seconds at 10 fps whose frames say their number by their brightness: 5 times it."""
    path = tmp_path / "clip.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p"
        for number in range(40):
            picture = np.full((48, 64, 3), 5 * number, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path


def opened(text: str) -> EmptySource:
    return open_empty(text, standby_fps=FPS)


def shown(source: EmptySource) -> list[list[tuple[float, int]]]:
    """For each stretch the times and a fifth of the mean brightness of its frames."""
    return [[(round(at, 3), round(float(picture.mean()) / 5)) for at, picture in s.frames] for s in source.stretches()]


def test_a_clip_shows_the_seconds_that_were_named(clip: Path) -> None:
    source = opened(f"{clip}#0.5-0.8,2-2.2")

    assert ("clip", 5) == (source.kind, source.frames)
    assert [[(0.5, 5), (0.6, 6), (0.7, 7)], [(2.0, 20), (2.1, 21)]] == shown(source)


def test_a_clip_without_seconds_asks_the_truth_beside_it_and_keeps_away_from_people(clip: Path) -> None:
    visible = [{"start": 3.0, "end": 3.2}, {"start": 1.0, "end": 1.6}]
    clip.with_suffix(".json").write_text(json.dumps({"visible": visible}))

    times = [[at for at, _ in stretch] for stretch in shown(opened(str(clip)))]

    assert [[0.0, 0.1, 0.2, 0.3, 0.4], [2.1, 2.2, 2.3, 2.4], [3.7, 3.8, 3.9]] == times


def test_other_views_of_a_clip_are_the_same_seconds_in_other_light(clip: Path) -> None:
    source = opened(f"{clip}?views=2#1-1.5")
    first, second = shown(source)

    assert [at for at, _ in first] == [at for at, _ in second]
    assert first != second
    assert 10 == source.frames


def test_a_folder_of_photos_is_person_free_as_it_is(tmp_path: Path) -> None:
    for number in (1, 2):
        data = simplejpeg.encode_jpeg(np.full((32, 48, 3), 100 * number, np.uint8), colorspace="RGB")
        (tmp_path / f"{number}.jpg").write_bytes(data)
    (tmp_path / "notes.txt").write_text("not a photo")

    assert [[(0.0, 20)], [(0.0, 40)]] == shown(opened(str(tmp_path)))

    source = opened(f"{tmp_path}?views=4")
    stretches = shown(source)
    assert 8 == source.frames
    assert [0.0, 0.333, 0.667, 1.0] == [at for at, _ in stretches[0]]
    assert (0.0, 20) == stretches[0][0]
    assert stretches == shown(opened(f"{tmp_path}?views=4"))
    assert stretches != shown(opened(f"{tmp_path}?views=4&seed=1"))


def test_a_marked_data_set_gives_photos_without_people_and_windows_of_the_others(dataset: Path) -> None:
    truth = json.loads((dataset / "annotations.json").read_text())
    truth["annotations"] = [mark for mark in truth["annotations"] if mark["category_id"] == 7 or mark["image_id"] == 1]
    for record in truth["images"]:
        record["source"] = f"from{record['id']}"
    (dataset / "annotations.json").write_text(json.dumps(truth))

    assert ["2.jpg"] == [stretch.name for stretch in opened(str(dataset)).stretches()]
    assert 6 == opened(f"{dataset}?views=3").frames
    with_windows = {stretch.name: len(list(stretch.frames)) for stretch in opened(f"{dataset}?views=3").stretches()}
    assert {"1.jpg": 3, "2.jpg": 3} == with_windows
    assert ["2.jpg"] == [stretch.name for stretch in opened(f"{dataset}?views=3&split=s2").stretches()]
    assert ["1.jpg"] == [stretch.name for stretch in opened(f"{dataset}?views=3&sources=from1").stretches()]
    assert ["2.jpg"] == [stretch.name for stretch in opened(f"{dataset}?views=3&windows=0").stretches()]
    with pytest.raises(SettingsError, match="no photos without people"):
        opened(f"{dataset}?split=s1")


def test_the_demo_is_seen_while_nobody_is_there() -> None:
    source = opened("demo:?seed=1000-1001&period=8&width=320&height=180")
    stretches = list(source.stretches())

    assert ["seed 1000, 0 s", "seed 1000, 6.1 s", "seed 1001, 0 s", "seed 1001, 6.1 s"] == [s.name for s in stretches]
    frames = [list(stretch.frames) for stretch in stretches]
    assert source.frames == sum(map(len, frames)) == 24
    assert (180, 320, 3) == frames[0][0][1].shape
    assert 24 == len({picture.tobytes() for stretch in frames for _, picture in stretch})


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("nowhere", "nowhere is neither a folder"),
        ("demo:?sed=1", "unknown option 'sed'"),
        ("demo:?seed=5-3", "the seeds must rise"),
        ("demo:?seed=x", "option seed of demo:.seed=x must be a whole number of at least 0"),
        ("demo:?period=3", "at least 4"),
        ("{folder}?views=0", "option views of .* at least 1"),
        ("{folder}", "no photos without people"),
        ("{folder}?split=val", "without annotations.json there is no split"),
        ("{clip}", "say where it is empty .* put clip.json beside it"),
        ("{clip}#2-1", "rising seconds"),
        ("{clip}#0-2,1-3", "rising seconds"),
        ("{clip}#soon", "rising seconds"),
    ],
)
def test_what_is_no_source_is_said(text: str, reason: str, clip: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()

    with pytest.raises(SettingsError, match=reason):
        opened(text.format(folder=tmp_path / "empty", clip=clip))


def test_broken_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(b"no photo")
    (tmp_path / "clip.mp4").write_bytes(b"no clip")

    with pytest.raises(SourceError, match=r"photo\.jpg"):
        list(opened(str(tmp_path)).stretches())
    with pytest.raises(SourceError, match=r"clip\.mp4"):
        list(opened(f"{tmp_path / 'clip.mp4'}#0-1").stretches())
    (tmp_path / "annotations.json").write_text("{")
    with pytest.raises(SettingsError, match="not COCO annotations"):
        opened(str(tmp_path))
