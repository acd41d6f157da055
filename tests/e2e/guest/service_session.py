"""Runs in the guest: the capture service on cameras that misbehave. One line `RESULT name {json}` a scenario."""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING, Any

from capture_process import OFF, STANDBY, CaptureProcess
from kernel_cameras import UsbCamera, holders, load, node_of, plug_vivid, set_control, unload, unplug_vivid, wait_for
from scenario_tools import report

from detr_sentry.capture.source import FULL_RATE

if TYPE_CHECKING:
    from pathlib import Path

REPLUGS = int(os.environ.get("GUEST_REPLUGS") or 10)


class Scene:
    """The USB camera and the engine's capture of it, for all scenarios."""

    def __init__(self) -> None:
        self.camera = UsbCamera("A1B2C3")
        self.camera.plug()
        self.capture = CaptureProcess("v4l2:usb=1209:0001:A1B2C3", width=640, height=480, fps=15)
        self.capture.wait_link("connected", 60)


def standby_and_alarm(scene: Scene) -> dict[str, Any]:
    capture = scene.capture
    standby = capture.watch(8)
    capture.order(FULL_RATE)
    start = time.monotonic()
    capture.next_frame()
    first_ms = (time.monotonic() - start) * 1e3
    alarm = capture.watch(20)
    capture.order(STANDBY)
    time.sleep(1)
    return {"standby": standby, "first_ms": round(first_ms, 1), "alarm": alarm, "again": capture.watch(5)}


def off_and_on(scene: Scene) -> dict[str, Any]:
    """Privacy: nobody holds the device, no frame is left, and the driver can go."""
    capture = scene.capture
    node = node_of("Test Camera")
    assert node is not None
    held = holders(node)
    capture.order(OFF)
    start = time.monotonic()
    wait_for(lambda: not holders(node), 10, "the camera to be closed")
    closed_s = time.monotonic() - start
    capture.wait_link("off")
    result = {"held": len(held), "closed_s": round(closed_s, 2), "published_while_off": capture.published}
    sent = scene.camera.state()["sent"]
    time.sleep(1)
    result["sent_while_off"] = scene.camera.state()["sent"] - sent
    unload("uvcvideo")
    load("uvcvideo")
    wait_for(lambda: node_of("Test Camera"), 20, "the node after the reload")
    capture.order(STANDBY)
    capture.wait_link("connected")
    return result | {"frames": capture.watch(3)["distinct"]}


def broken_frames(scene: Scene) -> dict[str, Any]:
    """Frames that are broken in their own ways: none is published, each is counted, memory stays."""
    capture, camera = scene.capture, scene.camera
    capture.order(FULL_RATE)
    capture.watch(5)
    before, drops = capture.resident_kib, {}
    for kind in ("cut", "huge", "marked"):
        old = capture.status()["drops"]
        camera.frames(kind)
        time.sleep(2.5)
        camera.frames("whole")
        capture.wait_link("connected")
        capture.watch(3)
        time.sleep(1.1)  # the heartbeat writes counters once a second
        new = capture.status()["drops"]
        drops[kind] = {
            reason: count - old.get(reason, 0) for reason, count in new.items() if count > old.get(reason, 0)
        }
    camera.frames("other_size")
    wrong_s = capture.wait_link("wrong_format")
    camera.frames("whole")
    back_s = capture.wait_link("connected")
    return {
        "drops": drops,
        "wrong_format_s": round(wrong_s, 2),
        "back_s": round(back_s, 2),
        "after": capture.watch(5)["distinct"],
        "grown_kib": capture.resident_kib - before,
    }


def silence(scene: Scene) -> dict[str, Any]:
    """A camera that stays plugged in and sends nothing."""
    capture, camera = scene.capture, scene.camera
    camera.frames("none")
    stalled_s = capture.wait_link("stalled")
    problem = capture.status()["error"]
    camera.frames("whole")
    back_s = capture.wait_link("connected")
    return {"stalled_s": round(stalled_s, 2), "error": problem, "back_s": round(back_s, 2)}


def replugs(scene: Scene) -> dict[str, Any]:
    """Pulled and put back, at another port each time."""
    capture, camera = scene.capture, scene.camera
    capture.order(STANDBY)
    time.sleep(1)
    lines, descriptors, resident = len(capture.log_lines), capture.descriptors, capture.resident_kib
    gone, back = [], []
    for cycle in range(REPLUGS):
        camera.unplug()
        gone.append(capture.wait_link("gone"))
        wait_for(lambda: node_of("Test Camera") is None, 10, "the node to go")
        camera.plug(cycle % 3)
        wait_for(lambda: node_of("Test Camera"), 20, "the node")
        start = time.monotonic()
        capture.next_frame()
        back.append(time.monotonic() - start)
    capture.wait_link("connected")
    new = capture.log_lines[lines:]
    return {
        "cycles": REPLUGS,
        "gone_s": round(max(gone), 2),
        "back_s": round(max(back), 2),
        "lost_lines": sum(" lost: " in line for line in new),
        "back_lines": sum(" back after " in line for line in new),
        "lines": len(new),
        "example": new[:2],
        "descriptors": capture.descriptors - descriptors,
        "grown_kib": capture.resident_kib - resident,
    }


def end(scene: Scene) -> dict[str, Any]:
    node = node_of("Test Camera")
    assert node is not None
    status, seconds = scene.capture.stop()
    result = {"status": status, "seconds_to_end": round(seconds, 2), "holders": holders(node)}
    scene.camera.stop()
    return result


def return_after(capture: CaptureProcess, node: Path, fault: str) -> float:
    """Seconds until a fault of vivid's was logged and its end too."""
    lines = len(capture.log_lines)
    set_control(node, fault, 1)
    start = time.monotonic()
    wait_for(lambda: len(capture.log_lines) >= lines + 2, 30, f"the return after {fault}")
    return time.monotonic() - start


def driver_faults(scene: Scene) -> dict[str, Any]:
    """Vivid: a fatal streaming error, a lost device, and the driver taken away while the camera is off."""
    del scene
    node = plug_vivid()
    capture = CaptureProcess(f"v4l2:{node}", width=640, height=360, fps=15)
    capture.wait_link("connected", 60)
    capture.order(FULL_RATE)
    raw = capture.watch(20)
    first = len(capture.log_lines)
    back = [return_after(capture, node, fault) for fault in ("Inject Fatal Streaming Error", "Disconnect")]
    capture.order(OFF)
    capture.wait_link("off")
    unplug_vivid()
    capture.order(STANDBY)
    gone_s = capture.wait_link("gone")
    plug_vivid()
    start = time.monotonic()
    capture.next_frame()
    result = {
        "raw": raw,
        "back_s": [round(seconds, 2) for seconds in (*back, time.monotonic() - start)],
        "gone_s": round(gone_s, 2),
        "log": [line.split("camera door ")[1] for line in capture.log_lines[first:]],
    }
    capture.stop()
    return result


if __name__ == "__main__":
    scenarios = (standby_and_alarm, off_and_on, broken_frames, silence, replugs, end, driver_faults)
    sys.exit(report(scenarios, Scene()))
