"""One operation at a time, and an account of each: what was done, refused or failed."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Iterator

from infra.plumbing.clock import Clock
from infra.plumbing.errors import ConflictError, InvalidInputError, NotFoundError, UnavailableError
from region.releases.audit import AuditLog
from region.releases.messages import AuditEntry
from region.releases.slots import Operation

REGION_ITSELF = "region"
"""Stands in the audit for what the region does by itself."""
DETAIL_MAX = 500
"""Characters of what was done."""
_log = logging.getLogger(__name__)


class NoActiveReleaseError(UnavailableError):
    """The region has not activated any release yet."""


class Operations:
    """What is being done to the releases of one node, and the audit of it. Belongs to one event loop."""

    def __init__(self, *, audit: AuditLog, clock: Clock) -> None:
        self._audit_log = audit
        self._clock = clock
        self.current: Operation | None = None
        """What is being done right now."""

    async def record(
        self, action: str, operator: str, before: str | None, after: str | None, outcome: str, detail: str = ""
    ) -> bool:
        """Write one audit entry; False if the disk did not take it (an emergency must not wait for a full disk)."""
        entry = AuditEntry(
            at_ms=self._clock.now_ms(),
            operator=operator,
            action=action,
            from_release=before,
            to_release=after,
            outcome=outcome,
            detail=detail,
        )
        try:
            await asyncio.to_thread(self._audit_log.append, entry)
        except OSError as error:
            _log.error("the audit could not be written: %s", error)
            return False
        return True

    async def noted(self, operator: str, action: str, detail: str) -> bool:
        """Write that something was done that switches no release; False as `record`."""
        return await self.record(action, operator, None, None, "done", detail[:DETAIL_MAX])

    @contextlib.asynccontextmanager
    async def recorded(self, action: str, operator: str, before: str | None, after: str | None) -> AsyncIterator[None]:
        """Write into the audit what was refused or failed; what was done is written by the one who did it."""
        try:
            yield
        except Exception as error:
            refused = isinstance(error, ConflictError | NotFoundError | InvalidInputError | NoActiveReleaseError)
            await self.record(action, operator, before, after, "refused" if refused else "failed", str(error))
            raise

    @contextlib.contextmanager
    def exclusively(self, operator: str, action: str, release: str | None) -> Iterator[None]:
        """One operation at a time; there is no await between the look and the mark, so this needs no lock.

        Raises:
            ConflictError: something else is being done.
        """
        if self.current is not None:
            raise ConflictError(
                f"{self.current.operator} is busy here: {self.current.describe(self._clock.monotonic_s())}.",
                fix="Wait until that is done, then try again.",
            )
        self.current = Operation(operator, action, release, self._clock.monotonic_s())
        try:
            yield
        finally:
            self.current = None
