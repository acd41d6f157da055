"""The catalogue of models that are known by name (models/catalog.toml)."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detr_sentry.errors import ModelError
from detr_sentry.models.graph import MAX_FILE_BYTES

if TYPE_CHECKING:
    from collections.abc import Mapping

PLACES = (Path(__file__).parent, Path(__file__).parents[3] / "models")
"""Where the catalogue and the embedded detector lie: in an installed package, and in the repository."""


NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,47}")
"""Names of models, which are also the names of their files."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogEntry:
    """A model that the project knows. `ap` values are the publisher's, on COCO val2017, 0..100; None: not published.

    `url` is None for what comes with the engine or is exported; `sha256` is of the file at `url`, `bytes` its size.
    `export` names the class of the `rfdetr` package whose own weights become the model (`models export`), `checkpoint`
    where these weights are published.
    """

    name: str
    title: str
    adapter: str
    licence: str
    source: str
    input: tuple[int, int]
    url: str | None = None
    sha256: str | None = None
    bytes: int | None = None
    export: str | None = None
    checkpoint: str | None = None
    ap: float | None = None
    ap50: float | None = None
    note: str = ""


def read_catalog(path: Path | None = None) -> dict[str, CatalogEntry]:
    """The catalogue by name. Raises ModelError, naming the file and entry, if it is not well formed."""
    path = path or next((place / "catalog.toml" for place in PLACES if (place / "catalog.toml").is_file()), None)
    if path is None:
        raise ModelError("the model catalogue is missing from this installation")
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8")).get("model", [])
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise ModelError(f"{path}: {error}") from error
    entries = [_entry(table, path) for table in tables]
    names = [entry.name for entry in entries]
    if len(set(names)) != len(names):
        raise ModelError(f"{path}: a name occurs twice among {', '.join(names)}")
    return {entry.name: entry for entry in entries}


def _entry(table: Mapping[str, Any], path: Path) -> CatalogEntry:
    where = f"{path}: model {table.get('name', '?')!r}"
    try:
        width, height = table["input"]
        entry = CatalogEntry(**{**table, "input": (int(width), int(height))})
    except (TypeError, ValueError, KeyError) as error:
        raise ModelError(f"{where}: {error}") from error
    if not NAME.fullmatch(entry.name):
        raise ModelError(f"{where}: a name is 1 to 48 of a-z, 0-9, -, _ and .")
    if entry.url is not None and not (
        entry.url.startswith("https://")
        and re.fullmatch("[0-9a-f]{64}", str(entry.sha256))
        and isinstance(entry.bytes, int)
        and 0 < entry.bytes <= MAX_FILE_BYTES
    ):
        raise ModelError(f"{where}: needs an https URL and the sha256 and bytes of the file there")
    return entry
