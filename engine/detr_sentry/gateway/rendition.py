"""One JPEG form of a camera's pictures, made only while someone waits for it, and shared by everyone who does."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Self

from detr_sentry.errors import BadFrameError

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Executor

    from .counters import Counters
    from .pictures import FrameInfo, Picture

log = logging.getLogger("detr_sentry.gateway")

# A kept JPEG older than this is not handed out while a newer one is in the encoder.
_STALE_NS = 500_000_000


class Watcher:
    """One viewer of a rendition; use as a context manager.

    `waiting` says that the viewer could take a frame now: only then frames are copied and encoded for it. `event` is
    set whenever there is something new to look at.
    """

    def __init__(self, rendition: Rendition) -> None:
        self._rendition = rendition
        self.event = asyncio.Event()
        self.waiting = False

    def __enter__(self) -> Self:
        self._rendition.watchers.add(self)
        return self

    def __exit__(self, *_: object) -> None:
        self._rendition.leave(self)


class Rendition:
    """The newest JPEG of one form and the stream packet built of it.

    `convert` turns a picture into a JPEG and runs in `pool`; `free(info)` says that it costs nothing and is done on the
    spot. `describe(info, width, jpeg)` builds the packet, once for all viewers; `width` is the form's, None for the
    source's. `refresh` has the newest frame offered: it is called when a viewer begins to wait and when the encoder has
    room again.
    """

    def __init__(
        self,
        *,
        width: int | None,
        convert: Callable[[Picture], bytes],
        free: Callable[[FrameInfo], bool],
        describe: Callable[[FrameInfo, int | None, bytes], bytes],
        refresh: Callable[[], None],
        pool: Executor,
        counters: Counters,
    ) -> None:
        self._width = width
        self._convert = convert
        self._free = free
        self._describe = describe
        self._refresh = refresh
        self._pool = pool
        self._counters = counters
        self._task: asyncio.Task[None] | None = None
        self._offered: tuple[int, int] | None = None
        self.watchers: set[Watcher] = set()
        self.info: FrameInfo | None = None
        self.jpeg = b""
        self.packet = b""

    def watch(self) -> Watcher:
        """A viewer of this form, from `with` to the end of its block."""
        return Watcher(self)

    def leave(self, watcher: Watcher) -> None:
        """Count a viewer out. After the last one nothing is kept."""
        self.watchers.discard(watcher)
        if not self.watchers:
            self.forget()

    def wants(self, key: tuple[int, int]) -> bool:
        """Whether this frame should be offered: someone waits, it is new, and the encoder has room."""
        return self._task is None and self._offered != key and any(watcher.waiting for watcher in self.watchers)

    def offer(self, picture: Picture) -> None:
        """Take a picture that `wants` asked for."""
        self._offered = picture.info.key
        if self._free(picture.info):
            try:
                self._publish(picture.info, self._convert(picture))
            except BadFrameError as error:
                self._drop(picture, error)
        else:
            self._task = asyncio.get_running_loop().create_task(self._encode(picture))

    def newest(self, watcher: Watcher, sent: tuple[int, int] | None, now_ns: int) -> FrameInfo | None:
        """The frame to send to a viewer that can take one and has had `sent`; None means wait for the watcher's event.

        The JPEG and packet are then those of this frame. While it is None the viewer counts as waiting.
        """
        watcher.waiting = True
        self._refresh()
        info = self.info
        if info is None or info.key == sent:
            return None
        if self._task is not None and now_ns - info.captured_monotonic_ns > _STALE_NS:
            return None
        watcher.waiting = False
        return info

    def wake(self) -> None:
        """Tell every viewer to look again."""
        for watcher in self.watchers:
            watcher.event.set()

    def forget(self) -> None:
        """Drop the pictures that are kept; one in the encoder is thrown away when it comes out."""
        self.info, self.jpeg, self.packet, self._offered = None, b"", b"", None

    async def close(self) -> None:
        """Wait for a conversion that still runs."""
        if self._task is not None:
            await asyncio.wait([self._task])

    async def _encode(self, picture: Picture) -> None:
        try:
            jpeg = await asyncio.get_running_loop().run_in_executor(self._pool, self._convert, picture)
        except BadFrameError as error:
            self._drop(picture, error)
        else:
            self._counters.encoded += 1
            if self._offered == picture.info.key:
                self._publish(picture.info, jpeg)
        finally:
            self._task = None
        self._refresh()

    def _drop(self, picture: Picture, error: BadFrameError) -> None:
        self._counters.bad_frames += 1
        log.debug("frame %d was not shown: %s", picture.info.frame_number, error)

    def _publish(self, info: FrameInfo, jpeg: bytes) -> None:
        self.info, self.jpeg, self.packet = info, jpeg, self._describe(info, self._width, jpeg)
        self.wake()
