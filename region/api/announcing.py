"""Telling the edges of the region what changed.

A word may be lost, and then a list's own life bounds what it costs. That is not enough for an opt-out or an erasure:
such a word is owed to the edges until the grid takes it (`Announcer.insist`).
"""

from collections import OrderedDict

import msgspec
from prometheus_client import CollectorRegistry, Counter

from infra.contracts.lists import CHOICE_LIFE_S, ChoiceMark, choice_key
from infra.contracts.messages import INVALIDATION_TOPIC, Invalidation
from infra.contracts.residency import encode_regional
from infra.plumbing.errors import UnavailableError
from infra.plumbing.grid.port import Grid

OWED_MAX = 10_000
"""Words that are told later; beyond it the oldest are given up and counted."""
CATCH_UP_S = 0.5


class Announcer:
    """Publishes invalidations. A grid that is down is counted."""

    def __init__(self, *, grid: Grid, registry: CollectorRegistry) -> None:
        self._grid = grid
        self._owed: OrderedDict[tuple[str | None, bool], Invalidation] = OrderedDict()
        """By whom they are about and whether they are erasures: a later choice takes the place of an earlier one."""
        self._told = Counter(
            "atoll_region_announcements", "Invalidations offered to the grid.", ("outcome",), registry=registry
        )

    async def tell(self, invalidation: Invalidation) -> bool:
        """Publish; whether the grid took it."""
        try:
            await self._mark(invalidation)
            await self._grid.publish(INVALIDATION_TOPIC, encode_regional(invalidation))
        except UnavailableError:
            self._told.labels("failed").inc()
            return False
        self._told.labels("published").inc()
        return True

    async def _mark(self, word: Invalidation) -> None:
        """A choice lies in the grid before it is told: an edge that is away finds it there when it is back."""
        if word.subject is None or not (word.erased or word.opted_out is not None):
            return
        mark = ChoiceMark(version=word.subject_version, opted_out=None if word.erased else word.opted_out)
        await self._grid.put(choice_key(word.subject), msgspec.msgpack.encode(mark), ttl_s=CHOICE_LIFE_S)

    async def insist(self, invalidation: Invalidation) -> bool:
        """`tell`; what the grid does not take now is told by `catch_up`, as often as it takes."""
        key = (invalidation.subject, invalidation.erased)
        self._owed.pop(key, None)
        told = await self.tell(invalidation)
        if not told:
            self._owed[key] = invalidation
            while len(self._owed) > OWED_MAX:
                self._owed.popitem(last=False)
                self._told.labels("given up").inc()
        return told

    async def catch_up(self) -> int:
        """Tell what is owed, the oldest first, until the grid refuses again; returns how much was told."""
        told = 0
        while self._owed:
            key, invalidation = next(iter(self._owed.items()))
            if not await self.tell(invalidation):
                return told
            told += 1
            if self._owed.get(key) is invalidation:  # nothing newer was put there meanwhile
                del self._owed[key]
        return told
