"""The log's port: acknowledged means durable. SQLite fills it on one machine, Kafka in production."""

from collections.abc import Sequence
from typing import Protocol

from infra.contracts.events import LoggedEvent
from infra.contracts.residency import Global, RegionalMessage
from infra.plumbing.errors import UnavailableError
from region.store.port import OffsetEvent


class LogUnavailableError(UnavailableError):
    """The log cannot take or give records now; nothing was acknowledged."""


class AppendResult(RegionalMessage, frozen=True, kw_only=True):
    """How many records were new, and how many were there already under the same event id."""

    accepted: Global[int]
    duplicates: Global[int]


class Log(Protocol):
    """An ordered, durable record of events, idempotent by event id within a subject."""

    async def append(self, records: Sequence[LoggedEvent]) -> AppendResult:
        """Returns only after the records survive kill -9 and power loss."""
        ...

    async def read(self, *, after: int, limit: int) -> list[OffsetEvent]:
        """Records behind offset `after`, in order, at most `limit`."""
        ...

    async def last_offset(self) -> int:
        """The highest offset ever given; 0 when none was. Never goes back, not even when records expire."""
        ...

    async def expire(self, *, before_ms: int) -> int:
        """Forget records received before a moment; returns how many."""
        ...

    async def close(self) -> None:
        """Let go of files."""
        ...
