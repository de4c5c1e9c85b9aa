"""A subscriber's queue: bounded, and honest about what it lost."""

import asyncio
from collections import deque
from collections.abc import Iterator
from weakref import WeakSet

QUEUE_MESSAGES_MAX = 4096


class Subscription:
    """Messages of one topic, as an asynchronous iterator; None means "something may have been missed".

    When the queue is full its content is dropped and one None takes its place: a subscriber that is too slow to
    follow has to distrust what it holds anyway. A subscription that nobody holds any more is forgotten.
    """

    def __init__(self, *, queue_max: int = QUEUE_MESSAGES_MAX) -> None:
        self.overflows = 0
        self._queue_max = queue_max
        self._queue: deque[bytes | None] = deque()
        self._arrived = asyncio.Event()
        self._closed = False

    def offer(self, message: bytes | None) -> None:
        """Put a message behind the others; never waits."""
        if self._closed:
            return
        if len(self._queue) >= self._queue_max:
            self._queue.clear()
            self._queue.append(None)
            self.overflows += 1
        # Two Nones in a row say no more than one.
        if message is not None or not self._queue or self._queue[-1] is not None:
            self._queue.append(message)
        self._arrived.set()

    def close(self) -> None:
        """End the iteration, behind what has arrived."""
        self._closed = True
        self._arrived.set()

    def __aiter__(self) -> "Subscription":
        return self

    async def __anext__(self) -> bytes | None:
        while not self._queue:
            if self._closed:
                raise StopAsyncIteration
            self._arrived.clear()
            await self._arrived.wait()
        return self._queue.popleft()


class Topics:
    """Subscriptions by topic."""

    def __init__(self) -> None:
        self._by_topic: dict[str, WeakSet[Subscription]] = {}

    def __iter__(self) -> Iterator[str]:
        """Topics that somebody listens to."""
        return iter([topic for topic, subscriptions in self._by_topic.items() if len(subscriptions)])

    def add(self, topic: str, subscription: Subscription) -> None:
        """Have `subscription` hear of `topic` from now on."""
        self._by_topic.setdefault(topic, WeakSet()).add(subscription)

    def offer(self, topic: str, message: bytes | None) -> None:
        """Tell everybody who listens to `topic`."""
        for subscription in list(self._by_topic.get(topic, ())):
            subscription.offer(message)

    def close(self) -> None:
        """End every subscription."""
        for subscriptions in self._by_topic.values():
            for subscription in list(subscriptions):
                subscription.close()
        self._by_topic.clear()
