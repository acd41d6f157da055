from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from detr_sentry.errors import IpcError
from detr_sentry.ipc.layout import STREAMS, Layout, check_id

ROOT = Path("/dev/shm/detr-sentry")


def test_names_everything_below_the_instance() -> None:
    layout = Layout(ROOT, "home")

    assert ROOT / "home" == layout.base
    assert ROOT / "home" / "control.sock" == layout.control_socket
    assert ROOT / "home" / "heartbeat" / "inference" == layout.heartbeat("inference")
    assert ROOT / "home" / "heartbeat" / "capture.door" == layout.heartbeat("capture", "door")
    assert "/ds.home.inference" == layout.bell("inference")
    assert "/ds.home.capture.door" == layout.bell("capture", "door")
    assert [ROOT / "home" / "door" / name for name in STREAMS] == [layout.stream("door", name) for name in STREAMS]


@pytest.mark.parametrize("value", ["a", "door_2", "x" * 32])
def test_ids(value: str) -> None:
    assert value == check_id(value, "camera")


@pytest.mark.parametrize("value", ["", "Door", "a-b", "..", "a/b", "x" * 33, "é", "a\n"])
def test_refuses_what_could_name_another_place(value: str) -> None:
    with pytest.raises(IpcError, match="camera"):
        check_id(value, "camera")
    with pytest.raises(IpcError):
        Layout(ROOT, value)
    with pytest.raises(IpcError):
        Layout(ROOT, "home").stream(value, "frames")
    with pytest.raises(IpcError):
        Layout(ROOT, "home").bell(value)
    with pytest.raises(IpcError):
        Layout(ROOT, "home").heartbeat("capture", value)


def test_the_longest_names_are_valid_queue_names() -> None:
    name = Layout(ROOT, "i" * 32).bell("inference", "c" * 32)

    assert len(name) <= 255


def test_creates_directories_for_this_user_only_below_a_shared_root(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "detr-sentry", "home")

    layout.create()
    layout.create()

    assert 0o1777 == stat.S_IMODE(layout.shm_root.stat().st_mode)
    for directory in (layout.base, layout.base / "heartbeat"):
        assert 0o700 == stat.S_IMODE(directory.stat().st_mode)


def test_says_what_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(IpcError, match="shm_root"):
        Layout(tmp_path / "file", "home").create()


def test_refuses_what_another_user_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layout = Layout(tmp_path / "detr-sentry", "home")
    layout.create()
    monkeypatch.setattr(os, "geteuid", lambda: layout.base.stat().st_uid + 1)

    with pytest.raises(IpcError, match="another instance name"):
        layout.create()
