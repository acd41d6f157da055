"""Errors as people and programs get them: RFC 9457 problem documents with a stable `code`."""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from aiohttp import web

from detr_sentry.errors import ControlError, SettingsError, StorageError

if TYPE_CHECKING:
    from collections.abc import Mapping

CONTENT_TYPE = "application/problem+json"

# What each refusal of the controller means on the wire; a code that is not here is our own fault or the controller's.
_CONTROL_STATUS = {
    "unknown_camera": 404,
    "unknown_event": 404,
    "invalid": 422,
    "busy": 503,
    "unavailable": 503,
    "storage": 507,
}
_HTTP_CODES = {
    400: "bad_request",
    401: "unauthorized",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    408: "timeout",
    413: "too_large",
    415: "unsupported_media_type",
    422: "invalid",
    426: "upgrade_required",
}


class ProblemError(Exception):
    """A request that ends with a problem document. `code` is stable; `detail` is for people."""

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        *,
        headers: Mapping[str, str] | None = None,
        **extra: Any,
    ) -> None:
        self.status = status
        self.code = code
        self.detail = detail
        self.headers = dict(headers or {})
        self.extra = extra
        super().__init__(f"{status} {code}: {detail}")

    def response(self) -> web.Response:
        """The problem document as an HTTP response."""
        body = {
            "type": f"urn:detr-sentry:problem:{self.code}",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": self.detail,
            "code": self.code,
            **self.extra,
        }
        return web.Response(
            status=self.status,
            body=json.dumps(body).encode(),
            content_type=CONTENT_TYPE,
            headers={"Cache-Control": "no-store", **self.headers},
        )


def to_problem(error: Exception) -> ProblemError | None:
    """The problem that a known error means; None for one that nobody foresaw."""
    match error:
        case ProblemError():
            return error
        case web.HTTPException():
            code = _HTTP_CODES.get(error.status, "error")
            headers = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else {}
            return ProblemError(error.status, code, error.reason, headers=headers)
        case ControlError():
            return ProblemError(_CONTROL_STATUS.get(error.code, 502), error.code, str(error))
        case SettingsError():
            return ProblemError(422, "bad_setting", str(error), key=error.key)
        case StorageError():
            return ProblemError(507, "storage", str(error))
        case _:
            return None
