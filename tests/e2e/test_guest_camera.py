"""The engine on real V4L2 drivers, in an emulated machine that shares this checkout (tests/e2e/guest).

A session runs in the guest for about two minutes and reports; this file judges. Times are of an emulated processor, so
limits here are about behaviour (which frame is delivered), not speed. Set up once by tests/e2e/guest/setup.sh.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
from pathlib import Path
from typing import Any

import pytest

GUEST = Path(__file__).resolve().parent / "guest"
CACHE = Path(os.environ.get("DETR_SENTRY_CACHE", Path.home() / ".cache/detr-sentry")) / "guest"
SESSION_S = 420
PATIENCE_S = 15  # five times what a camera on real hardware is given to return
SIZES = ("640x480", "1280x720")

pytestmark = [
    pytest.mark.timeout(SESSION_S + 60),
    pytest.mark.skipif(not (CACHE / "ready").exists(), reason=f"no guest prepared: run {GUEST / 'setup.sh'}"),
]


def run_session(program: str) -> dict[str, Any]:
    """What a session reported, by scenario. Fails with its console if the guest or a scenario failed."""
    command = [GUEST / "boot.sh", GUEST / program]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, process_group=0
    ) as guest:
        try:
            console, _ = guest.communicate(timeout=SESSION_S)
        except subprocess.TimeoutExpired:
            os.killpg(guest.pid, 9)
            console, _ = guest.communicate()
    print(console)
    lines = [line.strip() for line in console.splitlines()]
    assert "GUEST-STATUS 0" in lines, console[-4000:]
    reports = [line.split(" ", 2) for line in lines if line.startswith("RESULT ")]
    return {name: json.loads(text) for _, name, text in reports}


@pytest.fixture(scope="module")
def source() -> dict[str, Any]:
    return run_session("source_session.py")


@pytest.fixture(scope="module")
def service() -> dict[str, Any]:
    return run_session("service_session.py")


def test_camera_is_listed_with_a_lasting_source(source: dict[str, Any]) -> None:
    (device,) = source["listing"]["devices"]

    assert {
        "path": "/dev/video0",
        "driver": "vivid",
        "source": "v4l2:bus=platform/vivid.0",
        "problem": None,
    }.items() <= (device.items())
    assert "YUYV 640x360 at 40 fps" in device["offers"]
    assert device["formats"] > 50


def test_raw_frames_arrive_distinct_and_at_the_wished_rate(source: dict[str, Any]) -> None:
    report = source["raw_frames"]

    assert (report["size"], report["format"], report["distinct"]) == ([640, 360], "YUYV", 25)
    assert report["lengths"] == [640 * 360 * 2, 640 * 360 * 2]
    assert 0.6 * 15 <= report["fps"] <= 1.2 * 15


def test_closed_camera_is_held_by_nobody(source: dict[str, Any]) -> None:
    report = source["raw_frames"]

    assert (report["fileno_after_close"], report["holders_after_close"]) == (None, [])


def test_frame_after_a_discard_is_fresh(source: dict[str, Any]) -> None:
    report = source["freshness"]

    # Without the discard, four buffers at three frames a second are about a second old: the difference is the point.
    assert min(report["stale_ms"]) > 1000 / 3
    assert sorted(report["fresh_ms"])[-2] < report["period_ms"] + 50
    assert max(report["fresh_ms"]) < min(report["stale_ms"])


def test_broken_frames_are_reported_and_the_stream_goes_on(source: dict[str, Any]) -> None:
    report = source["broken_frames"]

    assert report["marked"]["text"].startswith("driver_error")
    assert report["after_marked"] == 5
    assert set(report["short"]) == {"short: 307200 of 614400 bytes"}
    assert (len(report["short"]), report["whole"]) in {(4, 11), (5, 10)}


def test_refusals_say_what_to_do(source: dict[str, Any]) -> None:
    report = source["refusals"]

    assert report["busy"] == {
        "type": "SourceGoneError",
        "text": f"/dev/video0 is in use by python (pid {report['pid']})",
    }
    assert report["denied"]["type"] == "SourceUnauthorizedError"
    assert "group video" in report["denied"]["text"]
    assert report["absent"]["text"].startswith("/dev/video77 is not there; found: /dev/video0")


def test_driver_errors_end_in_a_clean_retry(source: dict[str, Any]) -> None:
    report = source["stream_errors"]

    assert set(report["opening"].values()) == {"SourceGoneError"}
    assert report["fatal"] == {"type": "SourceGoneError", "text": "/dev/video0 stopped with an input/output error"}
    assert (report["identity_again"], report["frames_again"]) == ("bus=platform/vivid.0", 3)
    assert report["leaked_descriptors"] == 0


def test_replugged_camera_is_the_same_one_under_another_number(source: dict[str, Any]) -> None:
    report = source["unplugged_and_renumbered"]

    assert report["gone"] == {"type": "SourceGoneError", "text": "/dev/video0 was unplugged"}
    assert "is gone; no camera found at all" in report["absent"]["text"]
    assert "/dev/video0 (Loopback) is another camera, bus=virtual/Loopback" in report["instead"]["text"]
    assert (report["node_before"], report["node_after"]) == ("/dev/video0", "/dev/video1")
    assert report["identity"] == ["bus=platform/vivid.0", "bus=platform/vivid.0"]
    assert report["found_by_identity"] == "bus=platform/vivid.0"
    assert report["distinct"] == 5


def test_jpeg_frames_pass_as_the_camera_made_them(source: dict[str, Any]) -> None:
    report = source["jpeg_frames"]

    assert (report["size"], report["format"], report["start"]) == ([640, 480], "MJPEG", "ffd8")
    assert report["distinct"] >= 28  # of 30, from 64 pictures; a loaded emulator may repeat one
    assert report["lengths"][0] < report["max_frame_bytes"]
    assert report["age_ms"] < 500


def test_exposure_is_automatic_and_limited_to_a_frame(source: dict[str, Any]) -> None:
    report = source["usb_exposure"]

    assert report["camera"] == {"exposure_mode": 1, "exposure_priority": 1, "exposure_time": 250}
    assert report["limited"] == {"exposure_mode": 8, "exposure_priority": 0, "exposure_time": 250}
    assert report["long"] == {"exposure_mode": 8, "exposure_priority": 1, "exposure_time": 250}


def test_usb_camera_is_listed_once_by_its_serial_number(source: dict[str, Any]) -> None:
    report = source["usb_listing"]

    offers = [f"{fourcc} {size} at {fps} fps" for fourcc, fps in (("MJPG", 30), ("YUYV", 10)) for size in SIZES]
    assert report["devices"] == [["Test Camera: Test Camera", "uvcvideo", "v4l2:usb=1209:0001:A1B2C3", offers]]
    assert (report["nodes"], report["by_id"]) == (2, "usb=1209:0001:A1B2C3")


def test_wish_reaches_the_usb_camera(source: dict[str, Any]) -> None:
    report = source["usb_frames"]

    assert report["negotiated"] == ["MJPG", [640, 480], 1_000_000]
    assert (report["size"], report["format"]) == ([640, 480], "MJPEG")
    assert report["distinct"] >= 19
    assert report["cut_length"] < report["lengths"][0]
    assert (report["marked_delivered"], report["whole_again"]) == (False, 5)


def test_pulled_usb_camera_is_noticed_and_returns_at_any_port(source: dict[str, Any]) -> None:
    report = source["usb_replugs"]

    assert report["identities"] == [report["identity"]] == ["usb=1209:0001:A1B2C3"]
    # While the kernel takes a camera down, some of its files outlive others; none of it may look like a camera.
    gone = "the camera usb=1209:0001:A1B2C3 (Test Camera: Test Camera) is gone"
    assert all(error.startswith(gone) or error.endswith("was unplugged") for error in report["errors"])
    assert report["noticed_s"] < 5
    assert report["back_s"] < PATIENCE_S
    assert report["leaked"] == 0


def test_twin_is_never_taken_for_the_camera(source: dict[str, Any]) -> None:
    report = source["usb_twins"]

    assert report["node"] == "/dev/video0"
    assert "is another camera, usb=1209:0001:D4E5F6" in report["instead"]["text"]
    assert report["both"]["text"].startswith("2 cameras match: ")
    assert (report["found"], report["found_at"], report["distinct"]) == ("usb=1209:0001:A1B2C3", "/dev/video2", 3)


def test_service_keeps_the_rates_and_every_frame_is_fresh(service: dict[str, Any]) -> None:
    report = service["standby_and_alarm"]

    period_ms = 1000 / 15
    for part, fps in (("standby", 3), ("alarm", 15), ("again", 3)):
        seen = report[part]
        assert seen["distinct"] == len(seen["ages_ms"])
        assert 0.6 * fps <= seen["fps"] <= 1.2 * fps
        assert statistics.median(seen["ages_ms"]) <= period_ms + 50
    assert report["alarm"]["format"] == "MJPEG"
    assert report["first_ms"] < 5 * 150


def test_camera_that_is_off_is_closed_and_its_frames_are_gone(service: dict[str, Any]) -> None:
    report = service["off_and_on"]

    assert report["held"] == 1
    assert report["closed_s"] < 5
    assert (report["published_while_off"], report["sent_while_off"]) == (False, 0)
    assert report["frames"] == 3


def test_service_drops_broken_frames_and_says_why(service: dict[str, Any]) -> None:
    report = service["broken_frames"]

    assert [set(report["drops"][kind]) for kind in ("cut", "huge", "marked")] == [{"cut"}, {"oversize"}, set()]
    assert report["drops"]["cut"]["cut"] >= 10
    assert report["after"] == 5
    assert report["grown_kib"] < 4096


def test_silent_camera_is_stalled_until_it_speaks(service: dict[str, Any]) -> None:
    report = service["silence"]

    assert report["error"] == "v4l2:usb=1209:0001:A1B2C3 sent no usable frame for 5 s"
    assert report["back_s"] < PATIENCE_S


def test_replugging_costs_two_log_lines_and_nothing_else(service: dict[str, Any]) -> None:
    report = service["replugs"]

    assert report["lost_lines"] == report["back_lines"] == report["cycles"]
    assert report["lines"] == 2 * report["cycles"]
    assert report["gone_s"] < PATIENCE_S
    assert report["back_s"] < PATIENCE_S
    assert report["descriptors"] == 0
    assert report["grown_kib"] < 4096


def test_service_ends_at_once_and_lets_go(service: dict[str, Any]) -> None:
    report = service["end"]

    assert (report["status"], report["holders"]) == (0, [])
    assert report["seconds_to_end"] < 5


def test_service_outlives_the_driver(service: dict[str, Any]) -> None:
    report = service["driver_faults"]

    assert (report["raw"]["distinct"], report["raw"]["format"]) == (20, "YUYV")
    assert [line.split(":")[0].split(" after")[0] for line in report["log"]] == [
        "lost", "back", "lost", "back", "is off", "lost", "back",
    ]  # fmt: skip
    assert "stopped with an input/output error" in report["log"][0]
    assert "/dev/video0 was unplugged" in report["log"][2]
    assert "is gone; no camera found at all" in report["log"][5]
    assert max(report["back_s"]) < PATIENCE_S
