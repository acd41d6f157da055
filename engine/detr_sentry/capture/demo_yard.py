"""The demo's empty stage: a house with a door, a path, lawn and bushes; drawn once, then only stirred.

Everything follows from the seed. The ground is a plane seen by a camera `CAMERA_HEIGHT_M` above it; `Camera` maps
metres to pixels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import cv2
import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Image = NDArray[np.uint8]
    Plane = NDArray[np.float32]

CAMERA_HEIGHT_M: Final = 2.4
WALL_DEPTH_M: Final = 12.5
_NOISE_MARGIN: Final = 64  # noise is one fixed field, shifted by up to this many pixels from frame to frame


@dataclass(frozen=True, slots=True, kw_only=True)
class Camera:
    """A pinhole above the yard. x right, depth away from the camera, both in metres on the ground."""

    width: int
    height: int

    @property
    def focal(self) -> float:
        """Focal length in pixels."""
        return 0.75 * self.width

    @property
    def horizon(self) -> float:
        """Row of the horizon."""
        return 0.35 * self.height

    def pixels_per_metre(self, depth: float) -> float:
        """Scale at `depth` metres."""
        return self.focal / depth

    def project(self, x: float, depth: float) -> tuple[float, float]:
        """Pixel of a point of the ground."""
        scale = self.focal / depth
        return self.width / 2 + x * scale, self.horizon + CAMERA_HEIGHT_M * scale

    def half_width(self, depth: float) -> float:
        """Metres from the middle to the edge of the picture at `depth`."""
        return self.width / 2 * depth / self.focal


def _texture(rng: np.random.Generator, size: int, octaves: int) -> Plane:
    """A tileable grey noise of mean 0 and unit-ish range, [size, size]."""
    total = np.zeros((size, size), np.float32)
    for octave in range(octaves):
        cells = min(size, 8 << octave)
        grid = rng.standard_normal((cells, cells)).astype(np.float32)
        grid = np.pad(grid, 1, mode="wrap")
        step = size // cells
        big = cv2.resize(grid, None, fx=step, fy=step, interpolation=cv2.INTER_CUBIC)
        total += big[step : step + size, step : step + size] * 0.6**octave
    return total


def _tint(rng: np.random.Generator, dark: tuple[int, int, int], bright: tuple[int, int, int]) -> Plane:
    """A colour between two, with a slight cast."""
    low, high = np.array(dark, np.float32), np.array(bright, np.float32)
    return np.asarray((low + rng.uniform() * (high - low)) * rng.uniform(0.94, 1.06, 3), np.float32)


def _sample(texture: Plane, u: NDArray[Any], v: NDArray[Any]) -> Plane:
    """`texture` at coordinates in tiles, wrapped."""
    size = np.float32(texture.shape[0])
    return np.asarray(
        cv2.remap(
            texture,
            (u % 1 * size).astype(np.float32),
            (v % 1 * size).astype(np.float32),
            cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_WRAP,
        ),
        np.float32,
    )


class Yard:
    """The stage: `paint(t_s)` gives the empty picture, RGB uint8 [height, width, 3]; `finish` adds the noise."""

    def __init__(self, seed: int, camera: Camera) -> None:
        self._rng = np.random.default_rng([seed, 0xA4D])
        self._camera = camera
        self.door_x = float(self._rng.uniform(-2.5, 2.5))
        self._still = self._draw()
        self._foliage = [self._plant() for _ in range(int(self._rng.integers(2, 4)))]
        self._phase = self._rng.uniform(0, 2 * math.pi, 8)
        self._leaf_color = tuple(int(c) for c in self._rng.integers((90, 60, 20), (190, 130, 60)))
        shape = (camera.height + _NOISE_MARGIN, camera.width + _NOISE_MARGIN, 3)
        strength = float(self._rng.uniform(1.5, 3.5))
        noise = self._rng.standard_normal(shape, dtype=np.float32) * strength
        self._brighter = np.clip(noise, 0, 30).astype(np.uint8)
        self._darker = np.clip(-noise, 0, 30).astype(np.uint8)

    def light(self, t_s: float) -> float:
        """Gain of the daylight: slow clouds, within 10 %."""
        slow = math.sin(t_s / 11.3 + self._phase[0]) + 0.5 * math.sin(t_s / 4.1 + self._phase[1])
        return 1 + 0.06 * slow

    def paint(self, t_s: float) -> Image:
        """The empty yard at `t_s` without noise; a new array."""
        frame: Image = np.asarray(cv2.convertScaleAbs(self._still, alpha=self.light(t_s)), np.uint8)
        for number, (left, top, across, down, weight) in enumerate(self._foliage):
            sway = math.sin(1.7 * t_s + self._phase[2 + number]) + 0.4 * math.sin(4.3 * t_s + number)
            height, width = weight.shape
            patch = frame[top : top + height, left : left + width]
            moved = cv2.remap(
                patch, across + weight * np.float32(sway), down, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT
            )
            patch[:] = moved
        self._drop_leaves(frame, t_s)
        return frame

    def finish(self, frame: Image, number: int) -> Image:
        """`frame` with sensor noise, in place; `number` picks the noise."""
        mixed = number * 2654435761 & 0xFFFFFFFF
        dx, dy = mixed % _NOISE_MARGIN, mixed // 4096 % _NOISE_MARGIN
        height, width = frame.shape[:2]
        cv2.add(frame, self._brighter[dy : dy + height, dx : dx + width], dst=frame)
        cv2.subtract(frame, self._darker[dy : dy + height, dx : dx + width], dst=frame)
        return frame

    def _drop_leaves(self, frame: Image, t_s: float) -> None:
        height, width = frame.shape[:2]
        for leaf in range(3):
            fall = (t_s / (5 + leaf) + self._phase[5 + leaf]) % 1.6  # above 1: between two leaves
            if fall >= 1:
                continue
            lane = math.floor(t_s / (5 + leaf) + self._phase[5 + leaf]) * 0.37 + leaf * 0.31
            x = ((lane + self._phase[leaf]) % 1 + 0.03 * math.sin(6 * fall + leaf)) * width
            y = (0.1 + 0.85 * fall) * height
            axes = (max(2, width // 300), max(1, width // 600))
            cv2.ellipse(frame, (int(x), int(y)), axes, 360 * fall * 2, 0, 360, self._leaf_color, -1, cv2.LINE_AA)

    def _draw(self) -> Image:
        camera, rng = self._camera, self._rng
        width, height = camera.width, camera.height
        rows, columns = np.mgrid[0:height, 0:width].astype(np.float32)
        picture = np.empty((height, width, 3), np.float32)
        picture[:] = (
            self._sky(rows)[..., None] * _tint(rng, (1, 1, 1), (1, 1, 1)) * np.array([0.95, 1, 1.06], np.float32)
        )
        self._ground(picture, rows, columns)
        self._house(picture, rows, columns)
        distance = np.hypot(columns / width - 0.5, rows / height - 0.5)
        picture *= (1.06 - 0.35 * distance**2)[..., None] * np.float32(rng.uniform(0.75, 1.0))
        return np.clip(cv2.GaussianBlur(picture, (0, 0), 0.7), 0, 235).astype(np.uint8)

    def _sky(self, rows: Plane) -> Plane:
        fade = np.clip(rows / self._camera.horizon, 0, 1)
        return np.asarray(self._rng.uniform(165, 205) + 35 * fade, np.float32)

    def _ground(self, picture: Plane, rows: Plane, columns: Plane) -> None:
        camera, rng = self._camera, self._rng
        below = int(camera.horizon) + 2
        depth = camera.focal * CAMERA_HEIGHT_M / (rows[below:] - camera.horizon)
        across = (columns[below:] - camera.width / 2) * depth / camera.focal
        fade = np.clip(6 / depth, 0.15, 1.0)  # far texture blurs away
        grass = _sample(_texture(rng, 512, 6), across / 6, depth / 6)
        lawn = _tint(rng, (52, 80, 38), (112, 132, 72))
        picture[below:] = lawn * (1 + 0.16 * grass * fade)[..., None]
        bend = 0.15 * rng.uniform(-1, 1) * (WALL_DEPTH_M - depth)
        path = np.abs(across - self.door_x - bend) < rng.uniform(0.8, 1.6)
        tile = rng.uniform(0.5, 1.0)
        joint = (np.abs(across / tile % 1 - 0.5) > 0.46) | (np.abs(depth / tile % 1 - 0.5) > 0.46)
        stone = _tint(rng, (110, 105, 98), (178, 172, 165))
        paved = stone * (1 + 0.08 * grass * fade - 0.22 * joint * fade)[..., None]
        picture[below:][path] = paved[path]

    def _house(self, picture: Plane, rows: Plane, columns: Plane) -> None:
        camera, rng = self._camera, self._rng
        scale = camera.pixels_per_metre(WALL_DEPTH_M)
        _, base = camera.project(0, WALL_DEPTH_M)
        spread = (rng.uniform(4.0, 9.0), rng.uniform(4.0, 9.0))
        left, right = (camera.width / 2 + (self.door_x + side) * scale for side in (-spread[0], spread[1]))
        up, along = (base - rows) / scale, (columns - left) / scale
        fence = (rows < base) & (up < 1.8)
        boards = np.abs(along / 0.14 % 1 - 0.5) > 0.42
        wood = _tint(rng, (80, 62, 45), (150, 128, 102))
        grain = _sample(_texture(rng, 256, 5), along / 3, up / 9)
        picture[fence] = (wood * (1 + 0.1 * grain - 0.3 * boards)[..., None])[fence]
        wall = (rows < base) & (columns > left) & (columns < right)
        brick = rng.uniform(0, 1) < 0.5
        course = np.abs(up / (0.16 if brick else 0.3) % 1 - 0.5) > (0.42 if brick else 0.47)
        low = (125, 70, 55) if brick else (150, 145, 130)
        high = (170, 110, 90) if brick else (205, 200, 190)
        face = _tint(rng, low, high)
        fine = _sample(_texture(rng, 256, 6), along / 2, up / 2)
        plaster = face * (1 + 0.03 * grain + 0.035 * fine - (0.12 if brick else 0.05) * course)[..., None]
        picture[wall] = plaster[wall]
        self._opening(picture, self.door_x - 0.5, 0.0, 1.0, 2.1, door=True)
        for offset in (-3.2, 2.2):
            if -spread[0] < offset and offset + 1.2 < spread[1]:
                self._opening(picture, self.door_x + offset, 0.9, 1.2, 1.2, door=False)

    def _opening(self, picture: Plane, x: float, sill: float, wide: float, tall: float, *, door: bool) -> None:
        camera, rng = self._camera, self._rng
        scale = camera.pixels_per_metre(WALL_DEPTH_M)
        px, base = camera.project(x, WALL_DEPTH_M)
        corner = (int(px), int(base - (sill + tall) * scale))
        opposite = (int(px + wide * scale), int(base - sill * scale))
        rim = max(2, int(0.08 * scale))
        cv2.rectangle(
            picture, (corner[0] - rim, corner[1] - rim), (opposite[0] + rim, opposite[1]), (205, 203, 196), -1
        )
        color = _tint(rng, (35, 55, 50), (130, 75, 50)) if door else _tint(rng, (50, 60, 70), (80, 92, 105))
        cv2.rectangle(picture, corner, opposite, tuple(float(c) for c in color), -1)
        if door:
            knob = (int(px + 0.88 * wide * scale), int(base - 1.0 * scale))
            cv2.circle(picture, knob, max(1, int(0.05 * scale)), (200, 180, 110), -1, cv2.LINE_AA)
            panel = tuple(float(c) * 0.8 for c in color)
            for low, high in ((0.15, 0.95), (1.1, 1.95)):
                one = (int(px + 0.18 * wide * scale), int(base - high * scale))
                two = (int(px + 0.82 * wide * scale), int(base - low * scale))
                cv2.rectangle(picture, one, two, panel, max(1, int(0.03 * scale)))
        else:
            middle = int(px + wide / 2 * scale)
            cv2.line(picture, (middle, corner[1]), (middle, opposite[1]), (205, 203, 196), max(1, rim // 2))

    def _plant(self) -> tuple[int, int, Plane, Plane, Plane]:
        """Draws one bush into the still picture; returns its patch and how far each of its pixels sways."""
        camera, rng = self._camera, self._rng
        depth = float(rng.uniform(10.0, WALL_DEPTH_M - 0.3))
        beside = float(rng.uniform(2.6, 6.5) * rng.choice([-1, 1]))
        x, y = camera.project(self.door_x + beside, depth)
        size = float(rng.uniform(0.9, 2.2)) * camera.pixels_per_metre(depth)
        still = self._still
        dark = _tint(rng, (25, 45, 20), (55, 80, 40))
        for layer in range(260):
            angle, reach = rng.uniform(0, 2 * math.pi), math.sqrt(rng.uniform(0, 1))
            beyond, above = 0.8 * reach * math.cos(angle), 0.75 + 0.75 * reach * math.sin(angle)
            spot = (int(x + size * beyond), int(y - size * above))
            shade = (0.7 + 0.9 * layer / 260) * rng.uniform(0.8, 1.2)
            color = tuple(int(min(255, c * shade)) for c in dark)
            axes = (max(1, int(size * rng.uniform(0.04, 0.11))), max(1, int(size * rng.uniform(0.02, 0.06))))
            cv2.ellipse(still, spot, axes, float(rng.uniform(0, 180)), 0, 360, color, -1, cv2.LINE_AA)
        left, right = max(0, int(x - 1.1 * size)), min(camera.width, int(x + 1.1 * size))
        top, bottom = max(0, int(y - 1.7 * size)), min(camera.height, int(y + 0.1 * size))
        left, top = min(left, camera.width - 2), min(top, camera.height - 2)
        right, bottom = max(right, left + 2), max(bottom, top + 2)
        down, across = np.mgrid[0 : bottom - top, 0 : right - left].astype(np.float32)
        near = 1 - np.hypot((across + left - x) / (1.1 * size), (down + top - y + 0.8 * size) / (0.95 * size))
        return left, top, across, down, np.asarray(np.clip(near, 0, 0.5) * 0.06 * size, np.float32)
