"""Cameras of the guest's kernel: vivid (faults on demand), v4l2loopback and uvcvideo (each fed by a process)."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from linuxpy.video import raw

if TYPE_CHECKING:
    from collections.abc import Callable

HERE = Path(__file__).resolve().parent
MODULES = Path(os.environ.get("GUEST_CACHE", "/nonexistent")) / "root"
WEBCAM = ("n_devs=1", "node_types=0x1", "num_inputs=1", "input_types=0x0")  # one capture node with a webcam's sizes


def wait_for(condition: Callable[[], Any], seconds: float, what: str) -> Any:
    """The first true value of `condition`."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {seconds:g} s")
        time.sleep(0.05)
    return value


def load(module: str, *parameters: str) -> None:
    subprocess.run(["modprobe", "-d", str(MODULES), module, *parameters], check=True)


def unload(module: str) -> None:
    """Remove a module; a program that looks at its node for a moment does not stop us."""
    command = ["modprobe", "-q", "-d", str(MODULES), "-r", module]
    wait_for(lambda: subprocess.run(command, check=False).returncode == 0, 10, f"unloading {module}")


def plug_vivid() -> Path:
    """Load vivid; the path of its node."""
    load("vivid", *WEBCAM)
    return Path(wait_for(lambda: node_of("vivid"), 10, "vivid's node"))


def unplug_vivid() -> None:
    unload("vivid")
    wait_for(lambda: node_of("vivid") is None, 10, "vivid's node to go")


def node_of(driver: str) -> Path | None:
    """The node whose name in sysfs begins with `driver`."""
    for entry in sorted(Path("/sys/class/video4linux").glob("video*")):
        # A node that goes at this moment is not there.
        with contextlib.suppress(OSError):
            if (entry / "name").read_text().startswith(driver):
                return Path("/dev", entry.name)
    return None


def set_control(node: Path, name: str, value: int) -> None:
    """Set a control by the name that the driver gives it."""
    fd = os.open(node, os.O_RDWR | os.O_NONBLOCK)
    try:
        query = raw.v4l2_queryctrl()
        query.id = raw.ControlFlag.NEXT_CTRL
        while True:
            fcntl.ioctl(fd, raw.IOC.QUERYCTRL, query)  # ends with EINVAL where no control has the name
            if query.name.decode() == name:
                fcntl.ioctl(fd, raw.IOC.S_CTRL, raw.v4l2_control(query.id, value))
                return
            query.id |= raw.ControlFlag.NEXT_CTRL
    finally:
        os.close(fd)


def holders(node: Path) -> list[str]:
    """`pid comm` of every process that has the node open or mapped."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            links = [os.readlink(link) for link in (process / "fd").iterdir()]
            if str(node) in links or str(node) in (process / "maps").read_text():
                found.append(f"{process.name} {(process / 'comm').read_text().strip()}")
        except OSError:
            continue
    return found


class LoopbackCamera:
    """A camera made by software: v4l2loopback with a process that writes frames into it (see frame_producer.py)."""

    def __init__(
        self, number: int, *, fourcc: str = "MJPG", size: str = "640x480", fps: float = 10, cut: int = 0
    ) -> None:
        load("v4l2loopback", "devices=1", f"video_nr={number}", "card_label=Loopback", "exclusive_caps=1")
        self.node = Path(f"/dev/video{number}")
        wait_for(self.node.exists, 10, f"{self.node}")
        command = [sys.executable, str(HERE / "frame_producer.py"), str(self.node), fourcc, size, str(fps), str(cut)]
        self._producer = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert self._producer.stdout is not None
        assert self._producer.stdout.readline() == b"writing\n"

    def stop(self) -> None:
        self._producer.kill()
        self._producer.wait()
        unload("v4l2loopback")


class UsbCamera:
    """A USB camera that the kernel drives with uvcvideo; its other end is usb_camera.py, in a process of its own."""

    def __init__(self, serial: str, ids: str = "1209:0001") -> None:
        load("vhci-hcd")
        load("uvcvideo")
        command = [sys.executable, str(HERE / "usb_camera.py"), serial, ids]
        self._process: subprocess.Popen[str] = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.state()  # started

    def plug(self, port: int = 0) -> None:
        """Plug in; the nodes appear later."""
        self._tell(f"plug {port}")

    def unplug(self) -> None:
        self._tell("unplug")

    def frames(self, kind: str) -> None:
        """What the camera sends from the next frame on; see usb_camera.py."""
        self._tell(f"frames {kind}")

    def state(self) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(self._tell("state"))
        return answer

    def stop(self) -> None:
        """Unplug and end."""
        self._process.communicate(timeout=30)

    def _tell(self, line: str) -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()
        answer: str = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(f"the USB camera ended with {self._process.wait()}")
        return answer
