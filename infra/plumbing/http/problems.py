"""Errors as problem documents (RFC 9457). What the caller sent is never reflected, only named."""

from typing import Annotated, Final

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

TYPES: Final = "/problems/"
"""Problem types are paths below this one; an edge explains each at its path."""
RETRY_AFTER_S: Final = 1


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """A problem document (RFC 9457)."""

    type: Annotated[str, msgspec.Meta(description="Path of the kind of problem; stable, to be compared by programs.")]
    title: str
    status: int
    detail: Annotated[str, msgspec.Meta(description="What was wrong with this call, and what to do. For people.")]
    request_id: str
    field: str | msgspec.UnsetType = msgspec.UNSET
    """The parameter, header or field that is at fault, where there is one."""


class ProblemKind(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of problem: what its `title` and `type` are, and what they mean."""

    status: int
    title: str
    means: str

    @property
    def slug(self) -> str:
        """The last part of the type."""
        return self.title.lower().replace(" ", "-")

    @property
    def type(self) -> str:
        """What `Problem.type` says."""
        return TYPES + self.slug


def _kind(status: int, title: str, means: str) -> ProblemKind:
    return ProblemKind(status=status, title=title, means=means)


_BY_ERROR: Final[tuple[tuple[type[AtollError], ProblemKind], ...]] = (
    (InvalidInputError, _kind(400, "Bad request", "The call cannot be used as it is; `detail` says what to change.")),
    (UnauthorizedError, _kind(401, "Unauthorized", "No token, key or signature, or one that does not hold.")),
    (ForbiddenError, _kind(403, "Forbidden", "A token or key that holds, and does not allow this.")),
    (NotFoundError, _kind(404, "Not found", "There is nothing at this path, or under this name.")),
    (ConflictError, _kind(409, "Conflict", "The state does not allow this now.")),
    (OverloadedError, _kind(503, "Overloaded", "A bound was hit. Nothing was taken; send the call again later.")),
    (UnavailableError, _kind(503, "Unavailable", "A part that is needed does not answer. Send the call again later.")),
)
INTERNAL: Final = _kind(500, "Internal error", "A fault of the service. It has been written down.")
TOO_MANY: Final = _kind(429, "Too many requests", "This caller makes too many calls. Wait for `Retry-After`.")
_BY_STATUS: Final[dict[int, ProblemKind]] = {
    kind.status: kind
    for kind in (
        *(kind for _, kind in _BY_ERROR if kind.status < 500),
        _kind(405, "Method not allowed", "This path does not take that method."),
        _kind(408, "Request timeout", "The request did not arrive in time."),
        _kind(413, "Content too large", "The body is larger than this service takes."),
        _kind(414, "URI too long", "The address is longer than this service takes."),
        _kind(415, "Unsupported media type", "The body is of a type that this path does not take."),
        TOO_MANY,
        _kind(431, "Headers too large", "The headers are larger than this service takes."),
        INTERNAL,
    )
}
KINDS: Final[dict[str, ProblemKind]] = {
    kind.slug: kind for kind in (*_BY_STATUS.values(), *(kind for _, kind in _BY_ERROR))
}
"""Every kind that this project's services speak of, by the last part of its type."""


def kind_of(error: AtollError) -> ProblemKind:
    """The kind of an error of ours."""
    return next((kind for error_type, kind in _BY_ERROR if isinstance(error, error_type)), INTERNAL)


def kind_of_status(status: int) -> ProblemKind:
    """The kind of an HTTP status that has no error of ours."""
    return _BY_STATUS.get(status, _BY_STATUS[400] if status < 500 else INTERNAL)


def status_of(error: AtollError) -> tuple[int, str]:
    """HTTP status and title for an error."""
    kind = kind_of(error)
    return kind.status, kind.title


def problem_body(status: int, title: str, detail: str, request_id: str, *, field: str = "") -> bytes:
    """The problem document as JSON."""
    return msgspec.json.encode(
        Problem(
            type=TYPES + title.lower().replace(" ", "-"), title=title, status=status, detail=detail,
            request_id=request_id, field=field or msgspec.UNSET,
        )
    )  # fmt: skip


def problem_response(status: int, title: str, detail: str, request_id: str, *, field: str = "") -> web.Response:
    """An answer that says what was wrong; 401 and 503 carry the headers that the RFCs ask for."""
    headers = {"Cache-Control": "no-store", "Atoll-Request-Id": request_id}
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if status in (429, 503):
        headers["Retry-After"] = str(RETRY_AFTER_S)
    return web.Response(
        status=status,
        body=problem_body(status, title, detail, request_id, field=field),
        content_type="application/problem+json",
        headers=headers,
    )


def problem_for(error: AtollError, request_id: str) -> web.Response:
    """The problem document of an error of ours."""
    kind = kind_of(error)
    field = error.field if isinstance(error, InvalidInputError) else ""
    return problem_response(kind.status, kind.title, str(error), request_id, field=field)
