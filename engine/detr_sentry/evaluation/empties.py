"""Sources of pictures in which nobody is, as stretches of frames in capture time.

* A folder of photos, with COCO annotations or without (then nobody is on any of them): each photo is a stretch, a
  camera that looks at this scene at the standby rate. `?views=20` shows it in so many views (see `views`), of which
  the first is the photo as it is where nobody is marked on it; `windows=0` leaves out photos with people.
* A clip: its stretches are those named, `clip.mp4#0-6.1,19.4-22.8` in seconds, or those that the truth beside it
  (`clip.json`: `visible`, a list of start and end) leaves empty, half a second away from people. `?views=3` plays each
  three times, the second and third time under other light.
* `demo:?seed=1000-1019`: the drawn scene while it is empty, at the standby rate, one stretch before and one after each
  of `periods` visits of each seed.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import parse_qsl

import av
import numpy as np
import simplejpeg

from detr_sentry.capture.demo import DemoScene
from detr_sentry.errors import SettingsError, SourceError
from detr_sentry.evaluation.views import disturbed, empty_window

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    import numpy.typing as npt

    from detr_sentry.evaluation.views import Box

    _Frame = tuple[float, npt.NDArray[np.uint8]]

EDGE_S = 0.5
"""How far a clip's truth may be wrong at the ends of a visit."""
DEMO_MARGIN_S = 0.1
PHOTOS = frozenset({".jpg", ".jpeg"})
_OPTIONS = {
    "photos": {"split": "", "sources": "", "views": "1", "windows": "1", "seed": "0"},
    "clip": {"views": "1", "seed": "0"},
    "demo": {"seed": "1", "period": "40", "periods": "1", "width": "1280", "height": "720"},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Stretch:
    """Frames that one camera took one after the other: capture time in seconds, RGB uint8 [H,W,3]."""

    name: str
    frames: Iterable[_Frame]


class EmptySource(Protocol):
    """`kind` is photos, clip or demo; `text` as the user wrote it; `frames` how many there will be, about."""

    kind: str
    text: str

    @property
    def frames(self) -> int:
        """About how many frames there are."""
        ...

    def stretches(self) -> Iterator[Stretch]:
        """The stretches, each to be used up before the next. Raises SourceError."""
        ...


def open_empty(text: str, *, standby_fps: float) -> EmptySource:
    """The source that `text` names (see the module). Raises SettingsError."""
    place, _, fragment = text.partition("#")
    place, _, query = place.partition("?")
    path = Path(place)
    if place == "demo:":
        return _Demo(text, _options("demo", query, text), standby_fps)
    if path.is_dir():
        return _Photos(text, path, _options("photos", query, text), standby_fps)
    if path.is_file():
        return _Clip(text, path, _options("clip", query, text), fragment)
    raise SettingsError("--empty", f"{place} is neither a folder of photos, a clip nor demo:")


def _options(kind: str, query: str, text: str) -> dict[str, str]:
    known = _OPTIONS[kind]
    given = dict(parse_qsl(query, keep_blank_values=True))
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise SettingsError("--empty", f"unknown option {unknown[0]!r} in {text}; known: {', '.join(known)}")
    return {**known, **given}


def _whole(options: Mapping[str, str], name: str, least: int, text: str) -> int:
    try:
        number = int(options[name])
    except ValueError:
        number = least - 1
    if number < least:
        raise SettingsError("--empty", f"option {name} of {text} must be a whole number of at least {least}")
    return number


class _Photos:
    kind = "photos"

    def __init__(self, text: str, folder: Path, options: Mapping[str, str], fps: float) -> None:
        self.text = text
        self._fps = fps
        self._views = _whole(options, "views", 1, text)
        self._seed = _whole(options, "seed", 0, text)
        annotations = folder / "annotations.json"
        if annotations.is_file():
            self._photos = _annotated(annotations, folder / "images", options)
        elif options["split"] or options["sources"]:
            raise SettingsError("--empty", f"{text}: without annotations.json there is no split and no source")
        else:
            self._photos = [(path, []) for path in sorted(folder.iterdir()) if path.suffix.lower() in PHOTOS]
        if self._views == 1 or not _whole(options, "windows", 0, text):
            self._photos = [(path, people) for path, people in self._photos if not people]
        if not self._photos:
            raise SettingsError("--empty", f"{text}: no photos without people")

    @property
    def frames(self) -> int:
        count = 0
        for number, (path, people) in enumerate(self._photos):
            if people:
                height, width, _, _ = _read(path, simplejpeg.decode_jpeg_header)
                blank = np.broadcast_to(np.uint8(0), (height, width, 3))
                count += sum(1 for _ in self._windows(blank, people, number))
            else:
                count += self._views
        return count

    def stretches(self) -> Iterator[Stretch]:
        for number, (path, people) in enumerate(self._photos):
            picture = _read(path, simplejpeg.decode_jpeg)
            yield Stretch(name=path.name, frames=self._seen(picture, people, number))

    def _seen(self, picture: npt.NDArray[np.uint8], people: list[Box], number: int) -> Iterator[_Frame]:
        for view, (window, random) in enumerate(self._windows(picture, people, number)):
            yield view / self._fps, picture if view == 0 and not people else disturbed(window, random)

    def _windows(
        self, picture: npt.NDArray[np.uint8], people: list[Box], number: int
    ) -> Iterator[tuple[npt.NDArray[np.uint8], np.random.Generator]]:
        """As many windows as there are views, fewer where people leave too little room."""
        for view in range(self._views):
            random = np.random.default_rng([self._seed, number, view])
            window = empty_window(picture, people, random)
            if window is None:
                return
            yield window, random


def _read(path: Path, read: Callable[[bytes], Any]) -> Any:
    try:
        return read(path.read_bytes())
    except (OSError, ValueError) as error:
        raise SourceError(f"{path}: {error}") from error


def _annotated(annotations: Path, images: Path, options: Mapping[str, str]) -> list[tuple[Path, list[Box]]]:
    """The photos of the split and the sources that were asked for, with the people marked on them, crowds too."""
    sources = set(filter(None, options["sources"].split(",")))
    try:
        truth = json.loads(annotations.read_text(encoding="utf-8"))
        person = {category["id"] for category in truth["categories"] if category["name"] == "person"}
        people: dict[int, list[Box]] = {}
        for mark in truth["annotations"]:
            if mark["category_id"] in person:
                x, y, w, h = mark["bbox"]
                people.setdefault(mark["image_id"], []).append((x, y, x + w, y + h))
        return [
            (images / record["file_name"], people.get(record["id"], []))
            for record in truth["images"]
            if (not options["split"] or record.get("split") == options["split"])
            and (not sources or record.get("source") in sources)
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SettingsError("--empty", f"{annotations}: not COCO annotations: {error!r}") from error


class _Clip:
    kind = "clip"

    def __init__(self, text: str, path: Path, options: Mapping[str, str], fragment: str) -> None:
        self.text = text
        self._path = path
        self._views = _whole(options, "views", 1, text)
        self._seed = _whole(options, "seed", 0, text)
        self._spans = _named(fragment, text) if fragment else _left_empty(path.with_suffix(".json"), text)

    @property
    def frames(self) -> int:
        with av.open(str(self._path)) as container:
            rate = float(container.streams.video[0].average_rate or 25)
            seconds = float(container.duration or 0) / av.time_base
        return round(rate * self._views * sum(max(0.0, min(end, seconds) - start) for start, end in self._spans))

    def stretches(self) -> Iterator[Stretch]:
        for view in range(self._views):
            try:
                with av.open(str(self._path)) as container:
                    frames = _Ahead(container.decode(video=0))
                    for number, span in enumerate(self._spans):
                        random = [self._seed, view, number] if view else None
                        name = f"{span[0]:g}-{span[1]:g} s" + (f", view {view + 1}" if view else "")
                        yield Stretch(name=name, frames=_within(frames, span, random))
            except (av.FFmpegError, IndexError) as error:
                raise SourceError(f"{self._path}: {error}") from error


class _Ahead:
    """Frames of a clip, the next one looked at but not taken."""

    def __init__(self, frames: Iterator[Any]) -> None:
        self._frames = frames
        self.next: Any = None
        self.step()

    def step(self) -> None:
        self.next = next(self._frames, None)

    @property
    def at_s(self) -> float:
        return float(self.next.time or 0.0)


def _within(frames: _Ahead, span: tuple[float, float], random: list[int] | None) -> Iterator[_Frame]:
    """The frames of a span, with the same light for all, as one camera would see them."""
    start, end = span
    while frames.next is not None and frames.at_s < end:
        if frames.at_s >= start:
            picture = frames.next.to_ndarray(format="rgb24")
            yield frames.at_s, picture if random is None else disturbed(picture, np.random.default_rng(random))
        frames.step()


def _named(fragment: str, text: str) -> list[tuple[float, float]]:
    try:
        spans = [(float(start), float(end)) for start, _, end in (part.partition("-") for part in fragment.split(","))]
    except ValueError:
        spans = [(1.0, 0.0)]
    flat = [moment for span in spans for moment in span]
    if any(start >= end for start, end in spans) or any(a > b for a, b in pairwise(flat)):
        raise SettingsError("--empty", f"{text}: after # come rising seconds, for example #0-6.1,19.4-22.8")
    return spans


def _left_empty(truth: Path, text: str) -> list[tuple[float, float]]:
    """Between the visits that a clip's truth names, and half a second away from them."""
    try:
        visits: Any = json.loads(truth.read_text(encoding="utf-8"))["visible"]
        edges = [0.0]
        for visit in sorted(visits, key=lambda visit: float(visit["start"])):
            edges += [float(visit["start"]) - EDGE_S, float(visit["end"]) + EDGE_S]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SettingsError(
            "--empty",
            f"{text}: say where it is empty (#start-end in seconds), or put {truth.name} beside it: {error!r}",
        ) from error
    edges.append(float("inf"))
    return [(start, end) for start, end in zip(edges[::2], edges[1::2], strict=True) if start < end]


class _Demo:
    kind = "demo"

    def __init__(self, text: str, options: Mapping[str, str], fps: float) -> None:
        self.text = text
        first, _, last = options["seed"].partition("-")
        self._seeds = range(
            _whole({"seed": first}, "seed", 0, text), _whole({"seed": last or first}, "seed", 0, text) + 1
        )
        self._period = _whole(options, "period", 4, text)
        self._periods = _whole(options, "periods", 1, text)
        self._size = _whole(options, "width", 160, text) // 2 * 2, _whole(options, "height", 120, text) // 2 * 2
        self._fps = fps
        if not self._seeds:
            raise SettingsError("--empty", f"{text}: the seeds must rise, for example seed=1000-1019")

    @property
    def frames(self) -> int:
        return len(self._seeds) * self._periods * 2 * int((self._period / 4 - DEMO_MARGIN_S) * self._fps + 1)

    def stretches(self) -> Iterator[Stretch]:
        stretch = self._period / 4 - DEMO_MARGIN_S
        for seed in self._seeds:
            scene = DemoScene(seed, float(self._period), *self._size)
            for number in range(self._periods):
                for start in (number * self._period, (number + 0.75) * self._period + DEMO_MARGIN_S):
                    yield Stretch(name=f"seed {seed}, {start:g} s", frames=self._drawn(scene, start, start + stretch))

    def _drawn(self, scene: DemoScene, start: float, end: float) -> Iterator[_Frame]:
        for number in range(int((end - start) * self._fps) + 1):
            at = start + number / self._fps
            if scene.truth(at):
                raise SourceError(f"{self.text}: somebody is in the demo scene at {at:g} s")
            yield at, scene.frame(at)
