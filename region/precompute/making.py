"""Making lists before they are asked for, while the node has nothing better to do, and making them void in time.

A list made ahead is good for hours, so nothing may leave it standing that changes what its subject may be shown: on
every word of the grid about a subject its lists leave the grid, and an edge that may have missed such a word
(`edge.cache.invalidation`) does not take lists made ahead from before. What trends meanwhile is not in them.
"""

import asyncio
import math
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Sequence

import msgspec
from prometheus_client import CollectorRegistry, Counter

from infra.contracts.lists import GridValue, grid_key
from infra.contracts.messages import INVALIDATION_TOPIC, HomeAnswer, HomeRequest, Invalidation, Lifetime
from infra.plumbing.clock import Clock
from infra.plumbing.errors import AtollError, UnavailableError
from infra.plumbing.grid.port import VALUE_BYTES_MAX, Grid
from region.funnel.plans import OPTED_OUT_LIFETIME
from region.precompute.predicting import HOUR_MS, chance_of_visit, visits_of
from region.precompute.visitors import Visitors, key_of
from region.privacy.bulk import StandingRead
from region.settings import PrecomputeSettings
from region.store.port import Store

HELD_MAX = 20_000
LOADED_PAUSE_S = 0.5
LOADED_MAX = 20
"""Pauses in a row after which a round ends: the node has better things to do than to wait."""
GUESSED_AT_ONCE = 25
"""Visitors whose chance is told before requests get a turn: half a millisecond, where all of them would take 0.4 s."""


class Precomputer:
    """Makes lists within a budget.

    Args:
        make: the answer to a request, which nobody is shown yet.
        is_busy: whether somebody waits for this node at the moment.
        standing: writes down whose rows are read without anybody asking.
    """

    def __init__(
        self, *, settings: PrecomputeSettings, visitors: Visitors, store: Store, grid: Grid, clock: Clock,
        make: Callable[[HomeRequest], Awaitable[HomeAnswer]], is_busy: Callable[[], bool],
        registry: CollectorRegistry, standing: StandingRead,
    ) -> None:  # fmt: skip
        self._settings = settings
        self._visitors = visitors
        self._store = store
        self._grid = grid
        self._clock = clock
        self._make = make
        self._is_busy = is_busy
        self._standing = standing
        self._asked_s: deque[float] = deque(maxlen=math.ceil(settings.requests_per_s_max) + 1)
        self._held: OrderedDict[str, tuple[str, int]] = OrderedDict()
        """By subject: the list's name in the grid, and until when it is good."""
        self._lists = Counter(
            "atoll_region_precomputed",
            "Lists made ahead: made, not put, void, asked for all the same, ran out; those that could not be made "
            "(failed, degraded, empty); rounds that a busy node ended.",
            ("outcome",), registry=registry,
        )  # fmt: skip

    @property
    def is_on(self) -> bool:
        """Whether lists are to be made ahead at all."""
        return self._settings.enabled

    async def round(self) -> None:
        """Make lists for who is likely to come soon, until the budget of a round is used up or the node is busy.

        Raises:
            UnavailableError: store or grid does not answer, or the account of accesses takes no entry.
        """
        now_ms = self._clock.now_ms()
        self._run_out(now_ms)
        if not (self._settings.enabled and self._settings.is_off_peak(now_ms // HOUR_MS % 24)):
            return
        likely = await self._likely(now_ms)
        for request in likely[: self._settings.lists_per_round] if likely is not None else ():
            if not await self._has_room():
                likely = None
                break
            started_s = self._clock.monotonic_s()
            await self._make_one(request)
            await self._rest(started_s, at_least_s=1.0 / self._settings.lists_per_s)
        if likely is None:
            self._lists.labels("busy").inc()

    async def _rest(self, started_s: float, *, at_least_s: float = 0.0) -> None:
        """Pause so long that what began at `started_s` takes no more than its share of a core."""
        took_s = self._clock.monotonic_s() - started_s
        await asyncio.sleep(max(at_least_s - took_s, took_s * (1.0 / self._settings.cpu_share - 1.0), 0.0))

    def asked(self, request: HomeRequest) -> None:
        """The region was asked for a list: whatever was made ahead for this subject was not taken."""
        if not self._settings.enabled:
            return
        self._visitors.note(request, now_ms=self._clock.now_ms())
        self._asked_s.append(self._clock.monotonic_s())
        if request.subject is not None and self._held.pop(request.subject, None) is not None:
            self._lists.labels("asked for all the same").inc()

    def count_of(self, subject: str) -> int:
        """What is kept of a subject: its last request, and a list made ahead."""
        return self._visitors.count_of(subject) + int(subject in self._held)

    def subjects(self) -> frozenset[str]:
        """Of whom anything is kept."""
        return frozenset((*self._visitors.subjects(), *self._held))

    async def forget(self, subject: str) -> int:
        """Nothing is kept of a subject, and its list leaves the grid; returns how much there was."""
        count = self.count_of(subject)
        self._visitors.forget(subject)
        await self.void(subject)
        return count

    async def void(self, subject: str) -> None:
        """The list made ahead for a subject does not hold any more."""
        held = self._held.pop(subject, None)
        if held is None:
            return
        self._lists.labels("void").inc()
        try:
            await self._grid.delete(held[0])
        except UnavailableError:
            return  # Edges that heard the word do not take it, and it runs out.

    async def _guessed(self, now_ms: int, horizon_ms: int) -> Sequence[tuple[float, HomeRequest, tuple[int, ...]]]:
        """Visitors by the chance that their requests here alone give, the likeliest first; requests go on meanwhile."""
        guessed = []
        started_s = self._clock.monotonic_s()
        for place, (request, moments) in enumerate(self._visitors.all(), start=1):
            if request.subject is not None and request.subject not in self._held:
                chance = chance_of_visit(visits_of(moments), now_ms=now_ms, horizon_ms=horizon_ms)
                guessed.append((chance, request, moments))
            if place % GUESSED_AT_ONCE == 0:
                await self._rest(started_s)
                started_s = self._clock.monotonic_s()
        guessed.sort(key=lambda one: -one[0])
        return guessed[: 2 * self._settings.lists_per_round]

    async def _likely(self, now_ms: int) -> Sequence[HomeRequest] | None:
        """Requests of visitors by the chance that they come within the horizon, the likeliest first.

        None when the node has something better to do than to read their rows.
        """
        horizon_ms = round(self._settings.horizon_s * 1000)
        found = []
        for _, request, moments in await self._guessed(now_ms, horizon_ms):
            if not await self._has_room():
                return None
            (await self._standing.current()).touch("rows", request.subject or "")
            row = await self._store.read(request.subject or "")
            if row is None or row.opted_out:
                continue
            visits = visits_of((*moments, *row.history.times_ms))
            found.append((chance_of_visit(visits, now_ms=now_ms, horizon_ms=horizon_ms), request))
        found.sort(key=lambda one: -one[0])
        return [request for chance, request in found if chance >= self._settings.chance_min]

    def _is_loaded(self) -> bool:
        asked = self._asked_s
        many = len(asked) == asked.maxlen and self._clock.monotonic_s() - asked[0] < 1.0
        return many or self._is_busy()

    async def _has_room(self) -> bool:
        for _ in range(LOADED_MAX):
            if not self._is_loaded():
                return True
            await asyncio.sleep(LOADED_PAUSE_S)
        return False

    async def _make_one(self, request: HomeRequest) -> None:
        (await self._standing.current()).touch("lists", request.subject or "")
        try:
            answer = await self._make(request)
        except AtollError:
            self._lists.labels("failed").inc()
            return
        if answer.lifetime == OPTED_OUT_LIFETIME or request.subject is None:
            return
        if answer.degraded or not answer.items:
            self._lists.labels("degraded" if answer.degraded else "empty").inc()
            return
        life_s = self._settings.horizon_s
        lifetime = Lifetime(max_age_s=life_s, stale_while_revalidate_s=600.0, stale_if_error_s=86_400.0)
        ahead = msgspec.structs.replace(answer, lifetime=lifetime, precomputed=True)
        name = grid_key(key_of(request))
        content = msgspec.msgpack.encode(GridValue(answer=ahead, asked=request.n))
        if len(content) > VALUE_BYTES_MAX:
            return
        # Remembered first: a word about the subject that comes while it is put makes it void all the same.
        self._held[request.subject] = (name, self._clock.now_ms() + round(life_s * 1000))
        try:
            await self._grid.put(name, content, ttl_s=life_s)
        except UnavailableError:
            # It may lie there all the same: who hears of the subject has it deleted.
            self._lists.labels("not put").inc()
            return
        if request.subject not in self._held:
            await self._grid.delete(name)
        self._lists.labels("made").inc()
        while len(self._held) > HELD_MAX:
            await self.void(next(iter(self._held)))

    def _run_out(self, now_ms: int) -> None:
        for subject in [one for one, (_, until_ms) in self._held.items() if until_ms <= now_ms]:
            del self._held[subject]
            self._lists.labels("ran out").inc()


async def hear_changes(grid: Grid, precomputer: Precomputer) -> None:
    """Make void what the grid's words are about; ends when the grid ends it."""
    async for message in grid.subscribe(INVALIDATION_TOPIC):
        if message is None:
            continue
        heard = msgspec.json.decode(message, type=Invalidation)
        if heard.subject is not None:
            await precomputer.void(heard.subject)
