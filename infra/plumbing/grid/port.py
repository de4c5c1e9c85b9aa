"""The grid's port. Hazelcast and the embedded grid both fill it; one contract suite holds them to it."""

from collections.abc import AsyncIterator
from typing import Protocol

from infra.plumbing.errors import UnavailableError

VALUE_BYTES_MAX = 1 << 20
KEY_BYTES_MAX = 512


class GridUnavailableError(UnavailableError):
    """The grid did not answer within its time; the caller goes on without it and counts that."""


class Grid(Protocol):
    """A shared, bounded, volatile map with topics. It may lose anything at any time: nothing durable lives here.

    Every call has its own time-out inside the adapter (a few milliseconds on the way of a request) and raises
    `GridUnavailableError` instead of waiting. Messages of a topic may be lost while the connection is down; after a
    reconnect `subscribe` yields `None` once, so that the subscriber can distrust what it holds.
    """

    async def get(self, key: str) -> bytes | None:
        """The value, or None when it is not there or has run out."""
        ...

    async def put(self, key: str, value: bytes, *, ttl_s: float) -> None:
        """Keep `value` for at most `ttl_s` seconds."""
        ...

    async def delete(self, key: str) -> None:
        """Forget `key`."""
        ...

    async def publish(self, topic: str, message: bytes) -> None:
        """Tell every subscriber of `topic`."""
        ...

    def subscribe(self, topic: str) -> AsyncIterator[bytes | None]:
        """Messages of `topic` from now on; None after every (re)connect."""
        ...

    async def close(self) -> None:
        """Let go of connections."""
        ...
