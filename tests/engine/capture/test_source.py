"""How sources are named: every spelling people use, errors that help, and no credential that leaks."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detr_sentry.errors import SettingsError
from detr_sentry.source_url import parse_source, redact


@pytest.mark.parametrize(
    ("url", "scheme", "location"),
    [
        ("/dev/video0", "v4l2", "/dev/video0"),
        ("v4l2:/dev/v4l/by-id/usb-X-video-index0", "v4l2", "/dev/v4l/by-id/usb-X-video-index0"),
        ("v4l2:usb=046d:085e:SER@1-2", "v4l2", "usb=046d:085e:SER@1-2"),
        ("rtsp://10.0.0.2/cam", "rtsp", "rtsp://10.0.0.2/cam"),
        ("RTSP://10.0.0.2/cam", "rtsp", "RTSP://10.0.0.2/cam"),
        ("http://u:p@h:81/v?x=1", "http", "http://u:p@h:81/v?x=1"),
        ("demo:", "demo", ""),
        ("demo:?period=40&seed=1", "demo", ""),
        ("replay:/a/b.mjpeg?fps=30&loop=0", "replay", "/a/b.mjpeg"),
        ("clip.mp4", "file", "clip.mp4"),
        ("/clips/a b.mkv?pace=fast", "file", "/clips/a b.mkv"),
        ("file:///clips/a.mp4", "file", "/clips/a.mp4"),
        (" /dev/video1 ", "v4l2", "/dev/video1"),
    ],
)
def test_every_spelling_is_read(url: str, scheme: str, location: str) -> None:
    spec = parse_source(url)

    assert (scheme, location) == (spec.scheme, spec.location)


def test_options_are_numbers_and_choices_within_bounds() -> None:
    spec = parse_source("replay:a.mjpeg?fps=12.5&loop=0")

    assert 12.5 == spec.number("fps", 30, 1, 240)
    assert 7 == spec.number("absent", 7, 1, 240)
    assert "0" == spec.choice("loop", "1", ("0", "1"))
    for bad in ("fps=0", "fps=nan", "fps=1e9", "fps=x", "fps="):
        with pytest.raises(SettingsError, match="option fps"):
            parse_source(f"replay:a.mjpeg?{bad}").number("fps", 30, 1, 240)
    with pytest.raises(SettingsError, match="one of 0, 1"):
        parse_source("replay:a.mjpeg?loop=yes").choice("loop", "1", ("0", "1"))


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("", "empty"),
        ("a\nb", "control characters"),
        ("ftp://host/x", "not supported"),
        ("rtsp://", "not a usable URL"),
        ("http://user:pa#ss@host/x", "escape special characters"),
        ("http://h:99999/", "not a usable URL"),
        ("demo:?sed=1", "unknown option 'sed'.*period"),
        ("replay:?fps=3", "names no file"),
        ("v4l2:", "names no device"),
        ("/dev/video0?fps=3", "unknown option"),
    ],
)
def test_errors_name_the_fault(url: str, says: str) -> None:
    with pytest.raises(SettingsError, match=says) as caught:
        parse_source(url)

    assert "source" == caught.value.key
    assert "pa#ss" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("rtsp://admin:12345@10.0.0.2:554/h264", "rtsp://********@10.0.0.2:554/h264"),
        ("http://cam/video?user=admin&pwd=12345&res=hd", "http://cam/video?user=********&pwd=********&res=hd"),
        ("http://cam/video?Token=12345", "http://cam/video?Token=********"),
        ("rtsp://admin:p@ss/w?o#rd12345@cam/x", "rtsp://********@cam/x"),
        ("/dev/video0", "/dev/video0"),
    ],
)
def test_credentials_are_not_shown(url: str, shown: str) -> None:
    assert shown == redact(url)
    assert "12345" not in redact(url)


def test_messages_of_libraries_are_scrubbed() -> None:
    spec = parse_source("rtsp://admin:hunter2@cam/x?token=abcdef")

    assert "refused: 'rtsp://********@cam/x?token=********'" == spec.scrub(
        "refused: 'rtsp://admin:hunter2@cam/x?token=abcdef'"
    )
    assert "hunter2" not in spec.scrub("login admin:hunter2 failed, hunter2 is wrong")
    assert "abcdef" not in spec.scrub("token abcdef expired")
    assert "hunter2" not in repr(spec)


@given(st.text(min_size=4, max_size=20), st.sampled_from(["rtsp", "http", "https"]))
def test_no_password_leaks_whatever_its_characters(noise: str, scheme: str) -> None:
    password = f"Zq9{noise}9qZ"
    url = f"{scheme}://admin:{password}@camera.local/stream"

    assert "Zq9" not in redact(url)
    try:
        spec = parse_source(url)
    except SettingsError as error:
        assert "Zq9" not in str(error)
        return
    assert "Zq9" not in spec.redacted
    assert "Zq9" not in spec.scrub(f"cannot open {spec.location}")
