"""What a node missed: erasures of which the grid's word did not reach it, because one of the two was away.

The word is quick and may be lost. What cannot be lost is in the store, the mark of every erasure, and beside the keys,
an epoch that every erasure changes whichever process did it. So a node that finds another epoch than at its last look
asks the store about everybody whom it knows itself, and forgets those who were erased. A node that starts looks through
the whole of its disk; later it looks for erasures since the look before only.

An erasure changes the epoch first and leaves its mark a moment later; so a look counts as one at an epoch only when
that had stood for SETTLE_S.
"""

from collections.abc import Awaitable, Callable, Sequence

from infra.plumbing.clock import Clock
from region.privacy.places import Place
from region.store.port import Store
from region.store.subjects import is_session

LOOK_S = 10.0
PAUSE_S = 300.0
"""Between two looks through everything: each reads the node's journals and asks for a mark for everybody in them."""
SETTLE_S = 60.0
OVERLAP_MS = 600_000
"""Nodes' clocks differ, and an erasure takes a while from its moment to its mark."""
_UNSETTLED = object()


class MissedErasures:
    """Looks for them.

    Args:
        epoch: changes with every erasure of the region.
        places: what this node keeps of subjects by itself.
        pause_s: between two looks through everything.
    """

    def __init__(
        self, *, epoch: Callable[[], Awaitable[object]], store: Store, places: Sequence[Place], clock: Clock,
        pause_s: float = PAUSE_S,
    ) -> None:  # fmt: skip
        self._epoch = epoch
        self._store = store
        self._places = tuple(place for place in places if place.forget_before is not None)
        self._clock = clock
        self._pause_s = pause_s
        self._looked: tuple[object, float, int] | None = None
        """At which epoch that had settled, and when by both clocks."""
        self._current: tuple[object, float] = (_UNSETTLED, 0.0)
        """The epoch, and since when it is known."""

    async def look(self) -> int:
        """Forget whom the region has erased since the last look; returns how much there was.

        Raises:
            UnavailableError: the keys or the store do not answer; the next look does it all.
        """
        epoch, now_s, since_ms = await self._epoch(), self._clock.monotonic_s(), 0
        if epoch != self._current[0]:
            self._current = (epoch, now_s)
        is_settled = now_s - self._current[1] >= SETTLE_S
        if self._looked is not None:
            known, looked_s, looked_ms = self._looked
            if epoch == known or not is_settled or now_s - looked_s < self._pause_s:
                return 0
            since_ms = looked_ms - OVERLAP_MS
        began = (epoch if is_settled else _UNSETTLED, now_s, self._clock.now_ms())
        erased = await self._erased_since(since_ms)
        gone = 0
        if erased:
            for place in self._places:
                gone += await place.forget_before(erased) if place.forget_before is not None else 0
        self._looked = began
        return gone

    async def _erased_since(self, since_ms: int) -> dict[str, int]:
        """When each of those was erased of whom this node knows anything."""
        names: set[str] = set()
        for place in self._places:
            names.update(await place.names())
        erased: dict[str, int] = {}
        for name in sorted(names):
            # Nobody can say whose a session is, so none is erased.
            erasure = await self._store.erasure(name) if name and not is_session(name) else None
            if erasure is not None and erasure.erased_ms >= since_ms:
                erased[name] = erasure.erased_ms
        return erased
