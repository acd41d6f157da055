"""Settings are shown without their secrets, so what comes back without them must not erase them."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from detr_sentry.settings import flatten, shown
from detr_sentry.source_url import HIDDEN

from .problems import ProblemError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from detr_sentry.settings import Settings


def keep_secrets(changes: Mapping[str, Any], stored: Settings) -> dict[str, Any]:
    """`changes` (nested) without the values that are what is stored, as shown: they were not changed.

    Raises ProblemError 422 for another value in which something stands for a secret.
    """
    hidden = {
        key: shown(key, value)
        for key, value in flatten(dataclasses.asdict(stored)).items()
        if isinstance(value, str) and shown(key, value) != value
    }
    return _keep(changes, hidden, "")


def _keep(changes: Mapping[str, Any], hidden: Mapping[str, str], prefix: str) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    for name, value in changes.items():
        key = f"{prefix}{name}"
        if isinstance(value, dict):
            kept[name] = _keep(value, hidden, f"{key}.")
        elif isinstance(value, str) and hidden.get(key) == value:
            continue
        elif isinstance(value, str) and HIDDEN in value:
            text = f"{key}: {HIDDEN} stands for a secret: send the secret, or leave the key out"
            raise ProblemError(422, "bad_setting", text, key=key)
        else:
            kept[name] = value
    return kept
