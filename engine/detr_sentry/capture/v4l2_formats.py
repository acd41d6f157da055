"""What a V4L2 camera offers, and the choice among it. The choice is pure; the enumeration asks the driver by ioctl.

linuxpy's own enumeration fails on drivers that answer in an unusual order (vivid), so the structs are read here.
Source: the kernel's V4L2 documentation, VIDIOC_ENUM_FMT, VIDIOC_ENUM_FRAMESIZES and VIDIOC_ENUM_FRAMEINTERVALS.
"""

from __future__ import annotations

import errno
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from linuxpy.ioctl import ioctl
from linuxpy.video import raw

from detr_sentry.errors import SourceFormatError
from detr_sentry.ipc.messages import PixelFormat

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

PIXEL_FORMATS: Final = {
    "MJPG": PixelFormat.MJPEG,
    "JPEG": PixelFormat.MJPEG,
    "YUYV": PixelFormat.YUYV,
    "YU12": PixelFormat.I420,
    "RGB3": PixelFormat.RGB24,
    "GREY": PixelFormat.GRAY8,
}
"""The formats that the engine takes, best first. JPEG goes on to viewers as it is and needs a tenth of the bus."""

DEFAULT_SIZE: Final = (1280, 720)
"""Wished where nothing is: every model sees the whole of it, and nearly every camera keeps 30 fps at it in MJPEG."""

MINIMUM_HEIGHT: Final = 360
"""Smaller pictures show a person at a door too coarsely; taken only where nothing else is offered or wished."""

_RATE_TOLERANCE: Final = 0.95  # 29.97 or 28.57 (a real 35 ms) keep a wish for 30
_LIST_END: Final = {errno.EINVAL, errno.ENOTTY, errno.ENODATA}


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """One format and size with its fastest rate in frames a second; 0.0 where the driver does not say."""

    fourcc: str
    width: int
    height: int
    fps: float

    def __str__(self) -> str:
        rate = f" at {self.fps:g} fps" if self.fps else ""
        return f"{self.fourcc} {self.width}x{self.height}{rate}"

    @property
    def pixel_format(self) -> PixelFormat | None:
        """The engine's name of the format, None if it takes no such format."""
        return PIXEL_FORMATS.get(self.fourcc)


def choose(offers: Sequence[Offer], *, width: int | None, height: int | None, fps: float) -> Offer:
    """The best of `offers` for a wish, `fps` being the rate wanted.

    A size that was wished for goes before the rate; without one, rate goes before size. Raises SourceFormatError naming
    what is offered.
    """
    usable = [offer for offer in offers if offer.pixel_format is not None]
    if not usable:
        offered = ", ".join(sorted({offer.fourcc for offer in offers})) or "nothing"
        raise SourceFormatError(f"offers {offered}; one of {', '.join(PIXEL_FORMATS)} is needed")
    preference = list(PIXEL_FORMATS)

    def shortfall(offer: Offer) -> float:
        return 0.0 if not offer.fps or offer.fps >= fps * _RATE_TOLERANCE else fps - offer.fps

    def rank(offer: Offer) -> tuple[float, ...]:
        size, rate, form = _distance(offer, width, height), shortfall(offer), preference.index(offer.fourcc)
        if width is None and height is None:
            return (offer.height < MINIMUM_HEIGHT, rate, size, form)
        return (size, rate, form)

    return min(usable, key=rank)


def _distance(offer: Offer, width: int | None, height: int | None) -> float:
    """How far a size is from the wished one: 0.0 for the same, symmetric in larger and smaller."""
    if width is None and height is None:
        width, height = DEFAULT_SIZE
    sides = ((offer.width, width), (offer.height, height))
    return sum(abs(math.log(side / wished)) for side, wished in sides if wished is not None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Capability:
    """Who a device is and what its node can do."""

    card: str
    driver: str
    captures: bool
    streams: bool


def query_capability(fd: int) -> Capability:
    """What the device `fd` says of itself. Raises OSError."""
    answer = raw.v4l2_capability()
    ioctl(fd, raw.IOC.QUERYCAP, answer)
    # `capabilities` are those of all nodes of the device together; old drivers fill in nothing else.
    can = answer.device_caps if answer.capabilities & raw.Capability.DEVICE_CAPS else answer.capabilities
    return Capability(
        card=answer.card.decode(errors="replace"),
        driver=answer.driver.decode(errors="replace"),
        captures=bool(can & raw.Capability.VIDEO_CAPTURE),
        streams=bool(can & raw.Capability.STREAMING),
    )


def enumerate_offers(fd: int, *, width: int | None = None, height: int | None = None) -> list[Offer]:
    """Everything that the device `fd` offers; of a range of sizes the wished one, clamped, and the largest.

    Formats that the engine cannot take are listed once, as size 0x0. Raises OSError as the driver does.
    """
    offers = []
    description = raw.v4l2_fmtdesc()
    description.type = raw.BufType.VIDEO_CAPTURE
    for item in _indexed(fd, raw.IOC.ENUM_FMT, description):
        fourcc = fourcc_text(item.pixelformat)
        if fourcc not in PIXEL_FORMATS:
            offers.append(Offer(fourcc=fourcc, width=0, height=0, fps=0.0))
            continue
        offers += [
            Offer(fourcc=fourcc, width=size[0], height=size[1], fps=_fastest(fd, item.pixelformat, *size))
            for size in _sizes(fd, item.pixelformat, width, height)
        ]
    return offers


def _sizes(fd: int, pixelformat: int, width: int | None, height: int | None) -> list[tuple[int, int]]:
    query = raw.v4l2_frmsizeenum()
    query.pixel_format = pixelformat
    sizes: list[tuple[int, int]] = []
    for item in _indexed(fd, raw.IOC.ENUM_FRAMESIZES, query):
        if item.type == raw.Frmsizetypes.DISCRETE:
            sizes.append((item.discrete.width, item.discrete.height))
            continue
        sizes += sizes_in_range(item.stepwise, width, height)
        break
    return sizes or [_current_size(fd)]


def sizes_in_range(limits: Any, width: int | None, height: int | None) -> list[tuple[int, int]]:
    """The wished size (else the default one) on the grid of a `v4l2_frmsize_stepwise`, and the largest size."""

    def clamp(wish: int, low: int, high: int, step: int) -> int:
        return low + (min(max(wish, low), high) - low) // max(step, 1) * max(step, 1)

    wished = (
        clamp(width or DEFAULT_SIZE[0], limits.min_width, limits.max_width, limits.step_width),
        clamp(height or DEFAULT_SIZE[1], limits.min_height, limits.max_height, limits.step_height),
    )
    return list(dict.fromkeys([wished, (limits.max_width, limits.max_height)]))


def _current_size(fd: int) -> tuple[int, int]:
    """The size that is set: drivers without a list of sizes have only this one."""
    current = raw.v4l2_format()
    current.type = raw.BufType.VIDEO_CAPTURE
    ioctl(fd, raw.IOC.G_FMT, current)
    return current.fmt.pix.width, current.fmt.pix.height


def _fastest(fd: int, pixelformat: int, width: int, height: int) -> float:
    query = raw.v4l2_frmivalenum()
    query.pixel_format, query.width, query.height = pixelformat, width, height
    fastest = 0.0
    for item in _indexed(fd, raw.IOC.ENUM_FRAMEINTERVALS, query):
        discrete = item.type == raw.Frmivaltypes.DISCRETE
        fastest = max(fastest, rate_of(item.discrete if discrete else item.stepwise.min))
        if not discrete:
            break
    return fastest


def rate_of(interval: Any) -> float:
    """Frames a second of a `v4l2_fract` of seconds; 0.0 for an interval that says nothing."""
    return interval.denominator / interval.numerator if interval.numerator and interval.denominator else 0.0


def fourcc_text(code: int) -> str:
    """`MJPG` for its number; other than printable ASCII is shown as `?`."""
    letters = (chr(code >> shift & 0x7F) for shift in (0, 8, 16, 24))
    return "".join(letter if letter.isprintable() else "?" for letter in letters).rstrip()


def fourcc_code(text: str) -> int:
    """The number of `MJPG`."""
    return int.from_bytes(text.ljust(4).encode("ascii"), "little")


def _indexed(fd: int, request: int, struct: Any) -> Iterator[Any]:
    """The answers to an enumeration, in `struct` itself, until the driver ends the list."""
    for index in range(512):  # vivid has 83 formats; a broken driver must not hold us for ever
        struct.index = index
        try:
            ioctl(fd, request, struct)
        except OSError as error:
            if error.errno in _LIST_END:
                return
            raise
        yield struct
