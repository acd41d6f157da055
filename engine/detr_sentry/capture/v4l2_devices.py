"""The cameras of this machine, for people: what `doctor` prints and the page's assistant offers."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from detr_sentry.capture.v4l2_failures import explain
from detr_sentry.capture.v4l2_formats import Offer, enumerate_offers, query_capability
from detr_sentry.capture.v4l2_identity import Node, Tree

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """A camera. `problem` says why it could not be asked, else it is None.

    `offers` are its formats and sizes; size 0x0 marks a format that the engine does not take.
    """

    path: Path
    card: str
    driver: str
    identity: str
    offers: tuple[Offer, ...] = ()
    problem: str | None = None

    @property
    def source(self) -> str:
        """The value for `cameras.<id>.source` that finds this camera again, also after it was renumbered."""
        return self.identity if self.identity.startswith("/") else f"v4l2:{self.identity}"


def list_devices(tree: Tree | None = None) -> list[Device]:
    """All capture devices, in the order of their numbers; each is opened for a moment. Never raises."""
    return [device for node in (tree or Tree()).nodes() if (device := _ask(node)) is not None]


def _ask(node: Node) -> Device | None:
    """What the device says of itself; None if it captures no video (metadata, outputs)."""
    identity = str(node.identity)
    try:
        fd = os.open(node.path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            capability = query_capability(fd)
            if not capability.captures:
                return None
            offers = tuple(enumerate_offers(fd))
        finally:
            os.close(fd)
    except OSError as error:
        problem = str(explain(error, node.path))
        return Device(path=node.path, card=node.identity.card, driver="", identity=identity, problem=problem)
    return Device(path=node.path, card=capability.card, driver=capability.driver, identity=identity, offers=offers)
