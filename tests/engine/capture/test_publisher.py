"""Publishing: only whole frames of the right size, slots that grow, readers that are never waited for."""

from __future__ import annotations

import subprocess
import time
from typing import TYPE_CHECKING

import pytest

from detr_sentry.capture.publisher import Publisher
from detr_sentry.capture.source import RawFrame, SourceInfo
from detr_sentry.errors import BadFrameError, ShmFullError
from detr_sentry.ipc.bells import Bell
from detr_sentry.ipc.layout import Layout
from detr_sentry.ipc.messages import FrameView, PixelFormat
from detr_sentry.ipc.ring import RingReader
from detr_sentry.settings import TelemetrySettings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Picture = Callable[..., bytes]


@pytest.fixture
def layout(tmp_path: Path) -> Iterator[Layout]:
    layout = Layout(tmp_path, f"p{time.monotonic_ns()}")
    layout.create()
    yield layout
    for service in ("inference", "gateway"):
        Bell.unlink(layout.bell(service))


@pytest.fixture
def publisher(layout: Layout) -> Iterator[Publisher]:
    publisher = Publisher(layout, "door", TelemetrySettings())
    yield publisher
    publisher.close()


@pytest.fixture
def reader(layout: Layout) -> Iterator[RingReader]:
    reader = RingReader(layout.stream("door", "frames"))
    yield reader
    reader.close()


def info_of(pixel_format: PixelFormat = PixelFormat.MJPEG, width: int = 160, height: int = 120) -> SourceInfo:
    return SourceInfo(
        width=width, height=height, pixel_format=pixel_format, fps=30, max_frame_bytes=1 << 16, identity="test"
    )


def frame_of(data: bytes, width: int = 160, height: int = 120) -> RawFrame:
    return RawFrame(
        data=memoryview(data), captured_monotonic_ns=time.monotonic_ns(), pts_ns=7, width=width, height=height
    )


def newest(reader: RingReader) -> tuple[int, int, bytes]:
    lease = reader.acquire()
    assert lease is not None
    with lease:
        view = FrameView(lease)
        return view.capture_epoch, view.frame_number, bytes(view.data)


def reason(publisher: Publisher, frame: RawFrame) -> str:
    with pytest.raises(BadFrameError) as caught:
        publisher.publish(frame)
    return caught.value.reason


def test_padding_is_cut_and_numbers_run(publisher: Publisher, reader: RingReader, picture: Picture) -> None:
    publisher.adopt(info_of())
    publisher.publish(frame_of(picture(1) + b"\0" * 100))
    epoch, number, data = newest(reader)
    publisher.publish(frame_of(picture(2)))

    assert (1, picture(1)) == (number, data)
    assert (epoch, 2, picture(2)) == newest(reader)

    publisher.adopt(info_of())
    publisher.publish(frame_of(picture(3)))

    assert newest(reader)[0] > epoch
    assert 1 == newest(reader)[1]


def test_what_is_broken_is_never_seen(publisher: Publisher, reader: RingReader, picture: Picture) -> None:
    publisher.adopt(info_of())

    assert "cut" == reason(publisher, frame_of(picture(1)[:-200]))
    assert "wrong_size" == reason(publisher, frame_of(picture(1, 320, 240)))
    assert "corrupt" == reason(publisher, frame_of(b"\0" * 100))
    assert reader.latest() is None


def test_raw_frames_are_held_to_their_exact_size(publisher: Publisher, reader: RingReader) -> None:
    publisher.adopt(info_of(PixelFormat.YUYV, 64, 48))

    assert "short" == reason(publisher, frame_of(b"\x80" * (64 * 48 * 2 - 1), 64, 48))
    assert "wrong_size" == reason(publisher, frame_of(b"\x80" * (64 * 48 * 2), 48, 64))
    publisher.publish(frame_of(b"\x80" * (64 * 48 * 2 + 500), 64, 48))
    assert b"\x80" * (64 * 48 * 2) == newest(reader)[2]


def test_slots_grow_with_the_camera_up_to_a_bound(
    publisher: Publisher, reader: RingReader, picture: Picture, monkeypatch: pytest.MonkeyPatch
) -> None:
    publisher.adopt(info_of(width=1280, height=720))
    large = picture(1, 1280, 720, quality=100)
    assert len(large) > 1 << 16
    publisher.publish(frame_of(large, 1280, 720))

    assert large == newest(reader)[2]

    monkeypatch.setattr("detr_sentry.capture.publisher.MAX_JPEG_BYTES", 4 * len(large))
    comments = (b"\xff\xfe\xff\xff" + b"x" * 65533) * (4 * len(large) // 65537 + 1)

    assert "too_big" == reason(publisher, frame_of(large[:2] + comments + large[2:], 1280, 720))
    assert large == newest(reader)[2]


@pytest.fixture
def small_memory(tmp_path: Path) -> Iterator[Path]:
    """A real file system that is soon full."""
    place = tmp_path / "small"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1500k", "tmpfs", str(place)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"NOT TESTED: full shared memory; this user cannot mount a tmpfs: {done.stderr.strip()}")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def test_full_shared_memory_costs_the_large_frames_only(small_memory: Path, picture: Picture) -> None:
    layout = Layout(small_memory, f"p{time.monotonic_ns()}")
    layout.create()
    publisher = Publisher(layout, "door", TelemetrySettings())
    reader = RingReader(layout.stream("door", "frames"))
    publisher.adopt(info_of(width=1280, height=720))
    large, small = picture(1, 1280, 720, quality=100), picture(2, 1280, 720, quality=5)
    assert len(small) < 1 << 16 < len(large)

    assert "no_memory" == reason(publisher, frame_of(large * 1, 1280, 720))
    publisher.publish(frame_of(small, 1280, 720))
    assert small == newest(reader)[2]

    with pytest.raises(ShmFullError, match="needs"):
        publisher.adopt(info_of(PixelFormat.YUYV, 1280, 720))
    reader.close()
    publisher.close()
    for service in ("inference", "gateway"):
        Bell.unlink(layout.bell(service))


def test_readers_that_hold_every_slot_cost_frames_not_time(
    publisher: Publisher, layout: Layout, picture: Picture
) -> None:
    publisher.adopt(info_of())
    readers = [RingReader(layout.stream("door", "frames")) for _ in range(5)]
    leases = []
    for number, each in enumerate(readers):
        publisher.publish(frame_of(picture(number)))
        leases.append(each.acquire())
        if number == 3:
            break
    publisher.publish(frame_of(picture(9)))

    assert "no_slot" == reason(publisher, frame_of(picture(10)))
    for lease in leases:
        assert lease is not None
        lease.release()
    publisher.publish(frame_of(picture(11)))
    for each in readers:
        each.close()


def test_publishing_and_wiping_ring_the_bells(publisher: Publisher, layout: Layout, picture: Picture) -> None:
    bells = [Bell(layout.bell(service)) for service in ("inference", "gateway")]
    publisher.adopt(info_of())
    publisher.publish(frame_of(picture(1)))
    assert [1, 1] == [bell.drain() for bell in bells]

    publisher.clear()

    assert [1, 1] == [bell.drain() for bell in bells]
    for bell in bells:
        bell.close()


def test_nothing_is_left_after_a_wipe(publisher: Publisher, layout: Layout, picture: Picture) -> None:
    publisher.adopt(info_of())
    data = picture(1)
    for _ in range(6):
        publisher.publish(frame_of(data))

    publisher.clear()

    stream = layout.stream("door", "frames")
    assert all(data[-300:] not in path.read_bytes() for path in stream.rglob("*") if path.is_file())
