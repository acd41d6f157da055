"""The capture service: one process per camera that takes frames at the asked rate and publishes them."""

from __future__ import annotations

import contextlib
import gc
import logging
import signal
from typing import TYPE_CHECKING

from detr_sentry.capture.loop import Capture, Stop
from detr_sentry.errors import SentryError, SettingsError

if TYPE_CHECKING:
    from detr_sentry.settings import Settings

EXIT_FAILED, EXIT_REFUSED = 1, 2

log = logging.getLogger("detr_sentry.capture")


def run(settings: Settings, camera_id: str) -> int:
    """Serve until SIGTERM or SIGINT. Returns 0, 1 where shared memory failed, 2 where the settings cannot work."""
    with contextlib.ExitStack() as cleanup:
        stop = Stop()
        cleanup.callback(stop.close)
        for number in (signal.SIGTERM, signal.SIGINT):
            cleanup.callback(signal.signal, number, signal.signal(number, lambda *_: stop.ask()))
        try:
            capture = Capture(settings, camera_id, stop)
            cleanup.callback(capture.close)
            gc.collect()
            gc.freeze()
            capture.serve()
        except SettingsError as error:
            log.error("%s", error)  # noqa: TRY400 - the message says it all
            return EXIT_REFUSED
        except SentryError as error:
            log.error("%s", error)  # noqa: TRY400
            return EXIT_FAILED
    return 0
