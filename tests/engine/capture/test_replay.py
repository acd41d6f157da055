"""Replayed files: every picture found, the right one at its time, and clear words about files that are none."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from detr_sentry.capture.replay import ReplaySource, index_jpegs
from detr_sentry.errors import BadFrameError, SourceEndedError, SourceFormatError, SourceGoneError
from detr_sentry.settings import CameraSettings
from detr_sentry.source_url import parse_source

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Picture = Callable[..., bytes]


def source_of(url: str) -> ReplaySource:
    return ReplaySource(parse_source(url), CameraSettings(id="door", source=url))


def test_every_picture_is_found_with_and_without_padding(picture: Picture) -> None:
    pictures = [picture(number) for number in range(7)]
    padded = b"".join(data + b"\0" * (number % 3) for number, data in enumerate(pictures))

    found = index_jpegs(memoryview(padded))

    assert pictures == [padded[at : at + info.length] for at, info in found]


def test_pictures_larger_than_the_first_window_are_found(picture: Picture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("detr_sentry.capture.replay._FIRST_WINDOW", 512)
    data = picture(1, 640, 480) + picture(2, 640, 480)

    assert 2 == len(index_jpegs(memoryview(data)))


def test_a_broken_picture_is_named(picture: Picture) -> None:
    with pytest.raises(BadFrameError, match=f"picture 1 at byte {len(picture(0))}"):
        index_jpegs(memoryview(picture(0) + picture(1)[:-30]))


def test_frames_follow_the_clock_and_loop(tmp_path: Path, picture: Picture) -> None:
    path = tmp_path / "a.mjpeg"
    pictures = [picture(number) for number in range(4)]
    path.write_bytes(b"".join(pictures))
    source = source_of(f"replay:{path}?fps=20")
    info = source.open(lambda: True)
    began = time.monotonic_ns()

    assert (160, 120, 20.0) == (info.width, info.height, info.fps)
    assert max(map(len, pictures)) == info.max_frame_bytes
    for _ in range(12):
        frame = source.grab()
        expected = int((frame.captured_monotonic_ns - began) * 20 / 1e9)
        shown = pictures.index(bytes(frame.data))
        assert shown in {expected % 4, (expected - 1) % 4}
        time.sleep(0.03)
    source.close()


def test_a_file_that_does_not_loop_ends(tmp_path: Path, picture: Picture) -> None:
    path = tmp_path / "a.mjpeg"
    path.write_bytes(picture(0) + picture(1))
    source = source_of(f"replay:{path}?fps=100&loop=0")
    source.open(lambda: True)
    source.grab()
    time.sleep(0.05)

    with pytest.raises(SourceEndedError, match="has ended"):
        source.grab()
    source.close()
    source.close()


def test_files_that_cannot_be_replayed_are_refused(tmp_path: Path, picture: Picture) -> None:
    mixed, empty, text = tmp_path / "mixed.mjpeg", tmp_path / "empty.mjpeg", tmp_path / "text.mjpeg"
    mixed.write_bytes(picture(0) + picture(1, 320, 240))
    empty.write_bytes(b"")
    text.write_bytes(b"hello")

    with pytest.raises(SourceFormatError, match="different sizes"):
        source_of(f"replay:{mixed}").open(lambda: True)
    with pytest.raises(SourceFormatError, match="concatenated JPEGs"):
        source_of(f"replay:{text}").open(lambda: True)
    with pytest.raises(SourceGoneError, match="cannot be read"):
        source_of(f"replay:{empty}").open(lambda: True)
    with pytest.raises(SourceGoneError, match="No such file"):
        source_of(f"replay:{tmp_path}/none.mjpeg").open(lambda: True)
