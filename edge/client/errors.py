"""What can go wrong between an application and an edge."""

import msgspec

from infra.plumbing.errors import AtollError


class AtollClientError(AtollError):
    """Base of what this client raises."""


class NotReachedError(AtollClientError):
    """No usable answer came in time, however often it was tried."""


class ProblemError(AtollClientError):
    """The edge answered with a problem document (RFC 9457); `type` is for programs.

    field: the parameter at fault, where there is one. retry_after_s: when to try again, where the edge said so.
    """

    def __init__(
        self,
        detail: str,
        *,
        type_: str,
        status: int,
        request_id: str,
        field: str = "",
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(detail)
        self.type = type_
        self.status = status
        self.request_id = request_id
        self.field = field
        self.retry_after_s = retry_after_s


class ProblemBody(msgspec.Struct, frozen=True):
    """A problem document; what is not one of ours has the defaults."""

    type: str = "about:blank"
    detail: str = ""
    request_id: str = ""
    field: str = ""


def problem_of(status: int, body: bytes, *, retry_after_s: float | None) -> ProblemError:
    """The error that an answer with a status of 400 or more is."""
    try:
        problem = msgspec.json.decode(body, type=ProblemBody)
    except (msgspec.DecodeError, UnicodeDecodeError):
        problem = ProblemBody()
    return ProblemError(
        problem.detail or f"the edge answered with status {status}.", type_=problem.type, status=status,
        request_id=problem.request_id, field=problem.field, retry_after_s=retry_after_s,
    )  # fmt: skip
