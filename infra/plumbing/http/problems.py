"""Errors as problem documents (RFC 9457). What the caller sent is never reflected, only named."""

import msgspec
from aiohttp import web

from infra.plumbing.errors import (
    AtollError,
    ConflictError,
    ForbiddenError,
    InvalidInputError,
    NotFoundError,
    OverloadedError,
    UnauthorizedError,
    UnavailableError,
)

_STATUS: tuple[tuple[type[AtollError], int, str], ...] = (
    (InvalidInputError, 400, "Bad request"),
    (UnauthorizedError, 401, "Unauthorized"),
    (ForbiddenError, 403, "Forbidden"),
    (NotFoundError, 404, "Not found"),
    (ConflictError, 409, "Conflict"),
    (OverloadedError, 503, "Overloaded"),
    (UnavailableError, 503, "Unavailable"),
)
RETRY_AFTER_S = 1


def status_of(error: AtollError) -> tuple[int, str]:
    """HTTP status and title for an error."""
    for kind, status, title in _STATUS:
        if isinstance(error, kind):
            return status, title
    return 500, "Internal error"


def problem_body(status: int, title: str, detail: str, request_id: str) -> bytes:
    """The problem document as JSON."""
    return msgspec.json.encode(
        {"type": "about:blank", "title": title, "status": status, "detail": detail, "request_id": request_id}
    )


def problem_response(status: int, title: str, detail: str, request_id: str) -> web.Response:
    """An answer that says what was wrong; 401 and 503 carry the headers that the RFCs ask for."""
    headers = {"Cache-Control": "no-store", "Atoll-Request-Id": request_id}
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if status in (429, 503):
        headers["Retry-After"] = str(RETRY_AFTER_S)
    return web.Response(
        status=status,
        body=problem_body(status, title, detail, request_id),
        content_type="application/problem+json",
        headers=headers,
    )


def problem_for(error: AtollError, request_id: str) -> web.Response:
    """The problem document of an error of ours."""
    status, title = status_of(error)
    return problem_response(status, title, str(error), request_id)
