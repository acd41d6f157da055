"""Scenarios on uvcvideo, with a USB camera that is plugged and unplugged. Run by source_session.py."""

from __future__ import annotations

import itertools
import os
import time
from pathlib import Path
from typing import Any

from kernel_cameras import UsbCamera, node_of, wait_for
from scenario_tools import about, failure, next_frame, opened, source_at, watch

from detr_sentry.capture.v4l2 import list_devices
from detr_sentry.settings import ExposureSettings

WISH = {"width": 640, "height": 480, "fps": 30.0}
REPLUGS = 6


def plug(camera: UsbCamera, port: int = 0) -> Path:
    """Plug in and wait for the picture's node (the other one carries metadata)."""
    before = set(Path("/dev").glob("video*"))
    camera.plug(port)
    return Path(wait_for(lambda: min(set(Path("/dev").glob("video*")) - before, default=None), 30, "the camera's node"))


def usb_listing(camera: UsbCamera) -> dict[str, Any]:
    """What is offered, and a path such as udev makes."""
    del camera
    node = Path("/dev/video0")
    link = Path("/dev/v4l/by-id/usb-Test_Camera_A1B2C3-video-index0")
    link.parent.mkdir(parents=True)
    link.symlink_to(f"../../{node.name}")
    source = source_at(str(link), **WISH)
    result = {
        "nodes": len(list(Path("/dev").glob("video*"))),
        "devices": [
            [device.card, device.driver, device.source, [*map(str, device.offers)]] for device in list_devices()
        ],
        "by_id": opened(source).identity,
    }
    source.close()
    return result


def usb_exposure(camera: UsbCamera) -> dict[str, Any]:
    """What the camera's exposure is after it was opened with each setting; at first it is manual."""
    plug(camera)
    wishes = {
        "camera": ExposureSettings(mode="camera"),
        "limited": ExposureSettings(mode="limited", limit_ms=33.0),
        "long": ExposureSettings(mode="limited", limit_ms=100.0),
    }
    result = {}
    for name, wish in wishes.items():
        source = source_at("usb=1209:0001", exposure=wish, **WISH)
        opened(source)
        source.close()
        result[name] = {key: value for key, value in camera.state().items() if key.startswith("exposure")}
    return result


def usb_frames(camera: UsbCamera) -> dict[str, Any]:
    source = source_at("usb=1209:0001:A1B2C3", width=640, height=480, fps=10.0)
    result = about(opened(source)) | watch(source, 20)
    state = camera.state()
    result["negotiated"] = [state["format"], state["size"], state["interval_100ns"]]
    camera.frames("cut")
    time.sleep(0.5)
    source.discard()
    result["cut_length"] = len(next_frame(source).data)
    camera.frames("marked")
    time.sleep(0.5)
    source.discard()
    time.sleep(0.5)
    result["marked_delivered"] = source.grab() is not None
    camera.frames("whole")
    result["whole_again"] = watch(source, 5)["distinct"]
    source.close()
    return result


def usb_replugs(camera: UsbCamera) -> dict[str, Any]:
    """Pulled while streaming, again and again, and put back at another port each time."""
    source = source_at("/dev/video0", **WISH)
    identity = opened(source).identity
    descriptors = len(os.listdir("/proc/self/fd"))
    identities, errors, noticed, back = set(), set(), [], []
    for port, _ in zip(itertools.cycle((1, 2, 0)), range(REPLUGS), strict=False):
        watch(source, 3)
        start = time.monotonic()
        camera.unplug()
        errors.add(failure(lambda: [next_frame(source) for _ in range(200)])["text"])
        noticed.append(time.monotonic() - start)
        source.close()
        errors.add(failure(lambda: opened(source))["text"])
        node = plug(camera, port)
        start = time.monotonic()
        identities.add(opened(source).identity)
        next_frame(source)
        back.append(time.monotonic() - start)
    leaked = len(os.listdir("/proc/self/fd")) - descriptors
    source.close()
    return {
        "identity": identity,
        "identities": sorted(identities),
        "errors": sorted(errors),
        "noticed_s": round(max(noticed), 2),
        "back_s": round(max(back), 2),
        "leaked": leaked,
        "last_node": str(node),
    }


def usb_twins(camera: UsbCamera) -> dict[str, Any]:
    """A second camera of the same make takes the first one's place, at its port and under its number."""
    source = source_at("/dev/video0", **WISH)
    opened(source)
    source.close()
    camera.unplug()
    wait_for(lambda: node_of("Test Camera") is None, 10, "the node to go")
    other = UsbCamera("D4E5F6")
    node = plug(other)
    instead = failure(lambda: opened(source))
    second = plug(camera, 1)
    both = failure(lambda: opened(source_at("usb=1209:0001")))
    result = {
        "node": str(node),
        "instead": instead,
        "both": both,
        "found": opened(source).identity,
        "found_at": str(second),
        "distinct": watch(source, 3)["distinct"],
    }
    source.close()
    other.stop()
    return result


SCENARIOS = (usb_exposure, usb_listing, usb_frames, usb_replugs, usb_twins)
