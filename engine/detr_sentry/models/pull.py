"""Pulling a catalogue model onto this machine, from where it is published or from a mirror."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from detr_sentry.errors import ModelError, StorageError
from detr_sentry.models.fetch import copy, fetch, sha256_of
from detr_sentry.models.resolve import absent
from detr_sentry.models.store import part_path, pulled_path

if TYPE_CHECKING:
    from detr_sentry.models.catalog import CatalogEntry
    from detr_sentry.models.fetch import FetchLimits
    from detr_sentry.models.progress import Progress


def is_here(entry: CatalogEntry, cache: Path) -> bool:
    """Whether the entry's very file was pulled already."""
    place = pulled_path(entry.name, cache)
    return place.is_file() and sha256_of(place) == entry.sha256


def address_of(entry: CatalogEntry, mirror: str | None) -> str | Path:
    """Where the file comes from: its own URL, or `NAME.onnx` under the mirror. Raises ModelError if there is none."""
    if entry.url is None:
        raise absent(entry) if entry.export else ModelError(f"model {entry.name} comes with the engine")
    if mirror is None:
        return entry.url
    if "://" in mirror:
        return f"{mirror.rstrip('/')}/{quote(entry.name)}.onnx"
    return Path(mirror) / f"{entry.name}.onnx"


def pull(
    entry: CatalogEntry,
    cache: Path,
    *,
    progress: Progress,
    mirror: str | None = None,
    limits: FetchLimits | None = None,
) -> Path:
    """Fetches the file of a catalogue entry, which appears whole and checked or not at all; returns where it lies.

    Raises ModelError (unreachable, refused), ModelRefusedError (wrong bytes, removed) and StorageError.
    """
    source = address_of(entry, mirror)
    part, place = part_path(entry, cache), pulled_path(entry.name, cache)
    size, sha256 = entry.bytes or 0, entry.sha256 or ""
    if isinstance(source, Path):
        copy(source, part, size=size, sha256=sha256, progress=progress)
    else:
        fetch(source, part, size=size, sha256=sha256, progress=progress, limits=limits)
    try:
        part.replace(place)
    except OSError as error:
        raise StorageError(f"{place}: cannot be written: {error.strerror}") from error
    return place
