"""A real RTSP camera: H.264 decoded, MJPEG passed through, passwords, and a server that is killed and comes back."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from detr_sentry.capture.source import FULL_RATE
from detr_sentry.capture.stream import StreamSource
from detr_sentry.errors import SourceUnauthorizedError
from detr_sentry.ipc.messages import PixelFormat
from detr_sentry.jpeg import walk_jpeg
from detr_sentry.settings import CameraSettings
from detr_sentry.source_url import parse_source

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.engine.capture.conftest import Rig

    RigFor = Callable[..., Rig]

SERVER = Path(__file__).with_name("rtsp_server.py")
PYTHON = "/usr/bin/python3"
PACKAGES = "python3-gi gir1.2-gst-rtsp-server-1.0 gstreamer1.0-plugins-base -good -bad -ugly"
PROBE = """
import gi
gi.require_version("GstRtspServer", "1.0")
from gi.repository import Gst, GstRtspServer
Gst.init(None)
assert Gst.ElementFactory.find("x264enc") and Gst.ElementFactory.find("jpegenc")
"""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(90)]


class RtspServer:
    def __init__(self) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.process: subprocess.Popen[str] | None = None
        self.start()

    def url(self, path: str, login: str = "") -> str:
        return f"rtsp://{login}127.0.0.1:{self.port}/{path}"

    def start(self) -> None:
        self.process = subprocess.Popen([PYTHON, str(SERVER), str(self.port)], stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        assert "listening\n" == self.process.stdout.readline()

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.communicate()
            self.process = None


@pytest.fixture(scope="module")
def gstreamer() -> None:
    try:
        ready = subprocess.run([PYTHON, "-c", PROBE], capture_output=True, timeout=30, check=False).returncode == 0
    except OSError:
        ready = False
    if not ready:
        pytest.skip(f"no RTSP server here: apt-get install {PACKAGES}")


@pytest.fixture
def server(gstreamer: None) -> Iterator[RtspServer]:
    server = RtspServer()
    yield server
    server.kill()


@contextlib.contextmanager
def opened(url: str) -> Iterator[tuple[StreamSource, Any]]:
    source = StreamSource(parse_source(url), CameraSettings(id="door", source=url))
    try:
        yield source, source.open(lambda: True)
    finally:
        source.close()


def grab(source: StreamSource) -> Any:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        if (frame := source.grab()) is not None:
            return frame
        time.sleep(0.005)
    raise AssertionError("no frame")


def test_h264_is_decoded_at_the_cameras_rate(server: RtspServer) -> None:
    with opened(server.url("h264")) as (source, info):
        assert (640, 480, PixelFormat.I420) == (info.width, info.height, info.pixel_format)
        first = grab(source).captured_monotonic_ns
        count = 0
        while grab(source).captured_monotonic_ns < first + 2e9:
            count += 1

    assert 20 <= count <= 60


def test_mjpeg_is_passed_through(server: RtspServer) -> None:
    with opened(server.url("jpeg")) as (source, info):
        frame = grab(source)

        assert PixelFormat.MJPEG is info.pixel_format
        assert (640, 480) == (walk_jpeg(frame.data).width, walk_jpeg(frame.data).height)


def test_passwords_are_used_and_wrong_ones_told(server: RtspServer) -> None:
    with opened(server.url("secret", "admin:s3cret-word@")) as (source, _):
        grab(source)
    for login in ("", "admin:wr0ng-word@"):
        with pytest.raises(SourceUnauthorizedError) as caught, opened(server.url("secret", login)):
            pass

        assert "wr0ng" not in str(caught.value)


def test_a_killed_server_is_found_again(rig_for: RigFor, server: RtspServer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "detr_sentry.capture")
    rig = rig_for(server.url("h264"))
    rig.order(FULL_RATE)
    before = rig.next(timeout_s=20)
    rig.link("connected")
    caplog.clear()

    server.kill()
    lost = time.monotonic()
    while rig.status()["link"] == "connected":
        assert time.monotonic() - lost < 15
        time.sleep(0.02)
    server.start()
    after = rig.next(timeout_s=30)

    assert after.epoch > before.epoch
    assert ["WARNING", "INFO"] == [record.levelname for record in caplog.records]


def test_standby_takes_few_frames_and_the_alarm_all(rig_for: RigFor, server: RtspServer) -> None:
    rig = rig_for(server.url("h264"), standby_fps=3)
    rig.next(timeout_s=20)
    standby = rig.collect(2.0)
    ordered_ns = time.monotonic_ns()
    rig.order(FULL_RATE)
    first = rig.next(rig.newest())
    alarmed = rig.collect(2.0)

    assert 3 <= len(standby) <= 8
    assert (first.monotonic_ns - ordered_ns) / 1e6 < 750  # budget 150 ms
    assert len(alarmed) > 25
