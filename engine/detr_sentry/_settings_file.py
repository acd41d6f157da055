"""`sentry.yaml` on disk: read it, change it and keep its comments, replace it atomically."""

from __future__ import annotations

import contextlib
import os
import tempfile
from typing import TYPE_CHECKING, Any

from detr_sentry.errors import SettingsError, StorageError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

MAX_BYTES = 1 << 20  # a settings file of more than 1 MiB is something else


def _load(file: Path, kind: str) -> Any:
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        if file.stat().st_size > MAX_BYTES:
            raise SettingsError("", f"is larger than {MAX_BYTES} bytes", str(file))
        text = file.read_text(encoding="utf-8")
        return YAML(typ=kind).load(text)
    except OSError as error:
        raise SettingsError("", f"cannot be read: {error.strerror}", str(file)) from error
    except UnicodeDecodeError as error:
        raise SettingsError("", f"is not UTF-8 text (byte {error.start})", str(file)) from error
    except YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise SettingsError("", f"is not YAML: {line}{getattr(error, 'problem', error)}", str(file)) from error


def read_yaml(file: Path) -> dict[str, Any]:
    """The file as a mapping; an empty file is an empty mapping. Raises SettingsError naming the file and the line."""
    tree = _load(file, "safe")
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise SettingsError("", "must hold a mapping of settings", str(file))
    return tree


def update_yaml(file: Path, changes: Mapping[str, Any]) -> None:
    """Lay `changes` (nested; None removes a key) on the file and replace it atomically, keeping comments and order.

    Raises SettingsError if the file is not YAML and StorageError if it cannot be written; the old file then stays.
    """
    from ruamel.yaml import YAML

    tree = _load(file, "rt") if file.exists() else None
    comments = file.read_text(encoding="utf-8") if tree is None and file.exists() else ""
    tree = tree or {}
    _apply(tree, changes)
    writer = YAML(typ="rt")
    writer.width = 120
    temporary = ""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(
            "w", dir=file.parent, prefix=f".{file.name}.", delete=False, encoding="utf-8"
        ) as out:
            temporary = out.name
            out.write(comments if not comments or comments.endswith("\n") else f"{comments}\n")
            writer.dump(tree, out)
            out.flush()
            os.fsync(out.fileno())
        os.replace(temporary, file)
    except OSError as error:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise StorageError(f"{file}: the settings could not be stored: {error.strerror}") from error


def _apply(tree: Any, changes: Mapping[str, Any]) -> None:
    for key, value in changes.items():
        if value is None:
            tree.pop(key, None)
        elif isinstance(value, dict):
            if not isinstance(tree.get(key), dict):
                tree[key] = {}
            _apply(tree[key], value)
        else:
            tree[key] = value
