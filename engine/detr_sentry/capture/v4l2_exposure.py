"""Exposure of V4L2 cameras: automatic by aperture priority with a longest time, so that people who move stay sharp.

Cameras have some of these controls or none; what is absent, inactive or refused is left alone and logged at debug
level. Source: the kernel's V4L2 documentation, Camera Control Reference; exposure times are in units of 100 us.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from linuxpy.ioctl import ioctl
from linuxpy.video import raw

if TYPE_CHECKING:
    from detr_sentry.settings import ExposureSettings

log = logging.getLogger("detr_sentry.capture")

_UNITS_PER_MS = 10
_UNUSABLE = raw.ControlFlag.DISABLED | raw.ControlFlag.READ_ONLY | raw.ControlFlag.INACTIVE | raw.ControlFlag.GRABBED
_ID = raw.ControlID
_AUTO = raw.ExposureAutoType


def apply_exposure(fd: int, settings: ExposureSettings, frame_interval_ms: float) -> dict[str, int]:
    """Set what the camera has of the exposure controls. Returns what was set, by control name; empty in mode `camera`.

    `frame_interval_ms` is the time between two frames; 0.0 if unknown.
    """
    if settings.mode == "camera":
        return {}
    wanted = (
        (_ID.EXPOSURE_AUTO, (_AUTO.APERTURE_PRIORITY, _AUTO.AUTO)),
        # Off: the camera may not lengthen the exposure beyond a frame. On only where the limit allows for that.
        (_ID.EXPOSURE_AUTO_PRIORITY, (int(0.0 < frame_interval_ms < settings.limit_ms / 1.05),)),
        # In automatic modes most cameras lock this one (INACTIVE); those that do not take it as the longest time.
        (_ID.EXPOSURE_ABSOLUTE, (round(settings.limit_ms * _UNITS_PER_MS),)),
    )
    applied = {}
    for control, values in wanted:
        value = _set_first(fd, control, values)
        if value is not None:
            applied[control.name.lower()] = value
    return applied


def _set_first(fd: int, control: Any, values: tuple[int, ...]) -> int | None:
    """Set the first of `values` that the control has; the value set, or None."""
    query = raw.v4l2_queryctrl()
    query.id = control
    try:
        ioctl(fd, raw.IOC.QUERYCTRL, query)
    except OSError as error:
        log.debug("camera has no control %s: %s", control.name, error)
        return None
    if query.flags & _UNUSABLE:
        log.debug("camera's control %s cannot be set now (flags %#x)", control.name, query.flags)
        return None
    for value in values:
        within = min(max(int(value), int(query.minimum)), int(query.maximum))
        try:
            ioctl(fd, raw.IOC.S_CTRL, raw.v4l2_control(control, within))
        except OSError as error:
            log.debug("camera refused %s = %d: %s", control.name, within, error)
            continue
        return within
    return None
