"""The pure parts: reports, problems, pictures, files."""

from __future__ import annotations

import asyncio
import errno
import json
import sqlite3
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import simplejpeg
from hypothesis import given
from hypothesis import strategies as st

from detr_sentry.controller.companion import Claim, Companion
from detr_sentry.controller.problems import Health, problem_code, read_health
from detr_sentry.controller.records import Record
from detr_sentry.controller.report import event_report, rfc3339
from detr_sentry.controller.snapshot import Picture, encode_picture, take_picture
from detr_sentry.controller.storage import problem_of, read_json, remove_file, write_file, write_json
from detr_sentry.errors import BadFrameError, StorageError
from detr_sentry.ipc.messages import PixelFormat
from detr_sentry.ipc.ring import RingReader
from detr_sentry.sentry.events import Best, Mode, State, Status
from detr_sentry.sentry.rules import Box

from .conftest import HEIGHT, WIDTH, Place


@pytest.mark.parametrize(
    ("unix_ns", "expected"),
    [
        (None, None),
        (0, "1970-01-01T00:00:00.000Z"),
        (1_700_000_000_123_999_999, "2023-11-14T22:13:20.123Z"),
        (-5, "1970-01-01T00:00:00.000Z"),
        (1 << 70, "9999-12-31T23:59:59.000Z"),
    ],
)
def test_rfc3339(unix_ns: int | None, expected: str | None) -> None:
    assert expected == rfc3339(unix_ns)


@given(st.integers(0, 1 << 70))
def test_rfc3339_is_always_text_of_one_length(unix_ns: int) -> None:
    assert 24 == len(rfc3339(unix_ns) or "")


def test_an_event_without_a_picture_or_box() -> None:
    report = event_report(Record(event_id="E", camera="door", start_ns=0, seen_ns=0), Path("/s"))

    assert (None, None, False, None) == (report["end"], report["box"], report["snapshot"], report["snapshot_path"])
    json.dumps(report)


def status(state: State = State.STANDBY, *, blind: bool = False) -> Status:
    return Status(
        state=state,
        mode=Mode.OFF if state is State.OFF else Mode.AUTO,
        blind=blind,
        capture_fps=3,
        since_ns=0,
        person=None,
        count=None,
        event_id="",
        last_seen_ns=None,
    )


@pytest.mark.parametrize(
    ("state", "health", "disk", "expected"),
    [
        (status(), Health(), None, None),
        (status(), Health(capture_alive=False, inference_alive=False, link=None), None, None),
        (status(), Health(link="connecting"), None, None),
        (status(), Health(link="gone"), None, "camera_gone"),
        (status(), Health(link="unauthorized"), "disk_full", "camera_unauthorized"),
        (status(), Health(), "disk_full", "disk_full"),
        (status(blind=True), Health(), "disk_full", "blind"),
        (status(blind=True), Health(capture_alive=False), None, "capture_dead"),
        (status(blind=True), Health(inference_alive=False), None, "inference_dead"),
        (status(blind=True), Health(link="connecting"), None, "camera_connecting"),
        (status(State.OFF), Health(link="gone", capture_alive=False), "disk_full", None),
    ],
)
def test_problem_code(state: Status, health: Health, disk: str | None, expected: str | None) -> None:
    assert expected == problem_code(state, health, disk=disk, mode_lost=False)


def test_a_lost_mode_is_told_although_the_camera_is_off() -> None:
    assert "mode_lost" == problem_code(status(State.OFF), Health(), disk=None, mode_lost=True)


def test_health_is_read_from_heartbeats(place: Place) -> None:
    place.beat("stalled")
    overdue_ns = 1 << 62

    assert {"door": Health(link="stalled"), "yard": Health(capture_alive=False)} == read_health(
        place.layout, ["door", "yard"], 0
    )
    assert {"door": Health(capture_alive=False, inference_alive=False)} == read_health(
        place.layout, ["door"], overdue_ns
    )


def test_a_link_that_is_no_text_is_unknown(place: Place) -> None:
    path = place.layout.heartbeat("capture", "door")
    beat = json.loads(path.read_text())
    beat["status"]["link"] = ["gone"]
    path.write_text(json.dumps(beat))

    assert None is read_health(place.layout, ["door"], 0)["door"].link


def picture(data: bytes, pixel_format: PixelFormat, width: int = 64, height: int = 48) -> Picture:
    return Picture(data=data, pixel_format=pixel_format, width=width, height=height, timestamp_ns=0, exact=True)


def scene(height: int, width: int) -> npt.NDArray[np.uint8]:
    """Red on the left, blue on the right."""
    image = np.zeros((height, width, 3), np.uint8)
    image[:, : width // 2, 0] = 255
    image[:, width // 2 :, 2] = 255
    return image


def looks_like_the_scene(jpeg: bytes, height: int, width: int) -> bool:
    decoded = simplejpeg.decode_jpeg(jpeg).astype(int)
    left, right = decoded[:, : width // 2 - 4].mean((0, 1)), decoded[:, width // 2 + 4 :].mean((0, 1))
    near = abs(left - (255, 0, 0)).max() < 6 and abs(right - (0, 0, 255)).max() < 6
    return bool(near and decoded.shape == (height, width, 3))


@pytest.mark.parametrize(("height", "width"), [(48, 64), (47, 63)])
def test_rgb_and_planar_frames_are_encoded(height: int, width: int) -> None:
    import cv2

    image = scene(height, width)

    assert looks_like_the_scene(
        encode_picture(picture(image.tobytes(), PixelFormat.RGB24, width, height)), height, width
    )

    even = scene(height + height % 2, width + width % 2)
    planes = cv2.cvtColor(even, cv2.COLOR_RGB2YUV_I420).reshape(-1)
    size, half = even.shape[0] * even.shape[1], (even.shape[0] // 2, even.shape[1] // 2)
    luma = planes[:size].reshape(even.shape[:2])[:height, :width]
    data = luma.tobytes() + planes[size : size + 2 * half[0] * half[1]].tobytes()

    assert looks_like_the_scene(encode_picture(picture(data, PixelFormat.I420, width, height)), height, width)


def test_packed_frames_are_encoded() -> None:
    import cv2

    planes = cv2.cvtColor(scene(48, 64), cv2.COLOR_RGB2YUV_I420).reshape(-1)
    packed = np.empty((48, 64, 2), np.uint8)
    packed[..., 0] = planes[: 48 * 64].reshape(48, 64)
    packed[:, 0::2, 1] = planes[48 * 64 : 48 * 80].reshape(24, 32).repeat(2, axis=0)
    packed[:, 1::2, 1] = planes[48 * 80 :].reshape(24, 32).repeat(2, axis=0)

    assert looks_like_the_scene(encode_picture(picture(packed.tobytes(), PixelFormat.YUYV)), 48, 64)


def test_gray_frames_are_encoded() -> None:
    jpeg = encode_picture(picture(bytes([77]) * (64 * 48), PixelFormat.GRAY8))

    assert simplejpeg.decode_jpeg_header(jpeg)[:2] == (48, 64)
    assert abs(simplejpeg.decode_jpeg(jpeg).astype(int) - 77).max() < 3


def test_a_jpeg_stays_as_the_camera_sent_it_and_gets_missing_tables() -> None:
    whole = bytes(simplejpeg.encode_jpeg(scene(48, 64)))
    bare = without_tables(whole)

    assert whole == encode_picture(picture(whole, PixelFormat.MJPEG))
    assert b"\xff\xc4" not in bare
    assert b"\xff\xc4" in encode_picture(picture(bare, PixelFormat.MJPEG))


def without_tables(jpeg: bytes) -> bytes:
    at, kept = 2, jpeg[:2]
    while jpeg[at + 1] != 0xDA:
        end = at + 2 + int.from_bytes(jpeg[at + 2 : at + 4], "big")
        if jpeg[at + 1] != 0xC4:
            kept += jpeg[at:end]
        at = end
    return kept + jpeg[at:]


@pytest.mark.parametrize("pixel_format", list(PixelFormat))
def test_bytes_that_are_no_picture_are_refused(pixel_format: PixelFormat) -> None:
    with pytest.raises(BadFrameError):
        encode_picture(picture(b"short", pixel_format))


def best(**fields: int) -> Best:
    values = {"capture_epoch": 7, "frame_number": 3, "timestamp_ns": 0, "width": WIDTH, "height": HEIGHT, **fields}
    return Best(box=Box(0, 0, 1, 1, 0.9), merit=0.1, **values)


def test_a_picture_is_of_the_same_capture_and_size(place: Place) -> None:
    frames = RingReader(place.layout.stream("door", "frames"))

    assert None is take_picture(frames, best())

    data = place.frame(3)
    exact, later = take_picture(frames, best()), take_picture(frames, best(frame_number=2))

    assert exact is not None
    assert later is not None
    assert (data, True, False) == (exact.data, exact.exact, later.exact)

    for number in (4, 5):
        place.frame(number)
    older = take_picture(frames, best())

    assert older is not None
    assert (data, True) == (older.data, older.exact)

    assert None is take_picture(frames, best(capture_epoch=8))
    assert None is take_picture(frames, best(width=WIDTH * 2))

    frames.close()


def test_files_are_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file"
    write_file(path, b"one")
    write_file(path, b"two")

    assert b"two" == path.read_bytes()
    assert [path] == list(path.parent.iterdir())

    with pytest.raises(StorageError, match="cannot be stored"):
        write_file(path / "below", b"three")
    (tmp_path / "folder").mkdir()
    with pytest.raises(StorageError, match="cannot be stored"):
        write_file(tmp_path / "folder", b"four")

    assert {"deep", "folder"} == {entry.name for entry in tmp_path.iterdir()}

    with pytest.raises(StorageError, match="cannot be removed"):
        remove_file(tmp_path / "folder")
    remove_file(path)
    remove_file(path)

    assert [] == list(path.parent.iterdir())


def test_json_files(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", {"a": [1]})

    assert {"a": [1]} == read_json(tmp_path / "x.json")
    assert None is read_json(tmp_path / "y.json")

    (tmp_path / "z.json").write_bytes(b"\xff")
    with pytest.raises(StorageError, match=r"z\.json"):
        read_json(tmp_path / "z.json")


def sqlite_error(name: str) -> sqlite3.Error:
    error = sqlite3.OperationalError(name)
    error.sqlite_errorname = name
    return error


@pytest.mark.parametrize(
    ("cause", "expected"),
    [
        (OSError(errno.ENOSPC, ""), "disk_full"),
        (OSError(errno.EDQUOT, ""), "disk_full"),
        (OSError(errno.EROFS, ""), "disk_readonly"),
        (PermissionError(errno.EACCES, ""), "disk_readonly"),
        (OSError(errno.EIO, ""), "disk_error"),
        (sqlite_error("SQLITE_FULL"), "disk_full"),
        (sqlite_error("SQLITE_READONLY_DBMOVED"), "disk_readonly"),
        (sqlite_error("SQLITE_CANTOPEN"), "disk_readonly"),
        (sqlite_error("SQLITE_IOERR"), "disk_error"),
        (None, "disk_error"),
    ],
)
def test_problem_of_a_storage_error(cause: BaseException | None, expected: str) -> None:
    error = StorageError("x")
    error.__cause__ = cause

    assert expected == problem_of(error)


@pytest.mark.parametrize("text", ["[]", "{", '{"ha_instance": "a"}', "null"])
async def test_a_claim_that_is_not_understood_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "companion.json").write_text(text)

    assert None is (await asyncio.to_thread(Companion, tmp_path)).claim


async def test_a_claim_that_cannot_be_stored_is_not_taken(tmp_path: Path) -> None:
    (tmp_path / "companion.json").mkdir()
    companion = await asyncio.to_thread(Companion, tmp_path)
    with pytest.raises(StorageError):
        await companion.take(Claim(ha_instance="a", replace_mqtt_entities=True, since_ns=1))
    with pytest.raises(StorageError):
        await companion.clear()

    assert None is companion.claim
