"""Warm-up: an edge that starts asks for the lists that were in demand before it says that it is ready.

Which lists those are is written down now and then by the running node, into its own state directory and, for nodes
that never ran before, into the region's grid: the *audience* keys of its cache that were asked for most. A key with a
subject or a visitor's recent items is personal data and is never written; personal lists come from the grid when their
subject asks. At most KEYS_MAX keys are written, and what cannot be read is ignored: warming is a kindness, not a
condition.
"""

import asyncio
from pathlib import Path

import msgspec

from edge.answering.requests import home_request
from edge.cache.entry import Entry
from edge.cache.filling import ListFiller
from edge.cache.l1 import L1Cache
from edge.calls import ListQuery
from edge.routing.dispatch import Dispatcher
from edge.routing.port import RegionCallError
from infra.contracts.lists import ListKey
from infra.contracts.messages import Context
from infra.plumbing.errors import OverloadedError
from infra.plumbing.files import write_atomically
from infra.plumbing.grid.port import Grid, GridUnavailableError

KEYS_MAX = 200
FILE_BYTES_MAX = 1 << 20
AT_ONCE = 8
WRITE_EVERY_S = 30.0
GRID_NAME = "warm-keys"
GRID_LIFE_S = 3_600.0
GRID_WAIT_S = 0.5
"""How long a new node waits for the grid's word on what is in demand: its connection may not stand yet."""
_GRID_AGAIN_S = 0.05


class WarmKey(msgspec.Struct, frozen=True):
    """One audience list that was in demand, and the page size that it was asked for with."""

    key: ListKey
    asked: int


class Warmer:
    """Keeps the file, and fills the cache from it once.

    Args:
        path: the file.
        cache: whose keys are written down.
        filler: what fills.
        dispatcher: who is asked.
        grid: where a node without a file learns what its neighbours are asked for.
        within_s: how long all of it may take before the node says it is ready all the same.
    """

    def __init__(
        self, *, path: Path, cache: L1Cache[Entry], filler: ListFiller, dispatcher: Dispatcher, grid: Grid,
        within_s: float,
    ) -> None:  # fmt: skip
        self._path = path
        self._cache = cache
        self._filler = filler
        self._dispatcher = dispatcher
        self._grid = grid
        self._within_s = within_s
        self.is_done = False
        self.warmed = 0

    async def run(self) -> None:
        """Warm the cache, then write keys down until cancelled."""
        try:
            async with asyncio.timeout(self._within_s):
                await self._fill_all(await asyncio.to_thread(read_keys, self._path) or await self._neighbours_keys())
        except TimeoutError:
            pass  # The rest is filled by whoever asks.
        finally:
            self.is_done = True
        while True:
            await asyncio.sleep(WRITE_EVERY_S)
            await self.write()

    async def write(self) -> None:
        """Write down which audience lists are in demand; keeps what is there if there are none."""
        keys = audience_keys(self._cache)
        if keys:
            raw = msgspec.json.encode(keys)
            await asyncio.to_thread(write_atomically, self._path, raw, mode=0o600)
            try:
                async with asyncio.timeout(GRID_WAIT_S):
                    await self._grid.put(GRID_NAME, raw, ttl_s=GRID_LIFE_S)
            except (TimeoutError, GridUnavailableError):
                return  # The next time will do.

    async def _neighbours_keys(self) -> list[WarmKey]:
        """What the edges of this region are asked for; nothing when the grid does not say so in GRID_WAIT_S."""
        try:
            async with asyncio.timeout(GRID_WAIT_S):
                while True:
                    try:
                        return keys_in(await self._grid.get(GRID_NAME) or b"[]")
                    except GridUnavailableError:
                        await asyncio.sleep(_GRID_AGAIN_S)
        except TimeoutError:
            return []

    async def _fill_all(self, keys: list[WarmKey]) -> None:
        gate = asyncio.Semaphore(AT_ONCE)
        await asyncio.gather(*(self._fill(one, gate) for one in keys))

    async def _fill(self, warm: WarmKey, gate: asyncio.Semaphore) -> None:
        key = warm.key
        query = ListQuery(
            type=key.type, surface=key.surface, n=warm.asked, item=key.item, category=key.category,
            filters=key.filters, context=Context(locale=key.locale, device=key.device, country=key.country),
        )  # fmt: skip
        async with gate:
            try:
                flight, _ = self._filler.fill(key, home_request(query, subject=None), self._dispatcher.attempts())
                await asyncio.wait({flight})
                self.warmed += not flight.cancelled() and flight.exception() is None
            except (OverloadedError, RegionCallError):
                return


def audience_keys(cache: L1Cache[Entry]) -> list[WarmKey]:
    """The audience keys that were asked for most, at most KEYS_MAX."""
    wanted = [
        (demand, WarmKey(key, entry.asked))
        for demand, key, entry in cache.demand()
        if isinstance(key, ListKey) and is_audience(key) and not entry.answer.personal
    ]
    wanted.sort(key=lambda one: -one[0])
    return [warm for _, warm in wanted[:KEYS_MAX]]


def is_audience(key: ListKey) -> bool:
    """Whether a list belongs to everybody: nothing in its key comes from one person."""
    return key.subject is None and not key.recent and not key.away and key.arm is None


def read_keys(path: Path) -> list[WarmKey]:
    """What was written down; nothing where it cannot be used."""
    try:
        return [] if path.stat().st_size > FILE_BYTES_MAX else keys_in(path.read_bytes())
    except OSError:
        return []


def keys_in(raw: bytes) -> list[WarmKey]:
    """The keys that were written; nothing where they cannot be used."""
    try:
        keys = msgspec.json.decode(raw, type=list[WarmKey])
    except (msgspec.DecodeError, UnicodeDecodeError):
        return []
    return [warm for warm in keys[:KEYS_MAX] if is_audience(warm.key)]
