"""Lines and limits of the control socket, for both sides."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

from detr_sentry.errors import IpcError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

MAX_LINE_BYTES = 64 * 1024  # of a request; an answer may be larger, its size is the server's own choice
MAX_ANSWER_BYTES = 4 * 1024 * 1024  # 500 events of a few hundred bytes fit many times
MAX_CLIENTS = 32
MAX_EVENTS = 64
SEND_TIMEOUT_S = 5.0
_PATH_LIMIT = 107  # sockaddr_un: 108 bytes with the closing zero


def encode(message: Mapping[str, Any]) -> bytes:
    """One line. Raises ValueError for what JSON cannot say, NaN included."""
    return json.dumps(message, separators=(",", ":"), allow_nan=False).encode() + b"\n"


def check_path(path: Path) -> None:
    """Raises IpcError where the path does not fit a socket address."""
    if len(os.fsencode(path)) > _PATH_LIMIT:
        raise IpcError(f"{path}: a socket's path has at most {_PATH_LIMIT} bytes; choose a shorter shm_root")
