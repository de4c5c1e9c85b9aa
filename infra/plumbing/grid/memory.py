"""The grid inside one process: for tests, and for a node that stands alone."""

from collections.abc import AsyncIterator

from infra.plumbing.clock import Clock
from infra.plumbing.grid.bounded_map import BoundedMap
from infra.plumbing.grid.limits import check_key, check_value
from infra.plumbing.grid.port import GridUnavailableError
from infra.plumbing.grid.topics import Subscription, Topics

BYTES_MAX_DEFAULT = 64 << 20


class MemoryGrid:
    """`infra.plumbing.grid.port.Grid` over a map. Set `available` to False to see how callers bear its loss."""

    def __init__(self, *, clock: Clock, bytes_max: int = BYTES_MAX_DEFAULT) -> None:
        self.available = True
        self.map = BoundedMap(bytes_max=bytes_max)
        self._clock = clock
        self._topics = Topics()

    async def get(self, key: str) -> bytes | None:
        """The value, or None."""
        self._require()
        check_key(key)
        return self.map.get(key, now_s=self._clock.monotonic_s())

    async def put(self, key: str, value: bytes, *, ttl_s: float) -> None:
        """Keep `value` for at most `ttl_s` seconds."""
        self._require()
        check_key(key)
        check_value(value)
        self.map.put(key, value, ttl_s=ttl_s, now_s=self._clock.monotonic_s())

    async def delete(self, key: str) -> None:
        """Forget `key`."""
        self._require()
        check_key(key)
        self.map.delete(key)

    async def publish(self, topic: str, message: bytes) -> None:
        """Tell every subscriber of `topic`."""
        self._require()
        check_key(topic)
        check_value(message)
        self._topics.offer(topic, message)

    def subscribe(self, topic: str) -> AsyncIterator[bytes | None]:
        """None at once, then messages of `topic` from now on."""
        check_key(topic)
        subscription = Subscription()
        subscription.offer(None)
        self._topics.add(topic, subscription)
        return subscription

    async def close(self) -> None:
        """End every subscription."""
        self.available = False
        self._topics.close()

    def _require(self) -> None:
        if not self.available:
            raise GridUnavailableError("the grid does not answer.")
