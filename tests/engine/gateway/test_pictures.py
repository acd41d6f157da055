from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import simplejpeg

from detr_sentry import pictures
from detr_sentry.errors import BadFrameError
from detr_sentry.gateway.pictures import FrameInfo, Picture, boxed_jpeg, full_jpeg, small_jpeg
from detr_sentry.ipc.messages import PixelFormat

COLOUR = (200, 120, 40)
# Limited-range BT.601 of COLOUR, as cameras deliver YUV.
Y, U, V = 132, 81, 169


def to_rgb(frame: Picture, min_width: int = 0) -> Any:
    info = frame.info
    return pictures.to_rgb(frame.data, info.pixel_format, info.width, info.height, min_width=min_width)


def picture(pixel_format: PixelFormat, data: bytes, width: int = 64, height: int = 48) -> Picture:
    info = FrameInfo(
        key=(1, 1),
        frame_number=1,
        capture_epoch=1,
        timestamp_ns=1,
        captured_monotonic_ns=1,
        width=width,
        height=height,
        pixel_format=pixel_format,
    )
    return Picture(info=info, data=data)


def one_colour(pixel_format: PixelFormat, width: int = 64, height: int = 48) -> Picture:
    rgb = np.full((height, width, 3), COLOUR, np.uint8)
    match pixel_format:
        case PixelFormat.MJPEG:
            data = simplejpeg.encode_jpeg(rgb, quality=95)
        case PixelFormat.RGB24:
            data = rgb.tobytes()
        case PixelFormat.YUYV:
            data = bytes([Y, U, Y, V]) * (width * height // 2)
        case PixelFormat.I420:
            data = (
                bytes([Y]) * (width * height) + bytes([U]) * (width * height // 4) + bytes([V]) * (width * height // 4)
            )
        case PixelFormat.GRAY8:
            data = bytes([Y]) * (width * height)
    return picture(pixel_format, data, width, height)


@pytest.mark.parametrize("pixel_format", [f for f in PixelFormat if f is not PixelFormat.GRAY8])
@pytest.mark.parametrize("make", [full_jpeg, lambda frame: small_jpeg(frame, 32), lambda frame: boxed_jpeg(frame, [])])
def test_every_pixel_format_keeps_its_colour(pixel_format: PixelFormat, make: Any) -> None:
    decoded = simplejpeg.decode_jpeg(make(one_colour(pixel_format)))

    assert np.abs(decoded.astype(int) - COLOUR).max() <= 8


def test_gray_stays_gray() -> None:
    frame = one_colour(PixelFormat.GRAY8)
    decoded = simplejpeg.decode_jpeg(full_jpeg(frame))

    assert np.abs(decoded.astype(int) - Y).max() <= 4
    assert (48, 64, 3) == to_rgb(frame).shape


@pytest.mark.parametrize("pixel_format", list(PixelFormat))
def test_the_small_rendition_keeps_the_aspect(pixel_format: PixelFormat) -> None:
    jpeg = small_jpeg(one_colour(pixel_format, 1280, 720), 640)

    assert (360, 640) == simplejpeg.decode_jpeg_header(jpeg)[:2]


def test_nothing_is_enlarged() -> None:
    frame = one_colour(PixelFormat.MJPEG)

    assert frame.data is small_jpeg(frame, 640)


def test_a_jpeg_without_huffman_tables_gets_them() -> None:
    data = one_colour(PixelFormat.MJPEG).data
    # libjpeg writes the standard tables at this point; a UVC camera leaves them out.
    at, bare = 2, b"\xff\xd8"
    while data[at + 1] != 0xDA:
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        bare += b"" if data[at + 1] == 0xC4 else data[at:end]
        at = end
    bare += data[at:]
    mended = full_jpeg(picture(PixelFormat.MJPEG, bare))

    assert b"\xff\xc4" not in bare
    assert b"\xff\xc4" in mended
    assert np.array_equal(simplejpeg.decode_jpeg(data), simplejpeg.decode_jpeg(mended))


@pytest.mark.parametrize("pixel_format", list(PixelFormat))
@pytest.mark.parametrize("make", [to_rgb, lambda frame: small_jpeg(frame, 8), lambda frame: boxed_jpeg(frame, [])])
def test_data_that_is_no_such_picture_is_a_bad_frame(pixel_format: PixelFormat, make: Any) -> None:
    with pytest.raises(BadFrameError):
        make(picture(pixel_format, b"\xff\xd8nonsense"))


def test_a_jpeg_of_another_size_than_announced_is_a_bad_frame() -> None:
    data = one_colour(PixelFormat.MJPEG, 128, 96).data
    with pytest.raises(BadFrameError, match="jpeg_size"):
        to_rgb(picture(PixelFormat.MJPEG, data))


def test_odd_sizes_are_no_reason_to_fail() -> None:
    gray = picture(PixelFormat.GRAY8, bytes([9]) * (63 * 47), 63, 47)

    assert (47, 63) == simplejpeg.decode_jpeg_header(full_jpeg(gray))[:2]
    with pytest.raises(BadFrameError):
        to_rgb(picture(PixelFormat.YUYV, bytes(63 * 47 * 2), 63, 47))


def test_a_decode_for_a_small_rendition_is_halved_only_as_far_as_it_may() -> None:
    frame = one_colour(PixelFormat.MJPEG, 1920, 1080)

    assert (540, 960, 3) == to_rgb(frame, min_width=640).shape
    assert (1080, 1920, 3) == to_rgb(frame, min_width=961).shape
    assert (1080, 1920, 3) == to_rgb(frame).shape


@pytest.mark.parametrize("box", [(-50.0, -50.0, 5000.0, 5000.0), (0.0, 0.0, 0.0, 0.0), (60.0, 40.0, 10.0, 5.0)])
def test_boxes_beyond_the_picture_are_drawn_inside(box: tuple[float, float, float, float]) -> None:
    x1, y1, x2, y2 = box
    found = {"x1": x1, "y1": y1, "x2": x2, "y2": y2, "confidence": 0.5, "class_id": 1, "label": "person", "track_id": 1}
    jpeg = boxed_jpeg(one_colour(PixelFormat.MJPEG), [found])  # type: ignore[list-item]

    assert (48, 64) == simplejpeg.decode_jpeg_header(jpeg)[:2]


@pytest.mark.parametrize("min_width", [0, 32])
def test_padding_before_the_end_is_no_error(min_width: int) -> None:
    data = one_colour(PixelFormat.MJPEG).data
    decoded = to_rgb(picture(PixelFormat.MJPEG, data[:-2] + bytes(64) + data[-2:]), min_width)

    assert np.abs(decoded.astype(int) - COLOUR).max() <= 8


def test_a_jpeg_that_breaks_a_rule_is_shown_as_browsers_do() -> None:
    frame = one_colour(PixelFormat.MJPEG)
    scan = frame.data.index(b"\xff\xda")
    cut = picture(PixelFormat.MJPEG, frame.data[: scan + 40] + b"\xff\xd9")

    decoded = to_rgb(cut)

    assert (48, 64, 3) == decoded.shape
    assert np.abs(decoded[0, 0].astype(int) - COLOUR).max() <= 20
