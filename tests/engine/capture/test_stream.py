"""Network cameras and files: passed through or decoded, paced, and every way to fail told apart."""

from __future__ import annotations

import socket
import threading
import time
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import av
import numpy as np
import pytest

from detr_sentry.capture.source import FULL_RATE
from detr_sentry.capture.stream import StreamSource
from detr_sentry.errors import (
    SettingsError,
    SourceEndedError,
    SourceError,
    SourceFormatError,
    SourceGoneError,
    SourceStalledError,
    SourceUnauthorizedError,
)
from detr_sentry.ipc.messages import PixelFormat
from detr_sentry.settings import CameraSettings
from detr_sentry.source_url import parse_source

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from detr_sentry.capture.source import RawFrame
    from tests.engine.capture.conftest import HttpCamera, Rig

    RigFor = Callable[..., Rig]


def always() -> bool:
    return True


@pytest.fixture
def open_source() -> Iterator[Callable[[str], StreamSource]]:
    opened: list[StreamSource] = []

    def make(url: str) -> StreamSource:
        opened.append(StreamSource(parse_source(url), CameraSettings(id="door", source=url)))
        return opened[-1]

    yield make
    for source in opened:
        source.close()


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seconds of H.264 at 25 fps, 162x98 (rows that FFmpeg pads); the grey level is twice the frame's number."""
    return record(tmp_path_factory.mktemp("clip") / "grey.mp4", "libx264", 162, 98, "yuv420p")


def record(path: Path, codec: str, width: int, height: int, pixel_format: str, frames: int = 50) -> Path:
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = width, height, pixel_format
        for number in range(frames):
            level = np.full((height, width, 3), 40 + 2 * number, np.uint8)
            for packet in stream.encode(av.VideoFrame.from_ndarray(level, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return path


def grab(source: StreamSource, timeout_s: float = 10.0) -> RawFrame:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        frame = source.grab()
        if frame is not None:
            return frame
        time.sleep(0.002)
    raise AssertionError("no frame")


def failure(source: StreamSource, timeout_s: float = 15.0) -> SourceError:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        try:
            source.grab()
        except SourceError as error:
            return error
        time.sleep(0.005)
    raise AssertionError("it goes on")


def play(source: StreamSource) -> list[RawFrame]:
    """All frames until the end, with their bytes copied."""
    frames = []
    try:
        while True:
            frame = grab(source)
            frames.append(replace(frame, data=memoryview(bytes(frame.data))))
    except SourceEndedError as ended:
        assert "has ended" in str(ended)
    return frames


def grey(frame: RawFrame) -> float:
    return float(np.frombuffer(frame.data, np.uint8)[: frame.width * frame.height].mean())


def test_a_file_is_decoded_to_i420_and_packed(open_source: Any, clip: Path) -> None:
    source = open_source(f"{clip}?pace=fast&loop=0")
    info = source.open(always)
    frames = play(source)
    levels, stamps = [grey(frame) for frame in frames], [frame.pts_ns for frame in frames]

    assert {PixelFormat.I420.frame_bytes(162, 98)} == {frame.data.nbytes for frame in frames}
    assert (162, 98, PixelFormat.I420, 25.0) == (info.width, info.height, info.pixel_format, info.fps)
    assert 50 == len(levels)
    assert all(after > before for before, after in pairwise(levels))
    assert [round(number * 40e6) for number in range(50)] == [round(stamp / 1e6) * 1_000_000 for stamp in stamps]


def test_a_file_keeps_its_own_pace_and_its_newest_frame(open_source: Any, clip: Path) -> None:
    source = open_source(str(clip))
    source.open(always)
    first = grab(source)
    time.sleep(1.0)
    later = grab(source)

    assert 0.5 < (later.pts_ns - first.pts_ns) / 1e9 < 1.5
    assert abs((later.captured_monotonic_ns - first.captured_monotonic_ns) - (later.pts_ns - first.pts_ns)) < 0.5e9


def test_a_looping_file_goes_on_and_time_never_turns_back(open_source: Any, clip: Path) -> None:
    source = open_source(f"{clip}?pace=fast")
    source.open(always)
    stamps = [grab(source).pts_ns for _ in range(120)]

    assert all(after > before for before, after in pairwise(stamps))
    assert stamps[-1] > 4e9


@pytest.mark.parametrize(
    ("suffix", "codec", "pixel_format"), [("mkv", "mjpeg", "yuvj420p"), ("avi", "mjpeg", "yuvj422p")]
)
def test_mjpeg_in_a_file_is_passed_through(
    open_source: Any, tmp_path: Path, suffix: str, codec: str, pixel_format: str
) -> None:
    path = record(tmp_path / f"clip.{suffix}", codec, 160, 120, pixel_format, 10)
    with av.open(str(path)) as container:
        packets = [bytes(packet) for packet in container.demux(video=0) if packet.size]
    source = open_source(f"{path}?pace=fast&loop=0")
    info = source.open(always)
    frames = [bytes(grab(source).data) for _ in range(10)]

    assert (PixelFormat.MJPEG, 160, 120) == (info.pixel_format, info.width, info.height)
    assert packets == frames


def test_other_pixel_layouts_become_i420(open_source: Any, tmp_path: Path) -> None:
    path = record(tmp_path / "clip.mkv", "libx264", 64, 48, "yuv444p", 5)
    source = open_source(f"{path}?pace=fast")
    source.open(always)

    assert 64 * 48 * 3 // 2 == grab(source).data.nbytes


def test_the_shared_clip_plays(open_source: Any, shared_dir: Path) -> None:
    source = open_source(f"{shared_dir}/media/wallflower-wavingtrees.mp4?pace=fast&loop=0")
    info = source.open(always)

    assert 287 == len(play(source))
    assert (160, 120) == (info.width, info.height)


def test_http_mjpeg_is_passed_through_whole(open_source: Any, http_camera: HttpCamera, picture: Any) -> None:
    source = open_source(http_camera.url)
    info = source.open(always)
    originals = {picture(number) for number in range(100)}
    frames = [bytes(grab(source).data) for _ in range(10)]

    assert PixelFormat.MJPEG is info.pixel_format
    assert set(frames) <= originals
    assert 10 == len(set(frames))
    assert "Basic YWRtaW46czNjcmV0LXdvcmQ=" in http_camera.requests[0] or "Authorization" not in http_camera.requests[0]
    assert "s3cret" not in info.identity


@pytest.mark.parametrize(
    ("behaviour", "kind", "link", "says"),
    [
        ("unauthorized", SourceUnauthorizedError, "unauthorized", "refused the user or password"),
        ("missing", SourceGoneError, "gone", "404"),
        ("text", SourceFormatError, "wrong_format", "not a video stream"),
    ],
)
def test_failures_to_open_are_told_apart(
    open_source: Any, http_camera: HttpCamera, behaviour: str, kind: type[SourceError], link: str, says: str
) -> None:
    http_camera.behaviour = behaviour

    with pytest.raises(kind, match=says) as caught:
        open_source(http_camera.url).open(always)

    assert link == caught.value.link
    assert "s3cret" not in str(caught.value)


def test_a_closed_port_is_refused_and_a_missing_file_gone(open_source: Any, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        for scheme in ("http", "rtsp"):
            with pytest.raises(SourceGoneError, match="refused the connection") as caught:
                open_source(f"{scheme}://127.0.0.1:{port}/x").open(always)

            assert "refused" == caught.value.link
    with pytest.raises(SourceGoneError, match="No such file"):
        open_source(f"{tmp_path}/none.mp4").open(always)
    with pytest.raises(SourceFormatError, match="not a video"):
        open_source(__file__).open(always)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("scheme", ["http", "rtsp"])
def test_a_black_hole_gives_up_in_time(open_source: Any, monkeypatch: pytest.MonkeyPatch, scheme: str) -> None:
    monkeypatch.setattr("detr_sentry.capture.stream_worker.OPEN_TIMEOUT_S", 1.0)
    monkeypatch.setattr("detr_sentry.capture.stream_worker.READ_TIMEOUT_S", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as server:
        source = open_source(f"{scheme}://127.0.0.1:{server.getsockname()[1]}/x")

        with pytest.raises(SourceGoneError, match="did not answer"):
            source.open(always)


def test_connecting_ends_when_nobody_wants_it_any_more(open_source: Any, http_camera: HttpCamera) -> None:
    http_camera.behaviour = "silent"
    began = time.monotonic()
    with pytest.raises(SourceGoneError, match="given up"):
        open_source(http_camera.url).open(lambda: time.monotonic() - began < 0.3)

    assert time.monotonic() - began < 5


def test_a_stream_that_breaks_off_or_falls_silent(
    open_source: Any, http_camera: HttpCamera, monkeypatch: pytest.MonkeyPatch
) -> None:
    http_camera.behaviour = "cut"
    source = open_source(http_camera.url)
    source.open(always)
    assert isinstance(failure(source), SourceGoneError)

    monkeypatch.setattr("detr_sentry.capture.stream_worker.READ_TIMEOUT_S", 1.0)
    http_camera.behaviour = "stall"
    source = open_source(http_camera.url)
    source.open(always)
    assert isinstance(failure(source), SourceStalledError)


def test_closing_frees_the_thread_and_the_connection(open_source: Any, http_camera: HttpCamera) -> None:
    before = threading.active_count()
    source = open_source(http_camera.url)
    source.open(always)
    source.close()
    source.close()

    assert before == threading.active_count()
    with pytest.raises(SourceGoneError, match="closed"):
        source.grab()
    assert source.fileno() is None


def test_bad_options_are_refused_before_anything_is_opened(open_source: Any) -> None:
    with pytest.raises(SettingsError, match="native, fast"):
        open_source("clip.mp4?pace=slow")


def test_the_service_survives_a_network_camera_that_comes_and_goes(
    rig_for: RigFor, http_camera: HttpCamera, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "detr_sentry.capture")
    rig = rig_for(http_camera.url)
    rig.order(FULL_RATE)
    before = rig.next()
    rig.link("connected")
    caplog.clear()

    http_camera.down()
    status = rig.link("refused")
    assert "refused" == status["problem"]
    assert "s3cret" not in str(status)
    http_camera.up()
    rig.link("connected", timeout_s=15)
    after = rig.next()

    assert after.epoch > before.epoch
    assert ["WARNING", "INFO"] == [record.levelname for record in caplog.records]
    assert "s3cret" not in caplog.text


def test_torn_pictures_are_counted_dropped_and_end_as_a_stall(
    rig_for: RigFor, http_camera: HttpCamera, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("detr_sentry.capture.loop.STALL_S", 1.5)
    http_camera.behaviour = "torn"
    rig = rig_for(http_camera.url)
    rig.order(FULL_RATE)
    status = rig.link("stalled", timeout_s=15)

    assert "frame was dropped" in status["error"]
    assert sum(status["drops"].values()) > 3
    assert set(status["drops"]) <= {"cut", "corrupt"}


def test_a_camera_that_changes_its_size_is_asked_anew(rig_for: RigFor, http_camera: HttpCamera) -> None:
    rig = rig_for(http_camera.url)
    rig.order(FULL_RATE)
    assert (160, 120) == rig.next().size

    http_camera.size = (320, 240)
    deadline = time.monotonic() + 15
    while rig.next(timeout_s=15).size != (320, 240):
        assert time.monotonic() < deadline

    assert rig.status()["drops"]["wrong_size"] >= 5
    rig.link("connected")
    assert 320 == rig.status()["width"]


def test_off_closes_the_connection(rig_for: RigFor, http_camera: HttpCamera, wait_until: Any) -> None:
    rig = rig_for(http_camera.url)
    rig.next()
    wait_until(lambda: connections(http_camera.port) == 1)

    rig.order(0.0)
    rig.link("off")

    wait_until(lambda: connections(http_camera.port) == 0, 5)


def connections(port: int) -> int:
    """Established connections of this process to a loopback port."""
    wanted = f"0100007F:{port:04X}"
    with open("/proc/self/net/tcp", encoding="ascii") as table:
        rows = [line.split() for line in table]
    return sum(1 for row in rows if row[2] == wanted and row[3] == "01")
