"""Single pictures: the newest frame, or the frame of the newest detections with its boxes drawn in."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from detr_sentry.errors import BadFrameError

from .pictures import boxed_jpeg, full_jpeg
from .problems import ProblemError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .detections import Detection
    from .feed import CameraFeed
    from .gateway import Gateway
    from .pictures import Picture

# In standby a frame comes every third of a second and is looked at within another; longer waits mean that nobody looks.
_MATCH_S = 1.0
_LOOK_S = 0.02
# A camera whose newest frame is older than this does not show what is there now.
MAX_AGE_S = 10.0


class Snapshots:
    """Makes snapshots for the API. `shared` pictures with boxes are drawn once however many ask at the same time."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._drawing: dict[str, asyncio.Task[bytes]] = {}

    async def plain(self, feed: CameraFeed) -> bytes:
        """The newest frame as a JPEG. Raises ProblemError 503 if there is none."""
        return await self._encode(self._newest(feed), ())

    async def boxed(self, feed: CameraFeed) -> bytes:
        """The frame of the newest detections, with boxes; without fresh detections the newest frame as it is."""
        task = self._drawing.get(feed.camera)
        if task is None:
            task = asyncio.get_running_loop().create_task(self._draw(feed))
            self._drawing[feed.camera] = task
            task.add_done_callback(lambda _task: self._drawing.pop(feed.camera, None))
        return await asyncio.shield(task)

    async def _draw(self, feed: CameraFeed) -> bytes:
        picture, detections = await self._match(feed)
        # Weaker ones neither start nor keep an alarm: in a picture for people they would only look like mistakes.
        least = self._gateway.settings.cameras[feed.camera].sentry.stay_threshold
        return await self._encode(picture, [box for box in (detections or ()) if box["confidence"] >= least])

    async def _match(self, feed: CameraFeed) -> tuple[Picture, Sequence[Detection] | None]:
        """A frame and the detections made of it, or the newest frame and None."""
        loop = asyncio.get_running_loop()
        with feed.keep_history() as history:
            # The frame looked at last has usually left the ring, so those from now on are kept until one was looked at.
            newest = self._newest(feed)
            kept = {newest.info.identity: newest}
            until = loop.time() + _MATCH_S
            while not feed.off:
                detections = feed.detections
                if detections is None or not detections.fresh(feed.now_ns()):
                    break
                found = _find(detections.identity, history, kept)
                if found is not None:
                    return found, detections.found
                if loop.time() >= until:
                    break
                await asyncio.sleep(_LOOK_S)
        return self._newest(feed), None

    def _newest(self, feed: CameraFeed) -> Picture:
        picture = feed.read_newest()
        if feed.off:
            raise ProblemError(409, "camera_off", "the camera is off by its mode: set another mode to see it")
        if picture is None:
            raise ProblemError(503, "no_frame", "the camera has not delivered a frame", headers={"Retry-After": "1"})
        age_s = (feed.now_ns() - picture.info.captured_monotonic_ns) / 1e9
        if age_s > MAX_AGE_S:
            raise ProblemError(503, "stale_frame", f"the newest frame is {age_s:.0f} s old: the camera has stopped")
        return picture

    async def _encode(self, picture: Picture, boxes: Sequence[Detection]) -> bytes:
        gateway = self._gateway
        loop = asyncio.get_running_loop()
        try:
            if boxes:
                jpeg = await loop.run_in_executor(gateway.pool, boxed_jpeg, picture, boxes)
            elif picture.is_jpeg:
                return full_jpeg(picture)
            else:
                jpeg = await loop.run_in_executor(gateway.pool, full_jpeg, picture)
        except BadFrameError as error:
            gateway.counters.bad_frames += 1
            raise ProblemError(
                503, "bad_frame", "the camera delivered a broken frame", headers={"Retry-After": "1"}
            ) from error
        gateway.counters.encoded += 1
        return jpeg


def _find(
    identity: tuple[int, int], history: Mapping[tuple[int, int], Picture], kept: Mapping[tuple[int, int], Picture]
) -> Picture | None:
    return history.get(identity) or kept.get(identity)
