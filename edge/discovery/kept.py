"""Answers for everybody, kept for a moment in this process: the same question is asked of the region once."""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

from edge.cache.coalescing import Coalescer
from edge.cache.words import STALE, STALE_IF_ERROR, URI_MISS, forwarded_status, hit_status
from infra.plumbing.clock import Clock

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Told(Generic[T]):
    """An answer, how old it is, and the words for `Cache-Status` (RFC 9211)."""

    answer: T
    cache: str
    age_s: float = 0.0


@dataclass(frozen=True, slots=True)
class _Kept(Generic[T]):
    answer: T
    made_s: float


class KeptAnswers(Generic[T]):
    """The least recently used leave first.

    Args:
        life_s: how long an answer is as good as a new one.
        stale_s: how long it stands in for one that cannot be had.
        entries_max: how many are kept.
        flights_max: questions under way at once.
    """

    def __init__(
        self, *, clock: Clock, life_s: float = 60.0, stale_s: float = 3600.0, entries_max: int = 5_000,
        flights_max: int = 500,
    ) -> None:  # fmt: skip
        self._clock = clock
        self._life_s = life_s
        self._stale_s = stale_s
        self._entries_max = entries_max
        self._kept: OrderedDict[Hashable, _Kept[T]] = OrderedDict()
        self._flights: Coalescer[T] = Coalescer(flights_max=flights_max)

    async def close(self) -> None:
        """Cancel what is under way."""
        await self._flights.close()

    def stale(self, key: Hashable) -> Told[T] | None:
        """What is kept under `key`, fresh or not, as long as it may stand in for what was asked for in vain."""
        kept = self._kept.get(key)
        age_s = float("inf") if kept is None else self._clock.monotonic_s() - kept.made_s
        if kept is None or age_s > self._stale_s:
            return None
        words = forwarded_status(STALE, ttl_s=self._life_s - age_s, detail=STALE_IF_ERROR)
        return Told(kept.answer, words, age_s)

    async def get(self, key: Hashable, ask: Callable[[], Awaitable[T]]) -> Told[T]:
        """The answer under `key`; asks when there is none that is fresh.

        Raises:
            OverloadedError: too many questions are under way.
            Exception: whatever `ask` raises.
        """
        kept, now_s = self._kept.get(key), self._clock.monotonic_s()
        if kept is not None and now_s - kept.made_s < self._life_s:
            self._kept.move_to_end(key)
            age_s = now_s - kept.made_s
            return Told(kept.answer, hit_status(self._life_s - age_s), age_s)
        flight, joined = self._flights.join(key, ask)
        answer = await asyncio.shield(flight)
        self._kept[key] = _Kept(answer, self._clock.monotonic_s())
        self._kept.move_to_end(key)
        while len(self._kept) > self._entries_max:
            self._kept.popitem(last=False)
        return Told(answer, forwarded_status(STALE if kept is not None else URI_MISS, stored=True, collapsed=joined))
