"""Scenarios on drivers without hardware: vivid, which fails on demand, and v4l2loopback. Run by source_session.py."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

from kernel_cameras import LoopbackCamera, holders, plug_vivid, set_control, unplug_vivid
from scenario_tools import about, failure, in_child, next_frame, opened, source_at, watch

from detr_sentry.capture.v4l2 import list_devices

if TYPE_CHECKING:
    from pathlib import Path

WISH = {"width": 640, "height": 360, "fps": 15.0}


def listing(node: Path) -> dict[str, Any]:
    del node
    return {
        "devices": [
            {
                "path": str(device.path),
                "card": device.card,
                "driver": device.driver,
                "source": device.source,
                "problem": device.problem,
                "offers": [str(offer) for offer in device.offers if offer.fourcc == "YUYV"],
                "formats": len({offer.fourcc for offer in device.offers}),
            }
            for device in list_devices()
        ]
    }


def raw_frames(node: Path) -> dict[str, Any]:
    source = source_at(str(node), **WISH)
    result = about(opened(source)) | watch(source, 25)
    source.close()
    source.close()
    return result | {"fileno_after_close": source.fileno(), "holders_after_close": holders(node)}


def freshness(node: Path) -> dict[str, Any]:
    """Ages of frames at 3 fps, with the discard of stale buffers and, for contrast, without."""
    source = source_at(str(node), **WISH)
    info = opened(source)
    ages: dict[bool, list[float]] = {True: [], False: []}
    for discard in (True, False):
        for _ in range(10):
            time.sleep(1 / 3)
            if discard:
                source.discard()
            frame = next_frame(source)
            ages[discard].append((time.monotonic_ns() - frame.captured_monotonic_ns) / 1e6)
    source.close()
    return {
        "period_ms": round(1000 / info.fps, 1),
        "fresh_ms": [round(age, 1) for age in ages[True]],
        "stale_ms": [round(age, 1) for age in ages[False][1:]],
    }


def broken_frames(node: Path) -> dict[str, Any]:
    source = source_at(str(node), **WISH)
    opened(source)
    watch(source, 2)
    set_control(node, "Inject V4L2_BUF_FLAG_ERROR", 1)
    marked = failure(lambda: [next_frame(source) for _ in range(20)])
    after_marked = watch(source, 5)["distinct"]
    source.close()
    camera = LoopbackCamera(9, fourcc="YUYV", cut=3)
    source = source_at(str(camera.node))
    opened(source)
    outcomes = [failure(lambda: next_frame(source)) for _ in range(15)]
    source.close()
    camera.stop()
    return {
        "marked": marked,
        "after_marked": after_marked,
        "short": [outcome["text"] for outcome in outcomes if outcome["type"] == "BadFrameError"],
        "whole": sum(outcome["type"] == "none" for outcome in outcomes),
    }


def refusals(node: Path) -> dict[str, Any]:
    """A device that another process streams from, one that we may not open, one that is not there."""
    source = source_at(str(node), **WISH)
    opened(source)
    busy = in_child(lambda: failure(lambda: opened(source_at(str(node), **WISH))))
    source.close()
    node.chmod(0o660)
    return {
        "pid": os.getpid(),
        "busy": busy,
        "denied": in_child(lambda: failure(lambda: opened(source_at(str(node)))), as_nobody=True),
        "absent": failure(lambda: opened(source_at("/dev/video77"))),
    }


def stream_errors(node: Path) -> dict[str, Any]:
    """Errors at each step of opening, and a fatal one while streaming: nothing stays open, and the next try works."""
    source = source_at(str(node), **WISH)
    opened(source)
    source.close()
    before = len(os.listdir("/proc/self/fd"))
    opening = {}
    for control in ("Inject VIDIOC_REQBUFS Error", "Inject VIDIOC_QBUF Error", "Inject VIDIOC_STREAMON Error"):
        set_control(node, control, 1)
        opening[control.split()[1]] = failure(lambda: opened(source))["type"]
    opened(source)
    watch(source, 3)
    set_control(node, "Inject Fatal Streaming Error", 1)
    fatal = failure(lambda: [next_frame(source) for _ in range(20)])
    source.close()
    again = opened(source).identity
    after = watch(source, 3)["distinct"]
    source.close()
    return {
        "opening": opening,
        "fatal": fatal,
        "identity_again": again,
        "frames_again": after,
        "leaked_descriptors": len(os.listdir("/proc/self/fd")) - before,
    }


def unplugged_and_renumbered(node: Path) -> dict[str, Any]:
    """Unplugged while streaming; another camera takes its number; it comes back under another number."""
    source = source_at(str(node), **WISH)
    first = opened(source).identity
    watch(source, 3)
    set_control(node, "Disconnect", 1)
    gone = failure(lambda: [next_frame(source) for _ in range(20)])
    source.close()
    unplug_vivid()
    absent = failure(lambda: opened(source))
    other = LoopbackCamera(0)
    instead = failure(lambda: opened(source))
    back = plug_vivid()
    start = time.monotonic()
    second = opened(source).identity
    distinct = watch(source, 5)["distinct"]
    result = {
        "gone": gone,
        "absent": absent,
        "instead": instead,
        "node_before": str(node),
        "node_after": str(back),
        "identity": [first, second],
        "holders": holders(back),
        "distinct": distinct,
        "reopened_s": round(time.monotonic() - start, 2),
    }
    source.close()
    by_identity = source_at(first, **WISH)
    result["found_by_identity"] = opened(by_identity).identity
    by_identity.close()
    unplug_vivid()
    other.stop()
    plug_vivid()
    return result


def jpeg_frames(node: Path) -> dict[str, Any]:
    del node
    camera = LoopbackCamera(9)
    source = source_at(str(camera.node))
    result = about(opened(source)) | watch(source, 30)
    frame = next_frame(source)
    result |= {
        "start": bytes(frame.data[:2]).hex(),
        "age_ms": (time.monotonic_ns() - frame.captured_monotonic_ns) / 1e6,
    }
    del frame
    source.close()
    camera.stop()
    return result


SCENARIOS = (
    listing,
    raw_frames,
    freshness,
    broken_frames,
    refusals,
    stream_errors,
    unplugged_and_renumbered,
    jpeg_frames,
)
