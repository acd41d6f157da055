"""The page: every file of `gateway/web`, read once at start, so that no request's path ever reaches a file system."""

from __future__ import annotations

import hashlib
import mimetypes
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING

from aiohttp import web

from .problems import ProblemError

if TYPE_CHECKING:
    from collections.abc import Mapping

INDEX = "index.html"
PAGE_CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
    "font-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
)
# mimetypes asks the machine's tables, which differ; these are what browsers insist on under nosniff.
_TYPES = {
    ".html": "text/html",
    ".js": "text/javascript",
    ".css": "text/css",
    ".svg": "image/svg+xml",
    ".json": "application/json",
    ".webmanifest": "application/manifest+json",
    ".woff2": "font/woff2",
    ".png": "image/png",
    ".ico": "image/x-icon",
}
_TEXTS = frozenset({"text/html", "text/javascript", "text/css"})


@dataclass(frozen=True, slots=True, kw_only=True)
class StaticFile:
    """One file of the page, ready to be sent."""

    body: bytes
    content_type: str
    etag: str


def load_page() -> Mapping[str, StaticFile]:
    """The files of `gateway/web` by name; folders are not part of the page."""
    folder = resources.files("detr_sentry.gateway") / "web"
    return {
        entry.name: _load(entry.name, entry.read_bytes())
        for entry in folder.iterdir()
        if entry.is_file() and not entry.name.startswith((".", "_"))
    }


def load_schema(name: str) -> bytes:
    """A file of `schemas/`: inside the installed package, or beside it in a checkout."""
    packaged = resources.files("detr_sentry") / "schemas" / name
    if packaged.is_file():
        return packaged.read_bytes()
    from pathlib import Path

    return (Path(__file__).resolve().parents[3] / "schemas" / name).read_bytes()


def serve(files: Mapping[str, StaticFile], name: str, request: web.Request) -> web.Response:
    """The file, or 304 if the browser has it. Raises ProblemError 404."""
    file = files.get(name)
    if file is None:
        raise ProblemError(404, "not_found", "there is no such page")
    headers = {"ETag": f'"{file.etag}"', "Cache-Control": "no-cache", "Content-Security-Policy": PAGE_CSP}
    if any(tag.value == file.etag for tag in request.if_none_match or ()):
        return web.Response(status=304, headers=headers)
    charset = "utf-8" if file.content_type in _TEXTS else None
    return web.Response(body=file.body, content_type=file.content_type, charset=charset, headers=headers)


def _load(name: str, body: bytes) -> StaticFile:
    suffix = name[name.rfind(".") :] if "." in name else ""
    content_type = _TYPES.get(suffix) or mimetypes.guess_type(name)[0] or "application/octet-stream"
    return StaticFile(body=body, content_type=content_type, etag=hashlib.sha256(body).hexdigest()[:32])
