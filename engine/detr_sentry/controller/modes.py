"""The user's mode of every camera: stored before it counts, timed modes end by themselves, clock jumps do no harm.

`mode.json` is `{"version": 1, "cameras": {"door": {"mode": "off", "back": "auto", "until": 1760000000.0, "duration_s":
900}}}`. While the process runs, a timed mode ends by the monotonic clock. Over a restart only the wall clock goes on,
so the rest is taken from `until`, and is never more than `duration_s`.

A file that cannot be understood must not open a camera that its owner had closed: every camera starts `off`, with the
problem `mode_lost` until somebody chooses a mode.
"""

from __future__ import annotations

import asyncio
import logging
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from detr_sentry.controller.storage import read_json, write_json
from detr_sentry.errors import StorageError
from detr_sentry.sentry.events import Mode

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from detr_sentry.controller.clock import Clock

FILE_NAME = "mode.json"
MAX_DURATION_S = 366 * 86400.0
_VERSION = 1
_NS = 1_000_000_000

_log = logging.getLogger("detr_sentry.controller")


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One camera's mode. `deadline_ns` is on the monotonic clock; `back` is the mode after it."""

    mode: Mode = Mode.AUTO
    back: Mode = Mode.AUTO
    deadline_ns: int | None = None
    duration_s: float | None = None


def _cameras(path: Path) -> dict[str, Any]:
    """The stored modes by camera; none without a file. Raises StorageError."""
    document = read_json(path)
    if document is None:
        return {}
    if not isinstance(document, dict) or not isinstance(document.get("cameras"), dict):
        raise StorageError(f"{path}: is not a list of modes")
    cameras: dict[str, Any] = document["cameras"]
    return cameras


class Modes:
    """Modes of the given cameras. Made and loaded before the event loop runs; then used from it."""

    def __init__(self, state_dir: Path, cameras: Iterable[str], clock: Clock) -> None:
        self.lost: set[str] = set()
        self._path = state_dir / FILE_NAME
        self._clock = clock
        self._others: dict[str, Any] = {}  # cameras that are not in the settings now keep their mode
        self._entries = dict.fromkeys(cameras, Entry())
        self._writing = asyncio.Lock()
        self._load()

    def mode(self, camera: str) -> Mode:
        """The mode of a camera."""
        return self._entries[camera].mode

    def until_ns(self, camera: str) -> int | None:
        """When a timed mode ends, as Unix nanoseconds by the present wall clock."""
        deadline_ns = self._entries[camera].deadline_ns
        if deadline_ns is None:
            return None
        return self._clock.wall_ns() + deadline_ns - self._clock.monotonic_ns()

    async def choose(self, camera: str, mode: Mode, duration_s: float | None) -> None:
        """Store and take a mode, for `duration_s` or for good. Raises StorageError; then the mode stays as it was."""
        async with self._writing:
            entry = Entry(mode=mode)
            if duration_s is not None:
                old = self._entries[camera]
                back = old.mode if old.deadline_ns is None else old.back
                deadline_ns = self._clock.monotonic_ns() + round(duration_s * _NS)
                entry = Entry(mode=mode, back=back, deadline_ns=deadline_ns, duration_s=duration_s)
            entries = {**self._entries, camera: entry}
            lost = self.lost - {camera}
            await asyncio.to_thread(write_json, self._path, self._document(entries, lost))
            self._entries, self.lost = entries, lost

    async def expire(self) -> list[str]:
        """End timed modes whose time has come; returns their cameras. What cannot be stored ends all the same."""
        now_ns = self._clock.monotonic_ns()
        if all(entry.deadline_ns is None or now_ns < entry.deadline_ns for entry in self._entries.values()):
            return []
        async with self._writing:
            ended = {
                camera: Entry(mode=entry.back)
                for camera, entry in self._entries.items()
                if entry.deadline_ns is not None and now_ns >= entry.deadline_ns
            }
            self._entries = {**self._entries, **ended}
            try:
                await asyncio.to_thread(write_json, self._path, self._document(self._entries, self.lost))
            except StorageError as error:  # the stored end is in the past, so a restart comes to the same
                _log.warning("%s", error)
            return list(ended)

    def _load(self) -> None:
        try:
            stored = _cameras(self._path)
        except StorageError as error:
            _log.error("%s; every camera stays off until a mode is chosen", error)
            self._entries = dict.fromkeys(self._entries, Entry(mode=Mode.OFF))
            self.lost = set(self._entries)
            return
        for camera, value in stored.items():
            if camera not in self._entries:
                self._others[camera] = value
                continue
            entry = self._restore(value)
            if entry is None:
                _log.error("%s: the mode of %s is not understood; it stays off until one is chosen", self._path, camera)
                self.lost.add(camera)
            self._entries[camera] = entry or Entry(mode=Mode.OFF)

    def _restore(self, value: Any) -> Entry | None:
        """An entry from its stored form, with what is left of its time; None if it is not one."""
        try:
            mode, back = Mode(value["mode"]), Mode(value.get("back", "auto"))
            until_s, duration_s = value.get("until"), value.get("duration_s")
            if until_s is None or duration_s is None:
                return Entry(mode=mode)
            left_s = min(float(until_s) - self._clock.wall_ns() / _NS, float(duration_s))
            if not math.isfinite(left_s):
                return None
        except (KeyError, TypeError, ValueError, AttributeError):
            return None
        if left_s <= 0:
            return Entry(mode=back)
        deadline_ns = self._clock.monotonic_ns() + round(left_s * _NS)
        return Entry(mode=mode, back=back, deadline_ns=deadline_ns, duration_s=float(duration_s))

    def _document(self, entries: dict[str, Entry], lost: set[str]) -> dict[str, Any]:
        cameras = dict(self._others)
        for camera, entry in entries.items():
            if camera in lost:
                cameras[camera] = None  # still nobody's choice: it is `mode_lost` after a restart too
                continue
            value: dict[str, Any] = {"mode": entry.mode.value}
            if entry.deadline_ns is not None:
                left_ns = entry.deadline_ns - self._clock.monotonic_ns()
                until_s = (self._clock.wall_ns() + left_ns) / _NS
                value |= {"back": entry.back.value, "until": round(until_s, 3), "duration_s": entry.duration_s}
            cameras[camera] = value
        return {"version": _VERSION, "cameras": cameras}
