"""What the guest's scenarios share: opening a source, looking at its frames, reporting. No scenario of its own."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import select
import statistics
import time
import traceback
from typing import TYPE_CHECKING, Any

from detr_sentry.capture.v4l2 import V4l2Source
from detr_sentry.errors import BadFrameError, SourceError
from detr_sentry.settings import CameraSettings
from detr_sentry.source_url import parse_source

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from detr_sentry.capture.source import RawFrame, SourceInfo


def source_at(location: str, **wish: Any) -> V4l2Source:
    return V4l2Source(parse_source(f"v4l2:{location}"), CameraSettings(id="door", source=location, **wish))


def opened(source: V4l2Source) -> SourceInfo:
    return source.open(lambda: True)


def next_frame(source: V4l2Source, seconds: float = 10.0) -> RawFrame:
    """The next whole frame; BadFrameError and SourceError pass through."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        descriptor = source.fileno()
        assert descriptor is not None
        select.select([descriptor], [], [], 0.25)
        frame = source.grab()
        if frame is not None:
            return frame
    raise TimeoutError(f"no frame in {seconds:g} s")


def watch(source: V4l2Source, count: int) -> dict[str, Any]:
    """What `count` frames are like."""
    digests, stamps, lengths = set(), [], []
    for _ in range(count):
        frame = next_frame(source)
        digests.add(hashlib.blake2b(frame.data).digest())
        stamps.append(frame.captured_monotonic_ns)
        lengths.append(len(frame.data))
    steps = [(later - earlier) / 1e9 for earlier, later in itertools.pairwise(stamps)]
    return {
        "frames": count,
        "distinct": len(digests),
        "fps": round(1 / statistics.median(steps), 2),
        "shortest_step_ms": round(min(steps) * 1e3, 1),
        "lengths": [min(lengths), max(lengths)],
    }


def about(info: SourceInfo) -> dict[str, Any]:
    return {
        "size": [info.width, info.height],
        "format": info.pixel_format.name,
        "fps": round(info.fps, 2),
        "max_frame_bytes": info.max_frame_bytes,
        "identity": info.identity,
    }


def failure(action: Callable[[], object]) -> dict[str, str]:
    """The deliberate error that `action` ends in."""
    try:
        action()
    except (SourceError, BadFrameError) as error:
        return {"type": type(error).__name__, "text": str(error)}
    return {"type": "none", "text": ""}


def in_child(action: Callable[[], Any], *, as_nobody: bool = False) -> Any:
    """What `action` returns in a forked process."""
    reader, writer = os.pipe()
    if os.fork() == 0:
        if as_nobody:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
        os.write(writer, json.dumps(action()).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as answer:
        text = answer.read()
    os.wait()
    return json.loads(text)


def report(scenarios: Sequence[Callable[[Any], dict[str, Any]]], camera: object) -> int:
    """Run the scenarios and print their results; the number of those that raised."""
    failed = 0
    for scenario in scenarios:
        start = time.monotonic()
        try:
            result = scenario(camera)
        except Exception:  # noqa: BLE001 - the next scenario may still tell something
            traceback.print_exc()
            failed += 1
            continue
        result["seconds"] = round(time.monotonic() - start, 1)
        print(f"RESULT {scenario.__name__} {json.dumps(result)}", flush=True)
    return failed
