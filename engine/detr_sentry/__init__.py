"""DETR Sentry: a person-detecting sentry camera for Home Assistant and the edge."""

from __future__ import annotations

__version__ = "0.1.0"
