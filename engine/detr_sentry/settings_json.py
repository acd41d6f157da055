"""`schemas/settings.schema.json`: the JSON Schema of `sentry.yaml`, made from the schema that validates it.

`python -m detr_sentry.settings_json` writes the file, with `--check` it only says whether the file is fresh.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from detr_sentry import _settings_schema as schema
from detr_sentry.settings import CameraSettings, Settings, describe

FILE = Path(__file__).resolve().parents[2] / "schemas" / "settings.schema.json"

_SHARE = {"type": "number", "minimum": 0, "maximum": 1}
_TEXT = {"type": "string", "minLength": 1}
_FORMS: dict[Any, dict[str, Any]] = {
    schema.flag: {"type": "boolean"},
    schema.text: _TEXT,
    schema.secret: {**_TEXT, "writeOnly": True},
    schema.topic_prefix: {"type": "string", "pattern": "^[^+#$/][^+#/]*(/[^+#/]+)*$", "maxLength": schema.MAX_PREFIX},
    schema.path: _TEXT,
    schema.mirror: _TEXT,
    schema.identifier: {"type": "string", "pattern": f"^{schema.ID_PATTERN.pattern}$"},
    schema.web_address: {"type": "string", "pattern": "^https?://"},
    schema.texts: {"type": "array", "items": _TEXT},
    schema.zones: {
        "type": "array",
        "maxItems": schema.MAX_ZONES,
        "items": {
            "type": "object",
            "required": ["name", "points"],
            "additionalProperties": False,
            "properties": {
                "name": _TEXT,
                "points": {
                    "type": "array",
                    "minItems": 3,
                    "items": {"type": "array", "items": _SHARE, "minItems": 2, "maxItems": 2},
                },
            },
        },
    },
}


def json_schema() -> dict[str, Any]:
    """The whole document, with defaults where they do not depend on the machine."""
    camera = Settings(cameras={"door": CameraSettings(id="door", source="demo:")})
    defaults = {key: entry["value"] for key, entry in describe(camera).items()}
    for key in ("state_dir", "cameras.door.source", "cameras.door.name"):
        defaults.pop(key)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "DETR Sentry settings (sentry.yaml)",
        **_form(schema.SCHEMA, "", defaults),
    }


def _form(node: Any, path: str, defaults: dict[str, Any]) -> dict[str, Any]:
    if isinstance(node, dict):
        named = {key: value for key, value in node.items() if isinstance(key, str)}
        form: dict[str, Any] = {"type": "object", "additionalProperties": False}
        for key, value in node.items():
            if key is schema.identifier:
                form["propertyNames"] = _FORMS[schema.identifier]
            if not isinstance(key, str):
                below = f"{path}door."
                form["additionalProperties"] = _form(value, below, defaults)
        if named:
            form["properties"] = {key: _form(value, f"{path}{key}.", defaults) for key, value in named.items()}
        if path == "cameras.door.":
            form["required"] = ["source"]
        return form
    if isinstance(node, schema.Number):
        form = {"type": "integer" if node.whole else "number", "minimum": node.low, "maximum": node.high}
    elif isinstance(node, schema.Choice):
        form = {"enum": list(node.allowed)}
    else:
        form = dict(_FORMS[node])
    key = path.removesuffix(".")
    value = defaults.get(key, defaults.get(f"cameras.door.{key}"))
    return form if value is None else {**form, "default": value}


def main(arguments: list[str]) -> int:
    """Write or check the file; status 1 if it is stale."""
    text = json.dumps(json_schema(), indent=2) + "\n"
    if "--check" not in arguments:
        FILE.write_text(text, encoding="utf-8")
        return 0
    fresh = FILE.is_file() and FILE.read_text(encoding="utf-8") == text
    if not fresh:
        print(f"{FILE} is stale: run make schemas", file=sys.stderr)
    return int(not fresh)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
