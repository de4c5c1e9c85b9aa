"""One small tree of errors. Each says what was wrong and, where there is one, what to do about it."""


class AtollError(Exception):
    """Base of everything this project raises on purpose.

    Args:
        message: what was wrong, in one sentence.
        fix: what the reader can do about it, in one sentence; empty when nothing can be done.
    """

    def __init__(self, message: str, *, fix: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.fix = fix

    def __str__(self) -> str:
        return f"{self.message} {self.fix}".strip()


class InvalidInputError(AtollError):
    """The caller sent something that cannot be used; maps to HTTP 400 and exit code 2.

    Args:
        field: the parameter, header or field that is at fault, where there is one.
    """

    def __init__(self, message: str, *, fix: str = "", field: str = "") -> None:
        super().__init__(message, fix=fix)
        self.field = field


class UnauthorizedError(AtollError):
    """No token, or one that does not hold; maps to HTTP 401."""


class ForbiddenError(AtollError):
    """A valid token that does not allow this; maps to HTTP 403."""


class NotFoundError(AtollError):
    """What was asked for does not exist; maps to HTTP 404."""


class ConflictError(AtollError):
    """The state does not allow this now; maps to HTTP 409."""


class OverloadedError(AtollError):
    """A bound was hit; maps to HTTP 503 with Retry-After. Nothing was taken, nothing is lost."""


class UnavailableError(AtollError):
    """A part that is needed does not answer; maps to HTTP 503."""


class SettingsError(AtollError):
    """A configuration that cannot be used; the process does not start, exit code 2."""
