"""Why a release was refused, in words; and the one place that reads python-tuf's exceptions."""

import enum

from infra.plumbing.errors import AtollError, ConflictError, UnavailableError
from infra.plumbing.tuf_client.library import exceptions


class RefusalReason(enum.StrEnum):
    """What was wrong with what the repository sent."""

    EXPIRED = "expired"
    ROLLED_BACK = "rolled-back"
    TAMPERED = "tampered"
    WRONG_LENGTH = "wrong-length"
    ENDLESS = "endless"
    INCONSISTENT = "inconsistent"
    UNSIGNED = "unsigned"
    UNREADABLE = "unreadable"
    TOO_LARGE = "too-large"
    OUTSIDE = "outside"


_SENTENCES: dict[RefusalReason, str] = {
    RefusalReason.EXPIRED: "its signed metadata has expired; an old copy is being replayed, or central stopped signing",
    RefusalReason.ROLLED_BACK: "it offers older metadata than this machine has already seen",
    RefusalReason.TAMPERED: "the content does not have the hash that was signed",
    RefusalReason.WRONG_LENGTH: "the content does not have the length that was signed",
    RefusalReason.ENDLESS: "it sends more bytes than were signed",
    RefusalReason.INCONSISTENT: "parts of different published states were put together",
    RefusalReason.UNSIGNED: "the signatures do not hold under the trusted keys",
    RefusalReason.UNREADABLE: "it cannot be decoded",
    RefusalReason.TOO_LARGE: "it is larger than this machine accepts",
    RefusalReason.OUTSIDE: "it is not about the folder that its signers may speak for",
}
_FIX = "Nothing was changed here. Check the repository with central before pulling again."


class ReleaseRefusedError(ConflictError):
    """The repository answered, and what it sent must not be used. The active release is untouched.

    Attributes:
        reason: the kind of refusal, for counters and tests.
    """

    def __init__(self, what: str, *, reason: RefusalReason, detail: str = "", fix: str = _FIX) -> None:
        tail = f" ({detail})" if detail else ""
        super().__init__(f"{what} was refused as {reason.value}: {_SENTENCES[reason]}{tail}.", fix=fix)
        self.reason = reason


class RepositoryUnavailableError(UnavailableError):
    """The repository does not answer, answers too slowly, or lacks a file. The active release is untouched."""


def from_tuf(error: Exception, *, what: str, during_refresh: bool) -> AtollError:
    """Our error for one that python-tuf raised while `what` was read.

    A hash that does not hold is a mix of states while metadata is read, and a changed file afterwards.
    """
    detail = str(error).rstrip(".")
    reason = _reason(error, during_refresh=during_refresh)
    if reason is not None:
        return ReleaseRefusedError(what, reason=reason, detail=detail)
    if isinstance(error, exceptions.DownloadHTTPError):
        return RepositoryUnavailableError(
            f"{what} could not be read: the repository answered {error.status_code}.",
            fix="A publish may be under way or the repository is incomplete; try again, then check it with central.",
        )
    return RepositoryUnavailableError(
        f"{what} could not be read: {_root_cause(error)}.", fix="Check the repository's address and that it runs."
    )


def _reason(error: Exception, *, during_refresh: bool) -> RefusalReason | None:
    mismatch = RefusalReason.INCONSISTENT if during_refresh else RefusalReason.TAMPERED
    table: tuple[tuple[type[Exception], RefusalReason], ...] = (
        (exceptions.ExpiredMetadataError, RefusalReason.EXPIRED),
        (exceptions.BadVersionNumberError, RefusalReason.ROLLED_BACK),
        (exceptions.UnsignedMetadataError, RefusalReason.UNSIGNED),
        (exceptions.DownloadLengthMismatchError, RefusalReason.ENDLESS),
        (exceptions.LengthOrHashMismatchError, mismatch),
        (exceptions.RepositoryError, RefusalReason.UNREADABLE),
    )
    return next((reason for kind, reason in table if isinstance(error, kind)), None)


def _root_cause(error: BaseException) -> str:
    cause = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    return (str(cause) or type(cause).__name__).rstrip(".")
