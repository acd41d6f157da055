"""What MQTT shows of a camera's frames: the frame of the newest detections with its boxes, and the boxes as JSON.

Reads the rings in the event loop, which takes microseconds, and makes pictures in a worker thread, one at a time.
"""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detr_sentry.controller import payloads
from detr_sentry.controller.announcer import Announcer
from detr_sentry.controller.drawing import draw
from detr_sentry.controller.outbox import Message
from detr_sentry.controller.snapshot import encode_picture, take_picture
from detr_sentry.errors import BadFrameError, CorruptMessageError
from detr_sentry.ipc.messages import DetectionsView
from detr_sentry.ipc.ring import RingReader
from detr_sentry.sentry.events import Best
from detr_sentry.sentry.rules import PERSON_CLASS_ID, Box

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from detr_sentry.controller.snapshot import Picture
    from detr_sentry.controller.topics import CameraTopics
    from detr_sentry.ipc.layout import Layout

_log = logging.getLogger("detr_sentry.controller")


class Watcher:
    """Owns a camera's announcer and its readers of the rings. `put` takes what is to be sent."""

    def __init__(
        self,
        camera: str,
        topics: CameraTopics,
        layout: Layout,
        *,
        stay_threshold: float,
        detections: bool,
        put: Callable[[Message], None],
    ) -> None:
        self.camera = camera
        self.announcer = Announcer(topics)
        self.unshown = 0
        self._topics = topics
        self._stay_threshold = stay_threshold
        self._wants_detections = detections
        self._put = put
        self._detections = RingReader(layout.stream(camera, "detections"))
        self._frames = RingReader(layout.stream(camera, "frames"))
        self._drawing: asyncio.Task[None] | None = None

    def look(self, now_s: float) -> None:
        """New detections are there: show what is due."""
        boxes_due = self._wants_detections and self.announcer.detections_are_due(now_s)
        idle = self._drawing is None or self._drawing.done()
        if not (boxes_due or (idle and self.announcer.snapshot_is_due(now_s))):
            return
        try:
            lease = self._detections.acquire()
            if lease is None:
                return
            with lease:
                view = DetectionsView(lease)
            if boxes_due:
                self._put(Message(topic=self._topics.detections, payload=payloads.detections(view), retain=False))
                if not (idle and self.announcer.snapshot_is_due(now_s)):
                    return
            boxes = self._persons(view)
            picture = take_picture(self._frames, _frame_of(view))
        except CorruptMessageError as error:
            self._cannot(error)
            return
        if picture is not None:
            self._drawing = asyncio.get_running_loop().create_task(self._show(picture, boxes))

    def _persons(self, view: DetectionsView) -> list[Box]:
        rows = view.detections
        rows = rows[(rows["class_id"] == PERSON_CLASS_ID) & (rows["confidence"] >= self._stay_threshold)]
        return [Box(*row) for row in rows[["x1", "y1", "x2", "y2", "confidence", "class_id"]].tolist()]

    async def _show(self, picture: Picture, boxes: list[Box]) -> None:
        try:
            jpeg = await asyncio.to_thread(_draw_picture, picture, boxes)
        except BadFrameError as error:
            self._cannot(error)
            return
        if self.announcer.state != "off":  # switched off meanwhile: what it saw last is private
            self._put(Message(topic=self._topics.snapshot, payload=jpeg))

    async def show_alarm(self, report: Mapping[str, Any]) -> None:
        """Send the stored picture of an alarm, `report.event_report`, with its box."""
        try:
            jpeg = await asyncio.to_thread(_draw_stored, report)
        except (OSError, BadFrameError) as error:  # pruned meanwhile, or no picture
            self._cannot(error)
            return
        self._put(Message(topic=self._topics.last_alarm, payload=jpeg))

    def _cannot(self, error: Exception) -> None:
        self.unshown += 1
        level = logging.WARNING if self.unshown == 1 else logging.DEBUG
        _log.log(level, "%s: a picture cannot be shown by MQTT: %s", self.camera, error)

    async def close(self) -> None:
        """Let go of the rings; a later `look` opens them again."""
        if self._drawing is not None:
            self._drawing.cancel()
            await asyncio.gather(self._drawing, return_exceptions=True)
        self._detections.close()
        self._frames.close()


def _frame_of(view: DetectionsView) -> Best:
    nowhere = Box(0.0, 0.0, 0.0, 0.0, 0.0)
    return Best(
        capture_epoch=view.capture_epoch,
        frame_number=view.frame_number,
        timestamp_ns=view.timestamp_ns,
        box=nowhere,
        width=view.width,
        height=view.height,
        merit=0.0,
    )


def _draw_picture(picture: Picture, boxes: list[Box]) -> bytes:
    return draw(encode_picture(picture), boxes, width=picture.width, height=picture.height)


def _draw_stored(report: Mapping[str, Any]) -> bytes:
    jpeg = Path(report["snapshot_path"]).read_bytes()
    boxes = []
    if report["box"]:
        x1, y1, x2, y2 = report["box"]
        boxes.append(Box(x1, y1, x2, y2, report["confidence"]))
    return draw(jpeg, boxes, width=report["width"], height=report["height"])
