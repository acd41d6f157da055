"""What an instance leaves in shared memory, and its removal when nothing of it runs any more."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from detr_sentry.errors import IpcError
from detr_sentry.ipc.bells import Bell

if TYPE_CHECKING:
    from detr_sentry.ipc.layout import Layout


def clean(layout: Layout) -> list[str]:
    """Remove what an instance leaves in shared memory: its folder and its message queues. Returns what was removed.

    Only for an instance of which nothing runs any more.
    """
    removed = [name for name in bells_of(layout) if _unlink(name)]
    if layout.base.is_dir():
        shutil.rmtree(layout.base, ignore_errors=True)
        removed.append(str(layout.base))
    return removed


def bells_of(layout: Layout) -> list[str]:
    """The message queues that services of this instance may have made."""
    names = [layout.bell(service) for service in ("inference", "controller", "gateway")]
    cameras = [path for path in layout.base.iterdir() if path.is_dir()] if layout.base.is_dir() else []
    return names + [layout.bell("capture", path.name) for path in cameras if path.name != "heartbeat"]


def _unlink(name: str) -> bool:
    try:
        return bool(Bell.unlink(name))
    except (IpcError, OSError):
        return False
