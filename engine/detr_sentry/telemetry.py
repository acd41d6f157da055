"""How the services log: one line per event, for people or as JSON, on standard error."""

from __future__ import annotations

import json
import logging
import sys
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from detr_sentry.settings import LogSettings

COLOURS = {"WARNING": "\033[33m", "ERROR": "\033[31m", "CRITICAL": "\033[31m", "DEBUG": "\033[2m"}
RESET = "\033[0m"


class HumanFormatter(logging.Formatter):
    """`12:34:56 capture.door  WARNING  text`; coloured on a terminal."""

    def __init__(self, service: str, *, colour: bool) -> None:
        super().__init__()
        self._service = service
        self._colour = colour

    def format(self, record: logging.LogRecord) -> str:
        """One line, more only for a traceback."""
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        level = "" if record.levelno == logging.INFO else f"{record.levelname}  "
        text = f"{clock} {self._service:<14} {level}{record.getMessage()}"
        if record.exc_info:
            text += "\n" + self.formatException(record.exc_info)
        colour = COLOURS.get(record.levelname, "") if self._colour else ""
        return f"{colour}{text}{RESET}" if colour else text


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time (RFC 3339 UTC), level, service, logger, message, exception."""

    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        """A line without raw control characters, whatever the message holds."""
        entry = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "service": self._service,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=False)


def configure_logging(settings: LogSettings, service: str) -> None:
    """Send this process's log to standard error. `service` (`capture.door`, `inference`) may have its own level."""
    handler = logging.StreamHandler(sys.stderr)
    if settings.format == "json":
        handler.setFormatter(JsonFormatter(service))
    else:
        handler.setFormatter(HumanFormatter(service, colour=sys.stderr.isatty()))
    level = settings.services.get(service) or settings.services.get(service.split(".", maxsplit=1)[0]) or settings.level
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("detr_sentry").setLevel(level.upper())
