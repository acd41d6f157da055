from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import simplejpeg
from hypothesis import given
from hypothesis import strategies as st

from detr_sentry.errors import BadFrameError
from detr_sentry.inference.preprocess import Preprocessor
from detr_sentry.ipc.messages import PixelFormat

Picture = npt.NDArray[np.uint8]


def photo(width: int, height: int) -> Picture:
    """A smooth RGB picture without hard edges, which every format keeps well."""
    rows, columns = np.mgrid[0:height, 0:width]
    channels = [128 + 90 * np.sin(rows / height * 2 + columns / width * 1.5 + phase) for phase in (0.0, 1.3, 2.1)]
    return np.stack(channels, axis=-1).astype(np.uint8)


def encode(picture: Picture, pixel_format: PixelFormat) -> memoryview:
    match pixel_format:
        case PixelFormat.MJPEG:
            return memoryview(simplejpeg.encode_jpeg(picture, quality=97, colorsubsampling="422"))
        case PixelFormat.RGB24:
            return memoryview(picture.tobytes())
        case PixelFormat.YUYV:
            return memoryview(cv2.cvtColor(picture, cv2.COLOR_RGB2YUV_YUY2).tobytes())
        case PixelFormat.I420:
            return memoryview(cv2.cvtColor(picture, cv2.COLOR_RGB2YUV_I420).tobytes())
        case PixelFormat.GRAY8:
            return memoryview(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY).tobytes())


@pytest.mark.parametrize("pixel_format", PixelFormat)
@pytest.mark.parametrize(("width", "height"), [(160, 120), (322, 182), (96, 64)])
def test_every_format_becomes_the_stretched_picture(pixel_format: PixelFormat, width: int, height: int) -> None:
    picture = photo(width, height)
    if pixel_format is PixelFormat.GRAY8:
        picture = np.repeat(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)[:, :, None], 3, axis=2).astype(np.uint8)
    pixels = Preprocessor(96, 64)

    pixels.load(encode(picture, pixel_format), pixel_format=pixel_format, width=width, height=height)

    expected = cv2.resize(picture, (96, 64), interpolation=cv2.INTER_LINEAR).astype(int)
    assert pixels.tensor.shape == (1, 64, 96, 3)
    assert np.abs(pixels.tensor[0] - expected).max() <= 8
    assert np.abs(pixels.tensor[0] - expected).mean() < 1.6


def test_rgb_is_stretched_exactly_as_opencv_does() -> None:
    picture = np.random.default_rng(2).integers(0, 256, (123, 77, 3), dtype=np.uint8)
    pixels = Preprocessor(64, 96)

    pixels.load(memoryview(picture.tobytes()), pixel_format=PixelFormat.RGB24, width=77, height=123)

    np.testing.assert_array_equal(pixels.tensor[0], cv2.resize(picture, (64, 96), interpolation=cv2.INTER_LINEAR))


@pytest.mark.parametrize(
    ("width", "height", "decoded"),
    [(192, 128, (96, 64)), (191, 127, (96, 64)), (190, 128, (190, 128)), (80, 50, (80, 50))],
)
def test_jpeg_is_decoded_at_half_scale_where_that_holds_the_input(
    width: int, height: int, decoded: tuple[int, int]
) -> None:
    data = encode(photo(width, height), PixelFormat.MJPEG)
    pixels = Preprocessor(96, 64)

    pixels.load(data, pixel_format=PixelFormat.MJPEG, width=width, height=height)

    plain = simplejpeg.decode_jpeg(data, min_width=decoded[0], min_height=decoded[1])
    assert plain.shape[:2] == decoded[::-1]
    expected = plain if decoded == (96, 64) else cv2.resize(plain, (96, 64), interpolation=cv2.INTER_LINEAR)
    np.testing.assert_array_equal(pixels.tensor[0], expected)


@pytest.mark.parametrize("pixel_format", PixelFormat)
@pytest.mark.parametrize(("width", "height"), [(160, 120), (322, 182)])
def test_gray_is_the_luma_at_an_eighth(pixel_format: PixelFormat, width: int, height: int) -> None:
    picture = photo(width, height)

    gray = Preprocessor(96, 64).gray(
        encode(picture, pixel_format), pixel_format=pixel_format, width=width, height=height
    )

    luma = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    size = -(-width // 8), -(-height // 8)
    expected = cv2.resize(luma, size, interpolation=cv2.INTER_AREA).astype(float)
    if pixel_format in {PixelFormat.YUYV, PixelFormat.I420}:
        expected = 16 + expected * 219 / 255  # video luma
    assert gray.shape == size[::-1]
    assert np.abs(gray[:-1, :-1] - expected[:-1, :-1]).mean() < 2.0


@pytest.mark.parametrize(("width", "height"), [(161, 120), (160, 121), (161, 121)])
def test_i420_with_an_odd_side_is_taken(width: int, height: int) -> None:
    even = photo(width + width % 2, height + height % 2)
    planes = cv2.cvtColor(even, cv2.COLOR_RGB2YUV_I420)
    luma = planes[: even.shape[0]][:height, :width]
    data = memoryview(luma.tobytes() + planes[even.shape[0] :].tobytes())
    pixels = Preprocessor(width, height)

    pixels.load(data, pixel_format=PixelFormat.I420, width=width, height=height)
    gray = pixels.gray(data, pixel_format=PixelFormat.I420, width=width, height=height)

    assert data.nbytes == PixelFormat.I420.frame_bytes(width, height)
    assert np.abs(pixels.tensor[0].astype(int) - even[:height, :width]).mean() < 3
    assert gray.shape == (-(-height // 8), -(-width // 8))


@pytest.mark.parametrize("pixel_format", PixelFormat)
def test_buffers_are_made_once_and_serve_cameras_of_all_sizes(pixel_format: PixelFormat) -> None:
    pixels = Preprocessor(96, 64)
    sizes = [(320, 240), (160, 120), (322, 182), (320, 240)]

    def serve(width: int, height: int) -> None:
        data = encode(photo(width, height), pixel_format)
        pixels.load(data, pixel_format=pixel_format, width=width, height=height)
        pixels.gray(data, pixel_format=pixel_format, width=width, height=height)

    serve(*sizes[0])
    buffers = [array.ctypes.data for array in (pixels.tensor, pixels._pixels, pixels._gray)]
    for size in sizes:
        serve(*size)

    assert buffers == [array.ctypes.data for array in (pixels.tensor, pixels._pixels, pixels._gray)]


@given(cut=st.integers(0, 1500), place=st.integers(200, 1500), junk=st.binary(min_size=1, max_size=40))
def test_a_damaged_jpeg_is_a_bad_frame_or_a_picture(cut: int, place: int, junk: bytes) -> None:
    whole = bytes(encode(photo(160, 120), PixelFormat.MJPEG))
    for data in (whole[:cut], whole[:place] + junk + whole[place + len(junk) :]):
        pixels = Preprocessor(96, 64)
        for read in (pixels.load, pixels.gray):
            try:
                read(memoryview(data), pixel_format=PixelFormat.MJPEG, width=160, height=120)
            except BadFrameError as error:
                assert error.reason in {"jpeg", "geometry"}


def test_a_truncated_jpeg_is_never_half_a_picture() -> None:
    data = bytes(encode(photo(160, 120), PixelFormat.MJPEG))

    with pytest.raises(BadFrameError, match="jpeg"):
        Preprocessor(96, 64).load(
            memoryview(data[: len(data) // 2]), pixel_format=PixelFormat.MJPEG, width=160, height=120
        )


@pytest.mark.parametrize("padding", [1, 5, 400])
@pytest.mark.parametrize(("width", "height"), [(160, 120), (400, 300)])
def test_padding_before_the_end_of_a_jpeg_changes_nothing(padding: int, width: int, height: int) -> None:
    whole = bytes(encode(photo(width, height), PixelFormat.MJPEG))
    padded = whole[:-2] + bytes(padding) + whole[-2:]
    seen = []
    for data in (whole, padded):
        pixels = Preprocessor(96, 64)
        pixels.load(memoryview(data), pixel_format=PixelFormat.MJPEG, width=width, height=height)
        gray = pixels.gray(memoryview(data), pixel_format=PixelFormat.MJPEG, width=width, height=height)
        seen.append((pixels.tensor.tobytes(), gray.tobytes()))

    assert seen[0] == seen[1]


@pytest.mark.parametrize(("width", "height"), [(161, 120), (16, 16), (8000, 8000)])
def test_a_jpeg_of_another_size_is_refused_before_it_is_decoded(width: int, height: int) -> None:
    data = encode(photo(160, 120), PixelFormat.MJPEG)
    pixels = Preprocessor(96, 64)

    for read in (pixels.load, pixels.gray):
        with pytest.raises(BadFrameError, match="geometry"):
            read(data, pixel_format=PixelFormat.MJPEG, width=width, height=height)


@pytest.mark.parametrize("pixel_format", [entry for entry in PixelFormat if entry is not PixelFormat.MJPEG])
@pytest.mark.parametrize("change", [-1, 1])
def test_raw_pixels_of_a_wrong_length_are_refused(pixel_format: PixelFormat, change: int) -> None:
    exact = pixel_format.frame_bytes(160, 120)
    assert exact is not None
    data = memoryview(bytes(exact + change))
    pixels = Preprocessor(96, 64)

    for read in (pixels.load, pixels.gray):
        with pytest.raises(BadFrameError, match="length"):
            read(data, pixel_format=pixel_format, width=160, height=120)


@pytest.mark.parametrize(("width", "height"), [(0, 0), (8, 100), (10000, 100), (8192, 8193)])
def test_absurd_sizes_are_refused(width: int, height: int) -> None:
    with pytest.raises(BadFrameError, match="geometry"):
        Preprocessor(96, 64).load(memoryview(b""), pixel_format=PixelFormat.GRAY8, width=width, height=height)
