"""The JPEG walk: whole pictures pass and are trimmed, everything else is refused by reason, and nothing crashes it."""

from __future__ import annotations

import struct

import cv2
import numpy as np
import pytest
import simplejpeg
from hypothesis import example, given
from hypothesis import strategies as st

from detr_sentry.errors import BadFrameError
from detr_sentry.jpeg import insert_dht, walk_jpeg

HEADER_BYTES = 700


def picture(width: int = 64, height: int = 48, subsampling: str = "420", quality: int = 85) -> bytes:
    noise = np.random.default_rng(width * height).integers(0, 255, (height, width, 3), dtype=np.uint8)
    return bytes(simplejpeg.encode_jpeg(noise, quality, "RGB", subsampling))


def without_dht(data: bytes) -> bytes:
    while (at := data.find(b"\xff\xc4")) >= 0:
        data = data[:at] + data[at + 2 + int.from_bytes(data[at + 2 : at + 4], "big") :]
    return data


def with_size(data: bytes, width: int, height: int) -> bytes:
    at = data.index(b"\xff\xc0") + 5
    return data[:at] + struct.pack(">HH", height, width) + data[at + 4 :]


def reason(data: bytes, expected: tuple[int, int] | None = None) -> str:
    with pytest.raises(BadFrameError) as caught:
        walk_jpeg(data, expected)
    return caught.value.reason


@pytest.mark.parametrize("subsampling", ["444", "422", "420", "440", "411", "Gray"])
def test_whole_pictures_pass(subsampling: str) -> None:
    noise = np.random.default_rng(1).integers(0, 255, (50, 70, 1 if subsampling == "Gray" else 3), dtype=np.uint8)
    space = "GRAY" if subsampling == "Gray" else "RGB"
    data = simplejpeg.encode_jpeg(noise, 90, space, subsampling)

    info = walk_jpeg(data, (70, 50))

    assert (70, 50) == (info.width, info.height)
    assert len(data) == info.length
    assert info.has_dht


def test_padding_is_trimmed() -> None:
    data = picture()

    for padding in (b"\0" * 5000, b"\xff" * 9, b"\xff\xd8\xff\xd9"):
        assert len(data) == walk_jpeg(data + padding).length


def test_a_thumbnail_in_an_application_segment_is_not_the_picture() -> None:
    data, thumbnail = picture(), picture(16, 16)
    segment = b"\xff\xe1" + struct.pack(">H", len(thumbnail) + 2) + thumbnail
    exif = data[:2] + segment + data[2:]

    assert (64, 48, len(exif)) == (walk_jpeg(exif).width, walk_jpeg(exif).height, walk_jpeg(exif).length)


def test_progressive_pictures_with_many_scans_pass() -> None:
    noise = np.random.default_rng(3).integers(0, 255, (60, 80, 3), dtype=np.uint8)
    data = cv2.imencode(".jpg", noise, [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1].tobytes()

    info = walk_jpeg(data + b"\0\0")

    assert info.progressive
    assert len(data) == info.length


def test_fill_bytes_before_markers_are_allowed() -> None:
    data = picture()
    at = data.index(b"\xff\xdb")

    assert len(data) + 3 == walk_jpeg(data[:at] + b"\xff\xff\xff" + data[at:]).length


@pytest.mark.parametrize("keep", [0, 1, 2, 3, 10, 100, HEADER_BYTES, -2, -1])
def test_cut_pictures_are_refused(keep: int) -> None:
    data = picture()

    assert reason(data[:keep]) in {"cut", "corrupt"}
    assert reason(data[:keep] + b"\0" * 1000) in {"cut", "corrupt"}


def test_a_cut_picture_followed_by_the_next_one_is_refused() -> None:
    data = picture()

    assert reason(data[:-50] + data) == "corrupt"


def test_sizes_are_held_to_what_was_negotiated() -> None:
    data = picture()

    assert reason(data, (640, 480)) == "wrong_size"
    assert reason(with_size(data, 65535, 65535)) == "oversize"
    assert reason(with_size(data, 65535, 65535), (64, 48)) == "oversize"
    assert reason(with_size(data, 0, 48)) == "corrupt"
    assert reason(with_size(data, 64, 0)) == "corrupt"


def test_what_decoders_cannot_take_is_named() -> None:
    data = picture()
    frame = data.index(b"\xff\xc0")
    lossless = data[: frame + 1] + b"\xc3" + data[frame + 2 :]
    deep = data[: frame + 4] + b"\x0c" + data[frame + 5 :]

    assert reason(lossless) == "unsupported"
    assert reason(deep) == "unsupported"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"\xff\xdb", b"\xff\xfe"),  # no quantisation tables
        (b"\xff\xc0", b"\xff\xfe"),  # no frame header
        (b"\xff\xda", b"\xff\xd9"),  # ends before its picture
        (b"\xff\xda", b"\xff\xd3"),  # a restart marker outside of a scan
        (b"\xff\xdb", b"\x00\xdb"),  # no marker where one must be
        (b"\xff\xdb\x00\x43", b"\xff\xdb\x00\x01"),  # a segment shorter than its own length field
        (b"\xff\xc0\x00\x11", b"\xff\xc0\x00\x05"),  # a short frame header
        (b"\xff\xc0\x00\x11", b"\xff\xc0\x00\x0e"),  # fewer components than it says
    ],
)
def test_broken_structure_is_refused(old: bytes, new: bytes) -> None:
    data = picture()
    assert old in data

    assert reason(data.replace(old, new)) == "corrupt"


def test_two_frame_headers_empty_scans_and_endless_segments_are_refused() -> None:
    data = picture()
    frame, scan = data.index(b"\xff\xc0"), data.index(b"\xff\xda")
    header = data[frame : frame + 19]
    scan_end = scan + 2 + int.from_bytes(data[scan + 2 : scan + 4], "big")

    assert reason(data[:frame] + header + data[frame:]) == "corrupt"
    assert reason(data[:scan_end] + b"\xff\xd9") == "corrupt"
    assert reason(data[:2] + b"\xff\xfe\x00\x02" * 100_000 + data[2:]) == "corrupt"


def test_missing_huffman_tables_are_inserted() -> None:
    data = picture(160, 120)
    bare = without_dht(data)
    assert not walk_jpeg(bare).has_dht

    healed = insert_dht(bare + b"\0" * 64)

    assert walk_jpeg(healed, (160, 120)).has_dht
    np.testing.assert_array_equal(simplejpeg.decode_jpeg(data), simplejpeg.decode_jpeg(healed))


def test_pictures_with_tables_are_only_trimmed() -> None:
    data = picture()

    assert data == insert_dht(data + b"\0" * 99)
    assert data == insert_dht(memoryview(data))


@given(st.binary(max_size=300))
@example(b"\xff\xd8\xff\xda\x00\x02\xff")
@example(b"\xff\xd8\xff\xff\xff")
def test_rubbish_never_crashes_the_walk(data: bytes) -> None:
    for candidate in (data, b"\xff\xd8" + data):
        try:
            info = walk_jpeg(candidate)
        except BadFrameError:
            continue
        assert 0 < info.length <= len(candidate)


@given(
    st.lists(st.tuples(st.integers(0, HEADER_BYTES), st.integers(0, 255)), max_size=4),
    st.integers(0, 3000),
    st.sampled_from(["420", "444"]),
)
def test_damaged_headers_never_crash_walk_or_decoder(damage: list[tuple[int, int]], cut: int, subsampling: str) -> None:
    data = bytearray(picture(64, 48, subsampling))
    for at, value in damage:
        data[at] = value
    del data[len(data) - cut % 64 :]
    try:
        info = walk_jpeg(bytes(data), (64, 48))
    except BadFrameError as error:
        assert error.reason in {"corrupt", "cut", "oversize", "unsupported", "wrong_size"}
        return

    assert (64, 48) == (info.width, info.height)
    try:
        decoded = simplejpeg.decode_jpeg(bytes(data[: info.length]), strict=False)
    except ValueError:
        return
    assert (48, 64) == decoded.shape[:2]
