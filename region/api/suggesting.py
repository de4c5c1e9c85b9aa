"""Suggestions as a region gives them: found in the index, filtered by its rules, reordered for whom it knows."""

import asyncio
from collections.abc import Callable
from contextlib import AbstractContextManager

import numpy as np
from prometheus_client import CollectorRegistry, Counter

from infra.contracts.discovery import NO_WORDS, SuggestAnswer, SuggestCall, Suggestion
from infra.contracts.messages import HomeRequest, RecommendationType
from infra.plumbing.clock import Clock
from infra.plumbing.errors import UnavailableError
from infra.plumbing.text import folded, lacks_words
from region.funnel.compute import ComputePool
from region.funnel.funnel import Funnel
from region.funnel.release import LoadedRelease
from region.store.port import Store, UserRow
from region.suggest.index import Found, SuggestIndex
from region.suggest.newcomers import NewcomerBook

NAMES_MAX = 3
"""Categories and brands together that stand before the items."""
ROW_WITHIN_S = 0.03
LEANING_WEIGHT = 0.5
LEANING_MAX = 2.0


class Suggester:
    """Answers suggest calls.

    Args:
        index: the index at hand, or None while there is none.
        lease: holds the active release open.
    """

    def __init__(
        self, *, region: str, index: Callable[[], SuggestIndex | None], funnel: Funnel, compute: ComputePool,
        store: Store, lease: Callable[[], AbstractContextManager[LoadedRelease]], clock: Clock,
        registry: CollectorRegistry,
    ) -> None:  # fmt: skip
        self._region = region
        self._index = index
        self._funnel = funnel
        self._compute = compute
        self._store = store
        self._lease = lease
        self._clock = clock
        self._newcomers = NewcomerBook()
        self._answers = Counter(
            "atoll_region_suggestions", "Suggest calls, by what came of them.", ("outcome",), registry=registry
        )

    async def answer(self, call: SuggestCall) -> SuggestAnswer:
        """The suggestions for a call; none while the first index is being built or for emoji, and `degraded` says so.

        Raises:
            UnavailableError: no release is active. OverloadedError: this node has too much to compute.
        """
        index, row = self._index(), await self._row(call)
        with self._lease() as release:
            nothing = NO_WORDS if lacks_words(call.q) else "suggest" if index is None else ""
            if index is None or nothing:
                self._answers.labels("no index" if index is None else "no words").inc()
                return SuggestAnswer(
                    suggestions=(), release=release.release_id, region=self._region, degraded=(nothing,)
                )
            found, shown = await self._compute.run(self._find, call, index, release, row)
        corrected = found.meant if _is_corrected(found, call.q) else ""
        self._answers.labels("corrected" if corrected else "found" if shown else "nothing").inc()
        return SuggestAnswer(
            suggestions=shown, meant=corrected, release=release.release_id, region=self._region,
            personal=row is not None,
        )  # fmt: skip

    async def _row(self, call: SuggestCall) -> UserRow | None:
        """The row of who asks, if it comes at once: letters do not wait for a store."""
        if call.subject is None:
            return None
        try:
            async with asyncio.timeout(ROW_WITHIN_S):
                row = await self._store.read(call.subject)
        except (UnavailableError, TimeoutError):
            return None
        return None if row is None or row.opted_out else row

    def _find(
        self, call: SuggestCall, index: SuggestIndex, release: LoadedRelease, row: UserRow | None
    ) -> tuple[Found, tuple[Suggestion, ...]]:
        tables = release.tables
        new = self._newcomers.of(tables.seats, tables.items)
        found = index.find(call.q, also=new.has)
        names = [Suggestion(kind="category", text=name) for name in found.categories if name in tables.category_rows]
        brands = dict.fromkeys((*found.brands, *new.brands_like(found.meant)))
        names += [Suggestion(kind="brand", text=name) for name in brands]
        # Nobody knows the new ones yet: they stand behind, until what is typed singles them out.
        values = {tables.row_of[item]: value for item, value in found.items if item in tables.row_of}
        values |= {place: 0.0 for place in new.rows(found.meant) if place not in values}
        rows = np.fromiter(values, dtype=np.int32, count=len(values))
        asked = HomeRequest(type=RecommendationType.POPULAR, context=call.context)
        rows = self._funnel.permitted(asked, release, rows, now_s=self._clock.now_ms() / 1000)
        leanings = {} if row is None else row.leanings("category", self._clock.now_ms())

        def worth(place: int) -> float:
            lean = max((leanings.get(name, 0.0) for name in tables.items[place].categories), default=0.0)
            return values[place] * (1.0 + LEANING_WEIGHT * min(max(lean, 0.0), LEANING_MAX))

        best = sorted(rows.tolist(), key=worth, reverse=True)
        items = [
            Suggestion(kind="item", text=tables.items[one].title or tables.items[one].item, item=tables.items[one].item)
            for one in best
        ]
        return found, (*names[: min(NAMES_MAX, call.n)], *items)[: call.n]


def _is_corrected(found: Found, typed: str) -> bool:
    return bool(found.count) and found.meant != folded(typed)
