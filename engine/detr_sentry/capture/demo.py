"""The demo: a yard that somebody enters at a quarter of the period and leaves at three quarters.

The same seed gives the same pictures. `DemoScene` draws; `DemoSource` delivers it as MJPEG, drawing only the frames
that are due.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Final

import numpy as np
import simplejpeg

from detr_sentry.capture.demo_figure import STRIDE, Pose, Skeleton, dress
from detr_sentry.capture.demo_yard import Camera, Yard
from detr_sentry.capture.source import RawFrame, SourceInfo
from detr_sentry.ipc.messages import PixelFormat

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from detr_sentry.settings import CameraSettings
    from detr_sentry.source_url import SourceSpec

_SHOWS_AT_EDGE: Final = (
    0.13  # metres of the body inside the picture in the first and last moment, about a quarter of it
)
_BODY_HALF_M: Final = 0.26
_NEAR_M, _FAR_M = 5.0, 10.0
_TURN_S: Final = 0.4
_WALKING_SHARE: Final = 0.7  # of a long visit; the rest is standing
_NOISE_HZ: Final = 30
_QUALITY: Final = 85


@dataclass(frozen=True, slots=True)
class _Leg:
    """A straight walk between two spots of the ground, or a stay (speed 0); times from the start of the visit."""

    start_s: float
    end_s: float
    x0: float
    z0: float
    x1: float
    z1: float
    walked: float
    heading: float

    @property
    def length(self) -> float:
        return math.hypot(self.x1 - self.x0, self.z1 - self.z0)


class DemoScene:
    """The scene of one seed. Times are seconds from its start; each period has its own visitor."""

    def __init__(self, seed: int, period_s: float, width: int = 1280, height: int = 720) -> None:
        self.period_s = period_s
        self._seed = seed
        self._camera = Camera(width=width, height=height)
        self._yard = Yard(seed, self._camera)
        self._visits: dict[int, _Visit] = {}

    def frame(self, t_s: float) -> NDArray[np.uint8]:
        """The picture at `t_s`: RGB uint8 [height, width, 3], a new array."""
        picture = self._yard.paint(t_s)
        pose = self._pose(t_s)
        if pose is not None:
            pose.draw(picture, self._yard.light(t_s))
        return self._yard.finish(picture, round(t_s * _NOISE_HZ))

    def truth(self, t_s: float) -> list[tuple[float, float, float, float]]:
        """Boxes (x1, y1, x2, y2) in pixels of the visible parts of people, [] while the yard is empty."""
        pose = self._pose(t_s)
        if pose is None:
            return []
        x1, y1, x2, y2 = pose.box
        width, height = self._camera.width, self._camera.height
        return [(max(0.0, x1), max(0.0, y1), min(float(width), x2), min(float(height), y2))]

    def _pose(self, t_s: float) -> Pose | None:
        number, moment = divmod(t_s, self.period_s)
        since = moment - self.period_s / 4
        if not 0 <= since < self.period_s / 2:
            return None
        visit = self._visits.get(int(number))
        if visit is None:
            self._visits.clear()  # only the visit of now is asked for again and again
            visit = _Visit(np.random.default_rng([self._seed, int(number), 0xF16]), self)
            self._visits[int(number)] = visit
        return visit.pose(since)

    @property
    def camera(self) -> Camera:
        """The pinhole that the scene is seen through."""
        return self._camera

    @property
    def door_x(self) -> float:
        """Where the door is, metres right of the middle."""
        return self._yard.door_x


class _Visit:
    """One person's way through the yard."""

    def __init__(self, rng: np.random.Generator, scene: DemoScene) -> None:
        self._look = dress(rng)
        self._camera = scene.camera
        self._duration = scene.period_s / 2
        self._waves = bool(rng.uniform() < 0.5)
        self._legs = self._plan(rng, scene.door_x)

    def _plan(self, rng: np.random.Generator, door_x: float) -> list[_Leg]:
        speed = float(rng.uniform(1.0, 1.5))
        spots = [self._edge(rng), (door_x + float(rng.uniform(-0.5, 0.5)), float(rng.uniform(9.0, 11.5)))]
        goal = self._edge(rng)
        while True:
            way = sum(math.dist(a, b) for a, b in zip(spots, [*spots[1:], goal], strict=True))
            if way >= _WALKING_SHARE * speed * self._duration:
                break
            depth = float(rng.uniform(_NEAR_M, _FAR_M))
            spots.append((float(rng.uniform(-0.8, 0.8)) * self._camera.half_width(depth), depth))
        if way > 2 * speed * self._duration:  # a short visit: straight across
            spots = spots[:1]
            goal = (-spots[0][0], spots[0][1])
            way = math.dist(spots[0], goal)
        spots.append(goal)
        speed = max(speed, way / self._duration) if len(spots) > 2 else way / self._duration
        rest = (self._duration - way / speed) / max(1, len(spots) - 2)
        legs: list[_Leg] = []
        now = walked = 0.0
        for (x0, z0), (x1, z1) in pairwise(spots):
            length = math.hypot(x1 - x0, z1 - z0)
            heading = math.atan2(z1 - z0, x1 - x0)
            legs.append(_Leg(now, now + length / speed, x0, z0, x1, z1, walked, heading))
            now, walked = legs[-1].end_s, walked + length
            if rest > 0.01 and (x1, z1) != goal:
                legs.append(_Leg(now, now + rest, x1, z1, x1, z1, walked, heading))
                now += rest
        return legs

    def _edge(self, rng: np.random.Generator) -> tuple[float, float]:
        depth = float(rng.uniform(5.5, 9.0))
        inside = self._camera.half_width(depth) + _BODY_HALF_M - _SHOWS_AT_EDGE
        return float(rng.choice([-1.0, 1.0])) * inside, depth

    def pose(self, since_s: float) -> Pose:
        index = next((i for i, leg in enumerate(self._legs) if since_s < leg.end_s), len(self._legs) - 1)
        leg = self._legs[index]
        share = min(1.0, (since_s - leg.start_s) / max(1e-6, leg.end_s - leg.start_s))
        x, depth = leg.x0 + share * (leg.x1 - leg.x0), leg.z0 + share * (leg.z1 - leg.z0)
        walking = leg.length > 0.01
        ramp = min(1.0, (since_s - leg.start_s) / _TURN_S)
        stopping = index + 1 < len(self._legs) and self._legs[index + 1].length <= 0.01
        effort = min(ramp, (leg.end_s - since_s) / _TURN_S if stopping else 1.0, 1.0) if walking else 0.0
        wave = math.sin(math.pi * share) if not walking and self._waves else 0.0
        before = self._legs[index - 1].heading if index else leg.heading
        turn = (leg.heading - before + math.pi) % (2 * math.pi) - math.pi
        heading = before + turn * ramp
        phase = 2 * math.pi * (leg.walked + share * leg.length) / (STRIDE * self._look.height_m)
        bones = Skeleton(phase, max(0.0, effort), heading, max(0.0, wave), self._look.build)
        px, py = self._camera.project(x, depth)
        return Pose(self._look, bones, px, py, self._look.height_m * self._camera.pixels_per_metre(depth))


class DemoSource:
    """See `capture.source.Source`. Pulled; the scene begins when first opened and goes on over re-opening."""

    def __init__(self, spec: SourceSpec, camera: CameraSettings) -> None:
        self._redacted = spec.redacted
        self._period_s = spec.number("period", 40.0, 2.0, 86400.0)
        self._seed = int(spec.number("seed", 1, 0, 2**31))
        self._width = int(spec.number("width", camera.width or 1280, 160, 3840)) // 2 * 2
        self._height = int(spec.number("height", camera.height or 720, 120, 2160)) // 2 * 2
        self._fps = spec.number("fps", min(camera.fps, 30.0), 0.1, 60.0)
        self._scene: DemoScene | None = None
        self._start_ns = 0

    def open(self, keep_waiting: Callable[[], bool]) -> SourceInfo:  # noqa: ARG002 - drawing takes half a second
        """Draw the stage."""
        if self._scene is None:
            self._scene = DemoScene(self._seed, self._period_s, self._width, self._height)
            self._start_ns = time.monotonic_ns()
        return SourceInfo(
            width=self._width,
            height=self._height,
            pixel_format=PixelFormat.MJPEG,
            fps=self._fps,
            max_frame_bytes=max(1 << 18, self._width * self._height),
            identity=self._redacted,
        )

    def fileno(self) -> int | None:
        """None: pulled."""
        return None

    def set_rate(self, fps: float) -> None:
        """Nothing to save: only frames that are grabbed are drawn."""

    def discard(self) -> None:
        """Nothing waits: grab() draws the present moment."""

    def grab(self) -> RawFrame:
        """Draw and encode the frame of now; about 6 ms at 720p."""
        assert self._scene is not None, "the source is not open"
        now_ns = time.monotonic_ns()
        since_ns = now_ns - self._start_ns
        picture = self._scene.frame(since_ns / 1e9)
        data = simplejpeg.encode_jpeg(picture, _QUALITY, "RGB", "420", fastdct=True)
        return RawFrame(
            data=memoryview(data),
            captured_monotonic_ns=now_ns,
            pts_ns=since_ns,
            width=self._width,
            height=self._height,
        )

    def close(self) -> None:
        """Nothing is held open."""
