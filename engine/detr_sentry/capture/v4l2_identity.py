"""Which V4L2 camera is which: identities from sysfs, and the way from a source's location to a device node.

Pure reading of `/sys` and `/dev`: no node is opened, so looking for one camera never wakes or blocks another.

A location is one of::

    /dev/video0, /dev/v4l/by-id/...      a path; the camera found there first is remembered, never exchanged for another
    usb=046d:0825                        the only camera of that vendor and product
    usb=046d:0825:SERIAL                 by serial number
    usb=046d:0825@1-4.2                  by USB port, for cameras without a (unique) serial number
    bus=platform/vivid.0                 a camera that is not on USB, by its place under /sys/devices
    bus=virtual/OBS                      a camera made by software, by its name
    usb=...#1/2                          an identity as `Identity.__str__` gives it: one node of a camera with several

Source: the kernel's Documentation/ABI (sysfs-bus-usb), videodev2.h's node naming.
"""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from detr_sentry.errors import SettingsError, SourceGoneError

if TYPE_CHECKING:
    from collections.abc import Callable

_USB: Final = re.compile(r"usb=([0-9a-fA-F]{4}):([0-9a-fA-F]{4})(?::([^@]+))?(?:@([0-9.-]+))?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """What stays of a camera when its node is renumbered.

    USB cameras have `vendor` and `product` (4 hex digits), `serial` ("" if none) and `port` (`1-4.2`); others have
    `bus`, their place under /sys/devices, or `virtual/` and their name. `interface` and `index` tell the nodes of one
    camera apart. A camera that sysfs does not know has only its `path`.
    """

    card: str = ""
    vendor: str = ""
    product: str = ""
    serial: str = ""
    port: str = ""
    bus: str = ""
    interface: str = ""
    index: int = 0
    path: str = ""

    def __str__(self) -> str:
        """The identity as a location that finds this very node."""
        if self.vendor:
            where = f":{self.serial}" if self.serial else f"@{self.port}"
            text = f"usb={self.vendor}:{self.product}{where}"
        elif self.bus:
            text = f"bus={self.bus}"
        else:
            return self.path
        extra = "/".join(part for part in (self.interface.lstrip("0"), str(self.index or "")) if part)
        return f"{text}#{extra}" if extra else text

    def same_camera(self, other: Identity) -> bool:
        """Whether both are one camera's same node: by serial number where there is one, else by port or bus."""
        if (self.vendor, self.product, self.interface, self.index) != (
            other.vendor,
            other.product,
            other.interface,
            other.index,
        ):
            return False
        if self.vendor:
            return self.serial == other.serial and bool(self.serial or self.port == other.port)
        return (self.bus, self.card, self.path) == (other.bus, other.card, other.path)


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A video node: where it is in /dev and whose it is."""

    path: Path
    identity: Identity

    def __str__(self) -> str:
        name = f" ({self.identity.card})" if self.identity.card else ""
        return f"{self.path}{name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tree:
    """The machine's video nodes, as sysfs and /dev show them; other roots are for tests."""

    sys: Path = Path("/sys")
    dev: Path = Path("/dev")

    def nodes(self) -> list[Node]:
        """All video nodes that have a file in /dev, in the order of their numbers."""
        entries = (self.sys / "class/video4linux").glob("video*")
        found = []
        for entry in sorted(entries, key=lambda entry: (len(entry.name), entry.name)):
            path = self._device_file(entry)
            if path is not None:
                found.append(Node(path=path, identity=self._identity(entry)))
        return found

    def node_at(self, path: Path) -> Node | None:
        """The node behind a path or link, by its device number (names may be mapped); None if there is no device."""
        number = _device_number(path)
        if number is None:
            return None
        entry = self.sys / "dev/char" / number
        if not entry.exists():
            return Node(path=path, identity=Identity(path=str(path)))
        return Node(path=path, identity=self._identity(entry.resolve()))

    def _device_file(self, entry: Path) -> Path | None:
        number = _read(entry / "dev")
        usual = self.dev / entry.name
        candidates = [usual, *sorted(self.dev.glob("video*"))]
        return next((path for path in candidates if _device_number(path) == number), None)

    def _identity(self, entry: Path) -> Identity:
        card, index = _read(entry / "name"), int(_read(entry / "index") or 0)
        device = (entry / "device").resolve()
        if not (entry / "device").exists():
            return Identity(card=card, index=index, bus=f"virtual/{card}")
        for place in (device, *device.parents):
            if (place / "idVendor").is_file():
                return Identity(
                    card=card,
                    index=index,
                    vendor=_read(place / "idVendor").lower(),
                    product=_read(place / "idProduct").lower(),
                    serial=_read(place / "serial"),
                    port=place.name,
                    interface=_read(device / "bInterfaceNumber"),
                )
        devices = (self.sys / "devices").resolve()
        bus = str(device.relative_to(devices)) if device.is_relative_to(devices) else str(device)
        return Identity(card=card, index=index, bus=bus)


def find_node(location: str, known: Identity | None = None, tree: Tree | None = None) -> Node:
    """The node of the camera that `location` means; with `known`, of exactly that camera wherever it is now.

    Raises SourceGoneError saying what was found instead, SettingsError for a location that nobody can read.
    """
    tree = tree or Tree()
    if location.startswith("/"):
        return _find_by_path(Path(location), known, tree)
    matches = _matcher(location)
    if known is None:
        found = [node for node in tree.nodes() if matches(node.identity)]
        # The first node of a camera is its picture; later ones carry metadata or another sensor.
        return _only_one(_first_nodes(found), f"no camera is {location}", tree)
    return _find_known(known, None, tree)


def _find_by_path(path: Path, known: Identity | None, tree: Tree) -> Node:
    node = tree.node_at(path)
    if known is None:
        if node is None:
            raise SourceGoneError(f"{path} is not there{_others(tree)}")
        return node
    return node if node is not None and node.identity == known else _find_known(known, node, tree)


def _find_known(known: Identity, at_path: Node | None, tree: Tree) -> Node:
    found = [node for node in tree.nodes() if known.same_camera(node.identity)]
    if len(found) > 1:
        # Some makers print one serial number on all their cameras: then the port decides.
        found = [node for node in found if node.identity == known] or found
    # While a camera is being pulled, its file outlives its entry in sysfs for a moment: that is no other camera.
    other = at_path if at_path is not None and not at_path.identity.path else None
    instead = f"; {other} is another camera, {other.identity}" if other is not None else ""
    return _only_one(found, f"the camera {known} ({known.card}) is gone{instead}", tree)


def _only_one(found: list[Node], none: str, tree: Tree) -> Node:
    if len(found) == 1:
        return found[0]
    if not found:
        raise SourceGoneError(f"{none}{_others(tree)}")
    names = ", ".join(f"{node} {node.identity} at {node.identity.port or node.identity.bus}" for node in found)
    raise SourceGoneError(f"{len(found)} cameras match: {names}; name one by serial number or port (usb=...@port)")


def _first_nodes(found: list[Node]) -> list[Node]:
    first: dict[tuple[str, ...], Node] = {}
    for node in found:
        identity = node.identity
        first.setdefault((identity.vendor, identity.product, identity.port, identity.bus, identity.serial), node)
    return list(first.values())


def _others(tree: Tree) -> str:
    names = ", ".join(f"{node} {node.identity}" for node in tree.nodes())
    return f"; found: {names}" if names else "; no camera found at all"


def _matcher(location: str) -> Callable[[Identity], bool]:
    if location.startswith("bus="):
        return lambda identity: location in {str(identity), f"bus={identity.bus}"}
    if "#" in location:
        return lambda identity: str(identity) == location
    match = _USB.fullmatch(location)
    if match is None:
        raise SettingsError(
            "source",
            f"v4l2:{location} names no camera; use /dev/v4l/by-id/..., usb=vendor:product[:serial][@port] or bus=...",
        )
    vendor, product, serial, port = match[1].lower(), match[2].lower(), match[3], match[4]
    return lambda identity: (
        (identity.vendor, identity.product) == (vendor, product)
        and (serial is None or identity.serial == serial)
        and (port is None or identity.port == port)
    )


def _device_number(path: Path) -> str | None:
    try:
        status = path.stat()
    except OSError:
        return None
    if not stat.S_ISCHR(status.st_mode):
        return None
    return f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}"


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
