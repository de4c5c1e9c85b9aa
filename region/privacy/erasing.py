"""Erasing a subject: out of every place, marked so that it does not come back, told to the edges, checked, signed.

The order of a round: the key of the subject's records first, with which they go in every copy of the log; then the
log itself, for where it ends then parts before from after. The store's mark with that offset is what a worker meets
that read the records a moment earlier: its batch has no effect on the subject. Then the other places and the edges;
then the bytes on the disks; then every place is counted anew. What a request or a replay of dead letters that was under
way put back meanwhile goes in another round. Who breaks off in between repeats it all.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime

from infra.contracts.messages import Invalidation
from infra.plumbing.clock import Clock
from infra.plumbing.errors import ConflictError, NotFoundError, OverloadedError
from region.api.announcing import Announcer
from region.events.port import Log
from region.keeping.deposits import SETTLED, Deposit
from region.privacy.accesses import AccessHead
from region.privacy.messages import ErasureReceipt, PlaceReceipt, SignedReceipt
from region.privacy.places import NOT_REACHED, Place, keys_place, log_place, store_place
from region.store.port import Erasure, Store
from region.store.subjects import erasure_mark

AT_ONCE_MAX = 32
"""Erasures at the same time share the writing over of files, which is most of their work."""
WAITING_MAX = 1_000
ROUNDS_MAX = 3


class Eraser:
    """Erases subjects, some at a time.

    Args:
        places: the places of this node besides log and store.
        sign: the region's signature under a receipt.
        accesses: where the node's account of accesses stands, for the receipt.
    """

    def __init__(
        self, *, region: str, node: str, log: Log, store: Store, places: Sequence[Place], announcer: Announcer,
        clock: Clock, sign: Callable[[ErasureReceipt], SignedReceipt],
        accesses: Callable[[], AccessHead] | None = None,
    ) -> None:  # fmt: skip
        self._accesses = accesses
        self._region = region
        self._node = node
        self._log = log
        self._store = store
        self._places = (keys_place(log), *places)
        self._all = (log_place(log), store_place(store), *self._places)
        self._announcer = announcer
        self._clock = clock
        self._sign = sign
        self._room = asyncio.Semaphore(AT_ONCE_MAX)
        self._waiting = 0

    async def erase(self, subject: str) -> SignedReceipt:
        """Erase a subject. Erasing one that is not there gives a receipt that says so.

        Raises:
            OverloadedError: too many wait already.
            UnavailableError: a place does not answer; what was erased stays erased, and it may be repeated.
        """
        if self._waiting >= WAITING_MAX:
            raise OverloadedError("too many erasures wait.", fix="Send it again in a moment.")
        self._waiting += 1
        try:
            async with self._room:
                return self._sign(await self._erase(subject))
        finally:
            self._waiting -= 1

    async def look_again(self, subject: str) -> SignedReceipt:
        """A new receipt of an earlier erasure: everything counted anew, and what became of the bytes since.

        Raises:
            NotFoundError: the region keeps no mark of an erasure.
            ConflictError: there is data under this id again.
            UnavailableError: a place does not answer.
        """
        erasure = await self._store.erasure(subject)
        if erasure is None:
            raise NotFoundError("this region has erased nobody under this id.", fix="Erase them first.")
        after = await self._count(subject)
        if any(after.values()):
            raise ConflictError("there is data under this id again, of after the erasure.", fix="Erase it anew.")
        erased_ms = erasure.erased_ms
        deposits = await asyncio.gather(*self._deposits(subject, erased_ms))
        receipt = ErasureReceipt(
            region=self._region, node=self._node, mark=erasure_mark(subject), erased_ms=erased_ms,
            finished_ms=erased_ms, looked_ms=self._clock.now_ms(), edges_told=await self._tell(subject),
            not_reached=NOT_REACHED, accesses=await self._account(), complete=all(map(_settled, deposits)),
            places=tuple(
                PlaceReceipt(
                    place=place.name, what=place.what, before=0, removed=0, after=0, remains=_unsettled(found),
                    deposits=found,
                )
                for place, found in zip(self._all, deposits, strict=True)
            ),
        )  # fmt: skip
        return self._sign(receipt)

    async def _account(self) -> AccessHead | None:
        return await asyncio.to_thread(self._accesses) if self._accesses is not None else None

    async def _erase(self, subject: str) -> ErasureReceipt:
        erased_ms = self._clock.now_ms()
        before = after = await self._count(subject)
        removed, remains, told = dict.fromkeys(before, 0), dict[str, str](), False
        for _ in range(ROUNDS_MAX):
            kept_ms, round_removed = await self._round(subject, erased_ms)
            for name, gone in round_removed.items():
                removed[name] += gone
            told = await self._tell(subject)
            # Files of their own each, so at the same time.
            said = await asyncio.gather(*(place.scrub() for place in self._all))
            remains = {place.name: what for place, what in zip(self._all, said, strict=True)}
            if kept_ms:
                remains[self._all[0].name] += f", {_date(erased_ms + kept_ms)} at the latest"
            after = await self._count(subject)
            log = self._all[0].name  # a log that deletes no single record says nothing: what no key opens has gone
            removed[log] = max(removed[log], before[log] - after[log])
            if not any(count for name, count in after.items() if not remains[name]):
                break
        deposits = dict(zip(after, await asyncio.gather(*self._deposits(subject, erased_ms)), strict=True))
        settled = all(_settled(deposits[name]) if deposits[name] else not remains[name] for name in after)
        return ErasureReceipt(
            region=self._region, node=self._node, mark=erasure_mark(subject), erased_ms=erased_ms,
            finished_ms=self._clock.now_ms(), edges_told=told, not_reached=NOT_REACHED,
            accesses=await self._account(), complete=settled and not any(after.values()),
            places=tuple(
                PlaceReceipt(
                    place=place.name, what=place.what, before=before[place.name], removed=removed[place.name],
                    after=after[place.name], remains=remains[place.name], deposits=deposits[place.name],
                )
                for place in self._all
            ),
        )  # fmt: skip

    async def _round(self, subject: str, erased_ms: int) -> tuple[int, dict[str, int]]:
        """Forget everywhere once; returns how long the log keeps what it cannot take out, and how much went where."""
        records = await self._log.forget(subject)
        erasure = Erasure(erased_ms=erased_ms, through=records.through)
        stored = await self._store.forget(subject, erasure)
        gone = {self._all[0].name: records.records, self._all[1].name: stored.rows}
        gone |= {place.name: await place.forget(subject) for place in self._places}
        gone[self._places[0].name] = records.keys
        return records.kept_ms, gone

    def _deposits(self, subject: str, erased_ms: int) -> list[Awaitable[tuple[Deposit, ...]]]:
        return [place.deposits(subject, erased_ms) for place in self._all]

    async def _tell(self, subject: str) -> bool:
        kept = await self._store.erasure(subject)
        version = kept.version if kept is not None else 0
        return await self._announcer.insist(Invalidation(subject=subject, subject_version=version, erased=True))

    async def _count(self, subject: str) -> dict[str, int]:
        return {place.name: await place.count(subject) for place in self._all}


def _settled(deposits: Sequence[Deposit]) -> bool:
    return all(one.fate in SETTLED for one in deposits)


def _unsettled(deposits: Sequence[Deposit]) -> str:
    return "; ".join(f"{one.where}: {one.fate.value}" for one in deposits if one.fate not in SETTLED)


def _date(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, tz=UTC).date().isoformat()
