from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from linuxpy.video import raw

from detr_sentry.capture.v4l2_formats import (
    Offer,
    choose,
    fourcc_code,
    fourcc_text,
    rate_of,
    sizes_in_range,
)
from detr_sentry.errors import SourceFormatError
from detr_sentry.ipc.messages import PixelFormat


def offer(text: str) -> Offer:
    """`YUYV 640x480 25` as an Offer."""
    fourcc, size, fps = text.split()
    width, height = size.split("x")
    return Offer(fourcc=fourcc, width=int(width), height=int(height), fps=float(fps))


C270 = [
    offer(text)
    for text in (
        "YUYV 640x480 30",
        "YUYV 320x240 30",
        "YUYV 1280x720 10",
        "YUYV 1280x960 7.5",
        "MJPG 640x480 30",
        "MJPG 320x240 30",
        "MJPG 1280x720 30",
        "MJPG 1280x960 30",
    )
]
VIVID = [
    offer(text)
    for text in (
        "YUYV 320x180 60",
        "YUYV 640x360 40",
        "YUYV 640x480 25",
        "YUYV 1280x720 12.5",
        "YUYV 1920x1080 5",
        "RGB3 320x180 60",
        "RGB3 640x360 40",
    )
]


@pytest.mark.parametrize(
    ("offers", "wish", "expected"),
    [
        (C270, {"width": None, "height": None, "fps": 30}, "MJPG 1280x720 30"),
        (C270, {"width": None, "height": None, "fps": 5}, "MJPG 1280x720 30"),
        (C270, {"width": 1280, "height": 960, "fps": 30}, "MJPG 1280x960 30"),
        (C270, {"width": 640, "height": None, "fps": 30}, "MJPG 640x480 30"),
        (C270, {"width": None, "height": 240, "fps": 30}, "MJPG 320x240 30"),
        (C270, {"width": 1920, "height": 1080, "fps": 30}, "MJPG 1280x960 30"),
        (VIVID, {"width": None, "height": None, "fps": 30}, "YUYV 640x360 40"),
        (VIVID, {"width": 1280, "height": 720, "fps": 30}, "YUYV 1280x720 12.5"),
        (VIVID, {"width": None, "height": None, "fps": 12}, "YUYV 1280x720 12.5"),
    ],
)
def test_choice_follows_the_wish(offers: list[Offer], wish: dict[str, int | None], expected: str) -> None:
    chosen = choose(offers, width=wish["width"], height=wish["height"], fps=float(wish["fps"] or 0))

    assert chosen == offer(expected)


@pytest.mark.parametrize(
    ("fps", "expected"),
    [(30, "MJPG 1280x720 30"), (10, "MJPG 1280x720 30"), (60, "MJPG 1280x720 30")],
)
def test_jpeg_goes_before_raw_that_is_not_faster(fps: float, expected: str) -> None:
    offers = [offer("YUYV 1280x720 10"), offer("MJPG 1280x720 30"), offer("GREY 1280x720 30")]

    assert choose(offers, width=1280, height=720, fps=fps) == offer(expected)


def test_raw_that_keeps_the_rate_goes_before_jpeg_that_does_not() -> None:
    offers = [offer("MJPG 1280x720 15"), offer("YUYV 1280x720 30")]

    assert choose(offers, width=1280, height=720, fps=30) == offer("YUYV 1280x720 30")


def test_fractional_rate_keeps_its_whole_one() -> None:
    offers = [offer("MJPG 1280x720 29.97"), offer("YUYV 1280x720 30")]

    assert choose(offers, width=None, height=None, fps=30) == offer("MJPG 1280x720 29.97")


def test_tiny_pictures_do_not_win_by_their_rate() -> None:
    offers = [offer("YUYV 160x120 30"), offer("YUYV 640x480 15")]

    assert choose(offers, width=None, height=None, fps=30) == offer("YUYV 640x480 15")
    assert choose(offers[:1], width=None, height=None, fps=30) == offer("YUYV 160x120 30")
    assert choose(offers, width=160, height=120, fps=30) == offer("YUYV 160x120 30")


def test_unknown_rate_is_not_held_against_a_camera() -> None:
    offers = [offer("MJPG 1280x720 0"), offer("YUYV 1280x720 10")]

    assert choose(offers, width=None, height=None, fps=30) == offer("MJPG 1280x720 0")


@pytest.mark.parametrize(
    ("offers", "named"), [(["H264 0x0 0", "BGR3 0x0 0"], "offers BGR3, H264"), ([], "offers nothing")]
)
def test_unusable_formats_are_refused_by_name(offers: list[str], named: str) -> None:
    with pytest.raises(SourceFormatError, match=rf"{named}; one of MJPG, JPEG, YUYV, YU12, RGB3, GREY is needed"):
        choose([offer(text) for text in offers], width=None, height=None, fps=30)


def test_offer_reads_well() -> None:
    assert [str(offer("YUYV 640x480 29.97")), str(offer("H264 0x0 0"))] == ["YUYV 640x480 at 29.97 fps", "H264 0x0"]
    assert offer("JPEG 640x480 0").pixel_format is PixelFormat.MJPEG
    assert offer("H264 0x0 0").pixel_format is None


@pytest.mark.parametrize(
    ("wish", "expected"),
    [
        ((None, None), [(1280, 720), (1920, 1080)]),
        ((800, 600), [(800, 600), (1920, 1080)]),
        ((801, 601), [(800, 600), (1920, 1080)]),
        ((9999, 9999), [(1920, 1080)]),
        ((1, 1), [(32, 24), (1920, 1080)]),
    ],
)
def test_sizes_of_a_range_hold_the_wish(wish: tuple[int | None, int | None], expected: list[tuple[int, int]]) -> None:
    limits = raw.v4l2_frmsize_stepwise(
        min_width=32, max_width=1920, step_width=16, min_height=24, max_height=1080, step_height=8
    )

    assert sizes_in_range(limits, *wish) == expected


def test_continuous_range_has_no_grid() -> None:
    limits = raw.v4l2_frmsize_stepwise(min_width=1, max_width=4096, min_height=1, max_height=4096)

    assert sizes_in_range(limits, 801, 601) == [(801, 601), (4096, 4096)]


@pytest.mark.parametrize(
    ("numerator", "denominator", "expected"), [(1, 30, 30.0), (2, 25, 12.5), (0, 30, 0.0), (1, 0, 0.0)]
)
def test_rate_of_an_interval(numerator: int, denominator: int, expected: float) -> None:
    assert rate_of(raw.v4l2_fract(numerator=numerator, denominator=denominator)) == expected


def test_fourcc_round_trip() -> None:
    assert fourcc_code("MJPG") == raw.PixelFormat.MJPEG
    assert fourcc_text(raw.PixelFormat.YUYV) == "YUYV"
    assert fourcc_text(fourcc_code("Y16")) == "Y16"
    assert fourcc_text(0x01020384) == "????"


_OFFERS = st.builds(
    Offer,
    fourcc=st.sampled_from(["MJPG", "YUYV", "YU12", "GREY", "H264"]),
    width=st.integers(16, 4096),
    height=st.integers(16, 4096),
    fps=st.floats(0.0, 240.0),
)
_SIDES = st.none() | st.integers(16, 4096)


@given(st.lists(_OFFERS, max_size=20), _SIDES, _SIDES, st.floats(0.1, 240.0))
def test_choice_is_always_a_usable_offer(
    offers: list[Offer], width: int | None, height: int | None, fps: float
) -> None:
    if all(item.pixel_format is None for item in offers):
        with pytest.raises(SourceFormatError):
            choose(offers, width=width, height=height, fps=fps)
        return

    chosen = choose(offers, width=width, height=height, fps=fps)

    assert chosen in offers
    assert chosen.pixel_format is not None


@given(st.lists(_OFFERS, min_size=1, max_size=20), st.floats(0.1, 240.0), st.data())
def test_offered_size_is_kept_whatever_the_rate(offers: list[Offer], fps: float, data: st.DataObject) -> None:
    usable = [item for item in offers if item.pixel_format is not None]
    assume(usable)
    wish = data.draw(st.sampled_from(usable))

    chosen = choose(offers, width=wish.width, height=wish.height, fps=fps)

    assert (chosen.width, chosen.height) == (wish.width, wish.height)
