from __future__ import annotations

import numpy as np
import pytest

from detr_sentry.capture.v4l2_geometry import Geometry
from detr_sentry.errors import BadFrameError, SourceFormatError
from detr_sentry.ipc.messages import PixelFormat


def geometry(fourcc: str, width: int, height: int, bytes_per_line: int = 0, size_bytes: int = 0) -> Geometry:
    return Geometry.from_driver(
        fourcc=fourcc, width=width, height=height, bytes_per_line=bytes_per_line, size_bytes=size_bytes
    )


@pytest.mark.parametrize(
    ("fourcc", "pixel_format", "frame_bytes"),
    [
        ("YUYV", PixelFormat.YUYV, 640 * 480 * 2),
        ("RGB3", PixelFormat.RGB24, 640 * 480 * 3),
        ("YU12", PixelFormat.I420, 640 * 480 * 3 // 2),
        ("GREY", PixelFormat.GRAY8, 640 * 480),
        ("MJPG", PixelFormat.MJPEG, 77_777),
    ],
)
def test_frame_bytes_are_packed(fourcc: str, pixel_format: PixelFormat, frame_bytes: int) -> None:
    found = geometry(fourcc, 640, 480, bytes_per_line=2048, size_bytes=77_777)

    assert (found.pixel_format, found.frame_bytes) == (pixel_format, frame_bytes)


def test_jpeg_without_a_size_gets_room_for_the_raw_picture() -> None:
    assert geometry("MJPG", 640, 480).frame_bytes == 640 * 480 * 2


@pytest.mark.parametrize(("width", "height"), [(0, 480), (640, 0), (65535, 65535)])
def test_impossible_size_is_refused(width: int, height: int) -> None:
    with pytest.raises(SourceFormatError, match=f"{width}x{height}"):
        geometry("YUYV", width, height)


def test_packed_frame_is_the_buffer_itself() -> None:
    buffer = bytearray(range(16)) + b"padding of a page"

    frame = geometry("YUYV", 4, 2).frame(memoryview(buffer), 16)
    buffer[0] = 99

    assert bytes(frame) == bytes([99, *range(1, 16)])


def test_jpeg_is_as_long_as_the_driver_says() -> None:
    buffer = memoryview(b"\xff\xd8 picture \xff\xd9" + bytes(50))

    assert bytes(geometry("MJPG", 64, 64).frame(buffer, 13)) == b"\xff\xd8 picture \xff\xd9"
    assert len(geometry("MJPG", 64, 64).frame(buffer, 10_000)) == len(buffer)


@pytest.mark.parametrize(("used", "reason"), [(0, "empty"), (15, "short"), (1, "short")])
def test_incomplete_raw_frame_is_bad(used: int, reason: str) -> None:
    with pytest.raises(BadFrameError) as caught:
        geometry("YUYV", 4, 2).frame(memoryview(bytes(64)), used)

    assert caught.value.reason == reason


def test_empty_jpeg_is_bad() -> None:
    with pytest.raises(BadFrameError) as caught:
        geometry("MJPG", 4, 2).frame(memoryview(bytes(64)), 0)

    assert caught.value.reason == "empty"


@pytest.mark.parametrize(("fourcc", "row_bytes"), [("YUYV", 12), ("RGB3", 18), ("GREY", 6)])
def test_padded_rows_are_packed(fourcc: str, row_bytes: int) -> None:
    picture = np.arange(4 * row_bytes, dtype=np.uint8).reshape(4, row_bytes)
    padded = np.pad(picture, ((0, 0), (0, 32 - row_bytes)), constant_values=255)

    frame = geometry(fourcc, 6, 4, bytes_per_line=32).frame(memoryview(padded.tobytes()), padded.nbytes)

    assert bytes(frame) == picture.tobytes()


def test_padded_planes_are_packed() -> None:
    luma = np.arange(24, dtype=np.uint8).reshape(4, 6)
    chroma = [np.full((2, 3), value, np.uint8) for value in (100, 200)]
    padded = [
        np.pad(plane, ((0, 0), (0, width - plane.shape[1])))
        for plane, width in zip((luma, *chroma), (32, 16, 16), strict=True)
    ]
    buffer = b"".join(plane.tobytes() for plane in padded)

    frame = geometry("YU12", 6, 4, bytes_per_line=32).frame(memoryview(buffer), len(buffer))

    assert bytes(frame) == b"".join(plane.tobytes() for plane in (luma, *chroma))


def test_padding_after_the_last_row_may_be_missing() -> None:
    padded = np.zeros((4, 32), np.uint8)
    found = geometry("GREY", 6, 4, bytes_per_line=32)

    assert len(found.frame(memoryview(padded.tobytes()), padded.nbytes - 26)) == found.frame_bytes
    with pytest.raises(BadFrameError, match="short"):
        found.frame(memoryview(padded.tobytes()), padded.nbytes - 27)
