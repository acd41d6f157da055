"""The demo's person: a walking three-dimensional skeleton, dressed by the seed, turned into shaded shapes in pixels.

Lengths are shares of the body height (Drillis and Contini's segment table, rounded). A pose is a list of shapes, far
ones first; the bounding box of the shapes is the ground truth.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import cv2
import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Image = NDArray[np.uint8]

Color = tuple[float, float, float]
Point = tuple[float, float, float]  # share of body height: right of the picture, up, towards the camera

STRIDE: Final = 0.83  # distance of a full gait cycle, in body heights
_THIGH, _SHANK, _FOOT = 0.245, 0.246, 0.13
_TORSO, _UPPER_ARM, _FOREARM = 0.288, 0.186, 0.165
_FIXED_POINT_BITS: Final = 4  # cv2 draws at 1/16 pixel, so slow walking does not jump


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """How one person looks: RGB 0..255; `build` scales widths, `coat` is how far the top reaches down (0..0.2)."""

    height_m: float
    build: float
    skin: Color
    hair: Color
    top: Color
    sleeve: Color
    trousers: Color
    shoes: Color
    coat: float
    hat: bool
    bag: Color | None
    long_hair: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """A convex outline in pixels with its colour and its distance towards the camera (for drawing order)."""

    outline: NDArray[np.float32]
    color: Color
    near: float


def dress(rng: np.random.Generator) -> Look:
    """A person drawn by `rng`."""

    def pick(*colors: Color) -> Color:
        base = np.array(colors[int(rng.integers(len(colors)))]) * rng.uniform(0.8, 1.15)
        red, green, blue = (float(c) for c in np.clip(base + rng.normal(0, 6, 3), 8, 245))
        return red, green, blue

    tops: tuple[Color, ...] = (
        (40, 60, 120), (150, 30, 35), (35, 90, 60), (190, 190, 185), (60, 60, 65), (200, 150, 50), (90, 120, 160),
        (120, 80, 120),
    )  # fmt: skip
    top = pick(*tops)
    return Look(
        height_m=float(rng.uniform(1.58, 1.9)),
        build=float(rng.uniform(0.88, 1.2)),
        skin=pick((225, 180, 155), (200, 150, 120), (150, 105, 80), (95, 65, 50)),
        hair=pick((40, 30, 25), (90, 60, 35), (160, 125, 80), (120, 120, 120), (20, 20, 22)),
        top=top,
        sleeve=top if rng.uniform() < 0.8 else pick(*tops),
        trousers=pick((35, 45, 75), (50, 50, 55), (120, 105, 85), (80, 85, 90), (25, 25, 30)),
        shoes=pick((30, 28, 28), (80, 55, 40), (190, 190, 190)),
        coat=float(rng.choice([0.02, 0.05, 0.16])),
        hat=bool(rng.uniform() < 0.25),
        bag=pick((110, 75, 45), (40, 40, 45), (150, 40, 40)) if rng.uniform() < 0.35 else None,
        long_hair=bool(rng.uniform() < 0.4),
    )


def _swing(phase: float, effort: float) -> tuple[float, float, float]:
    """Hip, knee and foot angles of a leg in radians; `effort` 0 (standing) to 1 (walking)."""
    hip = math.radians(25) * math.sin(phase) * effort
    knee = math.radians(4) + math.radians(52) * max(0.0, math.cos(phase + 0.4)) ** 2 * effort
    foot = math.radians(38) * max(0.0, -math.sin(phase)) * effort
    return hip, knee, foot


class Skeleton:
    """Joints of one moment in body heights, feet at the origin, turned to `heading` (0: to the right, pi/2: away)."""

    def __init__(self, phase: float, effort: float, heading: float, wave: float, build: float) -> None:
        self.heading = heading
        self._cos, self._sin = math.cos(heading), math.sin(heading)
        self.legs: list[tuple[Point, Point, Point, Point]] = []
        self.arms: list[tuple[Point, Point, Point]] = []
        flat: list[list[tuple[float, float, float]]] = []
        for side in (-1, 1):
            hip, knee, foot = _swing(phase if side > 0 else phase + math.pi, effort)
            forward, up = _THIGH * math.sin(hip), -_THIGH * math.cos(hip)
            ankle = forward + _SHANK * math.sin(hip - knee), up - _SHANK * math.cos(hip - knee)
            toe = ankle[0] + _FOOT * math.cos(foot), ankle[1] - _FOOT * math.sin(foot) - 0.015
            lateral = side * 0.055 * build
            flat.append([(0, 0, lateral), (forward, up, lateral), (*ankle, lateral), (*toe, lateral * 1.2)])
        lowest = min(joint[1] for leg in flat for joint in leg)
        lift = 0.025 - lowest
        for leg in flat:
            hip_at, knee_at, ankle_at, toe_at = (self._turn(f, u + lift, s) for f, u, s in leg)
            self.legs.append((hip_at, knee_at, ankle_at, toe_at))
        lean = 0.02 + 0.03 * effort
        self.pelvis = self._turn(0, lift, 0)
        self.chest = self._turn(lean, lift + _TORSO, 0)
        for side in (-1, 1):
            swing = -math.radians(28) * math.sin(phase if side > 0 else phase + math.pi) * effort
            bend = math.radians(12 + 20 * effort)
            if side > 0:
                swing, bend = swing + wave * math.radians(75), bend + wave * math.radians(60)
            lateral = side * 0.118 * build
            shoulder = (lean, lift + _TORSO - 0.02, lateral)
            out, down = _UPPER_ARM * math.sin(swing), _UPPER_ARM * math.cos(swing)
            elbow = (shoulder[0] + out, shoulder[1] - down, lateral * 1.12)
            reach = swing + bend
            hand = (elbow[0] + _FOREARM * math.sin(reach), elbow[1] - _FOREARM * math.cos(reach), lateral * 1.05)
            self.arms.append((self._turn(*shoulder), self._turn(*elbow), self._turn(*hand)))
        self.head = self._turn(lean + 0.015, lift + _TORSO + 0.115, 0)

    def _turn(self, forward: float, up: float, left: float) -> Point:
        return forward * self._cos - left * self._sin, up, -forward * self._sin - left * self._cos

    def breadth(self, lateral: float, depth: float) -> float:
        """Half width on the picture of a body section with the given half axes."""
        return math.hypot(lateral * self._sin, depth * self._cos)


class Pose:
    """Shapes of one person at a moment. `scale` pixels per body height, (`x`, `y`) the pixel between the feet."""

    def __init__(self, look: Look, bones: Skeleton, x: float, y: float, scale: float) -> None:
        self._look, self._bones, self._x, self._y, self._scale = look, bones, x, y, scale
        self.shapes: list[Shape] = []
        self._build()
        self.shapes.sort(key=lambda shape: shape.near)

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Bounding box of all shapes in pixels, not clipped."""
        points = np.concatenate([shape.outline for shape in self.shapes])
        (x1, y1), (x2, y2) = points.min(axis=0), points.max(axis=0)
        return float(x1), float(y1), float(x2), float(y2)

    def _pixel(self, point: Point) -> tuple[float, float]:
        return self._x + point[0] * self._scale, self._y - point[1] * self._scale

    def _build(self) -> None:
        look, bones = self._look, self._bones
        girth = look.build
        for hip, knee, ankle, toe in bones.legs:
            self._limb((hip, knee), (0.055 * girth, 0.038 * girth), look.trousers)
            self._limb((knee, ankle), (0.038 * girth, 0.024 * girth), look.trousers)
            self._limb((ankle, toe), (0.026, 0.018), look.shoes, bias=0.01)
        self._torso()
        for shoulder, elbow, hand in bones.arms:
            self._limb((shoulder, elbow), (0.032 * girth, 0.027 * girth), look.sleeve)
            middle: Point = tuple(e + 0.72 * (h - e) for e, h in zip(elbow, hand, strict=True))  # type: ignore[assignment]
            self._limb((elbow, middle), (0.027 * girth, 0.021), look.sleeve)
            self._limb((middle, hand), (0.021, 0.02), look.skin, bias=0.005)
        self._head()

    def _limb(self, ends: tuple[Point, Point], radii: tuple[float, float], color: Color, bias: float = 0.0) -> None:
        """A tapered limb drawn thrice (dark edge, body, lit side), which reads as a cylinder lit from the left."""
        (start, end), (r0, r1) = ends, radii
        near = (start[2] + end[2]) / 2 + bias
        for step, (width, shade, shift) in enumerate(((1.0, 0.68, 0.0), (0.8, 1.0, -0.15), (0.4, 1.14, -0.3))):
            (x0, y0), (x1, y1) = self._pixel(start), self._pixel(end)
            a, b = r0 * self._scale, r1 * self._scale
            outline = _capsule((x0 + shift * a, y0, a * width), (x1 + shift * b, y1, b * width))
            self._add(outline, color, shade, near + step * 1e-4)

    def _torso(self) -> None:
        look, bones = self._look, self._bones
        (px, py, pz), (cx, cy, _) = bones.pelvis, bones.chest
        rise = cy - py
        sections = (  # share of the way up, half axes across and through the body
            (-look.coat / rise, 0.088 + 0.1 * look.coat, 0.068 + 0.1 * look.coat),
            (0.0, 0.088, 0.066), (0.35, 0.08, 0.06), (0.75, 0.108, 0.07), (0.95, 0.112, 0.06), (1.04, 0.05, 0.045),
        )  # fmt: skip
        for step, (width, shade, shift) in enumerate(((1.0, 0.66, 0.0), (0.84, 0.96, -0.12), (0.45, 1.1, -0.3))):
            left: list[tuple[float, float]] = []
            right: list[tuple[float, float]] = []
            for way, lateral, through in sections:
                half = bones.breadth(lateral, through) * look.build
                center = px + (cx - px) * way + shift * half
                left.append(self._pixel((center - half * width, py + rise * way, 0)))
                right.append(self._pixel((center + half * width, py + rise * way, 0)))
            self._add(np.array(left + right[::-1], np.float32), look.top, shade, pz + step * 1e-4)
        if look.bag is not None:
            back = -0.1 if math.sin(bones.heading) < 0 else 0.1  # seen from behind it covers the coat
            middle = (cx - 0.09 * math.cos(bones.heading), py + 0.62 * rise, 0.0)
            half = bones.breadth(0.075, 0.05)
            x, y = self._pixel(middle)
            size = (half * self._scale, 0.09 * self._scale)
            self._add(_ellipse(x, y, *size), look.bag, 0.8, pz + back)
            self._add(_ellipse(x - 0.1 * size[0], y, 0.8 * size[0], 0.85 * size[1]), look.bag, 1.05, pz + back + 1e-4)

    def _head(self) -> None:
        look, bones = self._look, self._bones
        hx, hy, hz = bones.head
        facing = -math.sin(bones.heading)  # 1: towards the camera
        aside = math.cos(bones.heading)
        wide, tall = 0.046 + 0.008 * abs(aside), 0.066

        def oval(at: tuple[float, float], radii: tuple[float, float], color: Color, shade: float, near: float) -> None:
            x, y = self._pixel((hx + at[0], hy + at[1], 0))
            self._add(_ellipse(x, y, radii[0] * self._scale, radii[1] * self._scale), color, shade, hz + near)

        oval((0.0, 0.0), (wide * 0.95, tall * 0.9), look.skin, 0.78, 0.015)
        neck: tuple[Point, Point] = ((hx - 0.01 * aside, hy - 0.1, hz), (hx, hy - 0.04, hz))
        self._limb(neck, (0.03, 0.028), look.skin, bias=0.001)
        fall = 0.05 if look.long_hair else 0.0
        oval(
            (-0.012 * aside, 0.012 - fall),
            (wide * 1.1, tall * 0.98 + fall),
            look.hair,
            0.8,
            -0.04 if facing > 0 else 0.02,
        )
        if facing > -0.5:
            turned = 0.016 * aside
            oval((turned, -0.012), (wide * (0.82 - 0.12 * abs(aside)), tall * 0.82), look.skin, 0.85, 0.03)
            oval((turned - 0.006, -0.01), (wide * (0.62 - 0.1 * abs(aside)), tall * 0.7), look.skin, 1.05, 0.031)
            for eye in (-0.016, 0.016):
                if facing > 0.3 or eye * aside > 0:
                    oval((eye + turned * 1.4, 0.0), (0.005, 0.004), (40, 30, 30), 1.0, 0.032)
            oval((turned * 1.5, -0.034), (0.011, 0.003), (130, 70, 65), 1.0, 0.032)
        oval((-0.008 * aside, 0.038), (wide * 1.04, tall * 0.48), look.hair, 1.0, 0.033)
        if look.hat:
            oval((0, 0.045), (wide * 1.12, tall * 0.5), look.sleeve, 0.75, 0.034)
            oval((0.03 * aside, 0.03), (wide * 1.2, 0.012), look.sleeve, 0.55, 0.035)

    def _add(self, outline: NDArray[np.float32], color: Color, shade: float, near: float) -> None:
        shaded = (min(255.0, color[0] * shade), min(255.0, color[1] * shade), min(255.0, color[2] * shade))
        self.shapes.append(Shape(outline=outline, color=shaded, near=near))

    def draw(self, frame: Image, light: float) -> None:
        """Draw into `frame`, in place, with a soft shadow on the ground; `light` is the daylight's gain."""
        self._shadow(frame)
        for shape in self.shapes:
            points = np.rint(shape.outline * (1 << _FIXED_POINT_BITS)).astype(np.int32)
            color = tuple(min(255.0, c * light) for c in shape.color)
            cv2.fillConvexPoly(frame, points, color, cv2.LINE_AA, _FIXED_POINT_BITS)
        x1, y1, x2, y2 = self.box
        region = frame[max(0, int(y1)) : max(0, int(y2) + 1), max(0, int(x1)) : max(0, int(x2) + 1)]
        if region.size:
            region[:] = cv2.GaussianBlur(region, (3, 3), 0)

    def _shadow(self, frame: Image) -> None:
        scale = self._scale
        left, top = int(self._x - 0.15 * scale), int(self._y - 0.08 * scale)
        right, bottom = int(self._x + 0.55 * scale), int(self._y + 0.06 * scale)
        clipped = frame[max(0, top) : max(0, bottom), max(0, left) : max(0, right)]
        if not clipped.size:
            return
        mask = np.zeros((bottom - top, right - left), np.float32)
        center = (int(0.3 * scale), int(0.08 * scale))
        cv2.ellipse(mask, center, (max(1, int(0.2 * scale)), max(1, int(0.03 * scale))), -2, 0, 360, 0.45, -1)
        mask = np.asarray(cv2.blur(mask, (max(1, int(0.05 * scale)), max(1, int(0.02 * scale)))), np.float32)
        y, x = max(0, -top), max(0, -left)
        mask = mask[y : y + clipped.shape[0], x : x + clipped.shape[1]]
        clipped[:] = (clipped * (1 - mask)[..., None]).astype(np.uint8)


def _ellipse(x: float, y: float, rx: float, ry: float) -> NDArray[np.float32]:
    return np.asarray(_CIRCLE * np.array([rx, ry], np.float32) + np.array([x, y], np.float32), np.float32)


def _capsule(start: tuple[float, float, float], end: tuple[float, float, float]) -> NDArray[np.float32]:
    """Convex hull of two circles (x, y, radius)."""
    both = np.concatenate([_SMALL_CIRCLE * r + np.array([x, y], np.float32) for x, y, r in (start, end)])
    return np.asarray(cv2.convexHull(both.astype(np.float32))[:, 0], np.float32)


def _unit_circle(points: int) -> NDArray[np.float32]:
    angles = np.linspace(0, 2 * math.pi, points, endpoint=False)
    return np.stack((np.cos(angles), np.sin(angles)), axis=1).astype(np.float32)


_CIRCLE: Final = _unit_circle(24)
_SMALL_CIRCLE: Final = _unit_circle(12)
