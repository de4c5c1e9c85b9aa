"""Lists of the caller's region: look them up, fill them, keep them where residency allows.

A fill asks the grid, then the region's nodes; what comes back is kept in process and offered to the grid. A personal
list is kept only by edges of the region that made it: `_may_keep` is the one door to both caches.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass

from edge.background import Background
from edge.cache.ages import RegionTime
from edge.cache.behind import active_of, behind
from edge.cache.coalescing import Coalescer
from edge.cache.entry import Entry
from edge.cache.invalidation import Ledger
from edge.cache.l1 import L1Cache
from edge.cache.policy import Life, Standing, Usability, jittered_life, usability, with_early_refresh
from edge.cache.shared import SharedLists
from edge.jitter import Uniform
from edge.limits.buckets import CallerLimits, Rate
from edge.limits.hot_keys import HotKeys
from edge.metrics import EdgeMetrics
from edge.routing.desk import RegionDesk
from edge.routing.dispatch import Attempts
from edge.routing.port import CallFailure, RegionCallError
from infra.contracts.lists import GridValue, ListKey
from infra.contracts.messages import (
    TRIAL_ARM,
    AwayAnswer,
    AwayRequest,
    DegradationStep,
    HomeAnswer,
    HomeRequest,
    Lifetime,
)
from infra.plumbing.clock import Clock
from infra.plumbing.errors import OverloadedError
from infra.plumbing.grid.port import GridUnavailableError

REFUSED_KEPT_S = 3.0
REFUSED_MAX = 2_000
GRID_TTL_S_MAX = 3_600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class FillingSettings:
    """Who this edge is, and how long things may take and live.

    own_region: whose lists these are.
    away_regions: other regions, nearest first.
    fill_deadline_s: how long one fill may take, however long its callers wait.
    away_life_s: how long a list of another region is kept.
    fills_max: fills under way at once.
    per_list: how often one list may be asked of the region, whoever wants it.
    """

    own_region: str
    away_regions: tuple[str, ...]
    fill_deadline_s: float
    away_life_s: float
    fills_max: int
    per_list: Rate


@dataclass(frozen=True, slots=True)
class Filled:
    """What a fill brought, and from where."""

    entry: Entry
    step: DegradationStep


class ListFiller:
    """Owns the in-process cache and the fills under way.

    Args:
        cache: the level in this process.
        shared: the level that the edges of the region share.
        ledger: judges entries by what was heard since.
        desk: asks regions.
    """

    def __init__(
        self,
        *,
        settings: FillingSettings,
        cache: L1Cache[Entry],
        shared: SharedLists,
        ledger: Ledger,
        desk: RegionDesk,
        background: Background,
        clock: Clock,
        uniform: Uniform,
        metrics: EdgeMetrics,
    ) -> None:
        self.hot_keys = HotKeys()
        """Which lists take a large share of the answers of this edge."""
        self.fill_deadline_s = settings.fill_deadline_s
        self._settings = settings
        self._cache = cache
        self._flights: Coalescer[Filled] = Coalescer(flights_max=settings.fills_max)
        self._shared = shared
        self._ledger = ledger
        self._desk = desk
        self._background = background
        self._clock = clock
        self._uniform = uniform
        self._metrics = metrics
        self._limits = CallerLimits(rate=settings.per_list)
        self._region_time = RegionTime(clock)
        away = settings.away_life_s
        self._away_lifetime = Lifetime(max_age_s=away, stale_while_revalidate_s=0.0, stale_if_error_s=0.0)
        self._refused: OrderedDict[Hashable, float] = OrderedDict()

    async def close(self) -> None:
        """Cancel the fills under way."""
        await self._flights.close()

    def find(self, key: ListKey) -> tuple[Entry, Usability] | None:
        """The entry of `key` and what it is good for now."""
        self.hot_keys.note(key, 1, now_s=self._clock.monotonic_s())
        entry = self._cache.get(key)
        if entry is None:
            return None
        active = active_of(entry, key.subject, self._ledger, now_s=self._clock.monotonic_s())
        if active is not entry:
            entry.before, active.before = None, entry
            active.is_held = self._cache.put(key, active)
        return active, self.judge(key, active)

    def judge(self, key: ListKey, entry: Entry) -> Usability:
        """What `entry` is good for now."""
        standing = self._ledger.standing(entry, key.subject)
        return usability(entry.life, age_s=entry.age_s(self._clock.monotonic_s()), standing=standing)

    def was_refused(self, key: ListKey) -> bool:
        """Whether the region said moments ago that it cannot make this list (an item that does not exist, say)."""
        until_s = self._refused.get(key)
        return until_s is not None and self._clock.monotonic_s() < until_s

    def drop_subject(self, subject: str) -> None:
        """Nothing of a subject is kept that was erased or opted out: here at once, in the grid what this edge knows of.

        The ledger forgets the subject heard of longest ago, and what it has forgotten forbids no list.
        """
        for key in self._cache.discard_where(lambda key: isinstance(key, ListKey) and key.subject == subject):
            if isinstance(key, ListKey):
                self._background.spawn(self._shared.discard(key))

    def count_call(self, key: ListKey) -> None:
        """One more call to the region for `key`, whoever wants it: explained or storming, one list is not all there is.

        Raises:
            OverloadedError: it was asked for too often lately.
        """
        if not self._limits.allow(key, now_s=self._clock.monotonic_s()):
            self._metrics.fills.labels("limited").inc()
            raise OverloadedError("this list is asked for too often.")

    def fill(self, key: ListKey, request: HomeRequest, attempts: Attempts) -> tuple[asyncio.Task[Filled], bool]:
        """The fill of `key`, and whether it was under way already. It outlives its callers.

        Raises:
            OverloadedError: too many fills are under way.
        """
        # See the second interleaving in `edge.cache.coalescing`.
        flight = (key, request.n, self._ledger.version_of(key.subject), self._ledger.edition)
        return self._joined(flight, lambda: self._fill(key, request, attempts))

    def fill_away(self, key: ListKey, request: AwayRequest, attempts: Attempts) -> tuple[asyncio.Task[Filled], bool]:
        """The same for a list of another region, which is kept briefly so that a dead region multiplies no load."""
        return self._joined((key, request.n), lambda: self._fill_away(key, request, attempts))

    def _joined(self, flight: Hashable, start: Callable[[], Awaitable[Filled]]) -> tuple[asyncio.Task[Filled], bool]:
        task, joined = self._flights.join(flight, start)
        if joined:
            self._metrics.coalesced.inc()
        return task, joined

    async def _fill(self, key: ListKey, request: HomeRequest, attempts: Attempts) -> Filled:
        from_grid = await self._from_grid(key, request.n)
        if from_grid is not None:
            return Filled(from_grid, DegradationStep.GRID)
        await self._hear_again(key)
        self.count_call(key)
        started_s = self._clock.monotonic_s()
        try:
            reply = await self._desk.ask_home(request, deadline_s=started_s + self.fill_deadline_s, attempts=attempts)
        except RegionCallError as error:
            self._note_failed(key, error)
            raise
        took_s = self._clock.monotonic_s() - started_s
        self._region_time.hear(reply.answer.generated_at_ms, asked_s=started_s)
        entry = Entry(
            reply.answer, self._life(key, reply.answer.lifetime, took_s), made_s=started_s, asked=request.n
        )  # fmt: skip
        self._keep(key, entry)
        self._metrics.fills.labels("answered").inc()
        return Filled(entry, DegradationStep.HOME if reply.target.place == 0 else DegradationStep.REPLICA)

    async def _fill_away(self, key: ListKey, request: AwayRequest, attempts: Attempts) -> Filled:
        started_s = self._clock.monotonic_s()
        answer = await self._desk.ask_away(
            request, self._settings.away_regions, deadline_s=started_s + self.fill_deadline_s, attempts=attempts
        )
        entry = Entry(
            as_home_answer(answer), jittered_life(self._away_lifetime, self._uniform), made_s=started_s, asked=request.n
        )
        self._hold(key, entry)
        return Filled(entry, DegradationStep.FAILOVER)

    async def _from_grid(self, key: ListKey, asked: int) -> Entry | None:
        """A fresh entry out of the grid, now also in process; a stale one is kept in case the region fails."""
        value = await self._shared.read(key)
        if value is None or not self._may_keep(key, value.answer):
            return None
        life = self._life(key, value.answer.lifetime, 0.0)
        age_s = self._region_time.age_s(value.answer.generated_at_ms)
        is_of_known_age = age_s is not None
        if age_s is None:
            age_s = life.revalidate_until_s  # Of no known age: good for nothing while the region answers.
        entry = Entry(value.answer, life, made_s=self._clock.monotonic_s() - age_s, asked=value.asked)
        if not await self._may_show(key, entry, is_of_known_age=is_of_known_age):
            return None
        found = self.judge(key, entry)
        held = self._cache.peek(key)
        if held is not None and value.answer.generated_at_ms <= held.answer.generated_at_ms and held.asked >= asked:
            return None  # This edge has it, and asks because it wants a newer one.
        if found is Usability.FRESH and value.asked >= asked:
            self._hold(key, entry)
            self._metrics.fills.labels("grid").inc()
            return entry
        if found <= Usability.ON_ERROR and held is None:
            self._hold(key, entry)
        return None

    async def _may_show(self, key: ListKey, entry: Entry, *, is_of_known_age: bool) -> bool:
        """Whether a list out of the grid is not from before its subject opted out or was erased.

        Of an edge that starts while its region is dark nobody else would say so: what it did not hear itself it reads
        from the mark that the region put beside the lists. Where that cannot be read nobody knows, and it is not shown.
        """
        if key.subject is None or not entry.answer.personal:
            return True
        was_heard = is_of_known_age and not self._ledger.may_have_missed(entry.made_s)
        if not was_heard and not await self._hear_choice(key.subject):
            return False
        if self._ledger.standing(entry, key.subject) is not Standing.FORBIDDEN:
            return True
        # Nor may it outlive the mark by being asked for, where the grid gives up what was not.
        self._background.spawn(self._shared.discard(key))
        return False

    async def _hear_choice(self, subject: str) -> bool:
        """Take the subject's choice from the grid; whether the grid could say."""
        try:
            mark = await self._shared.choice(subject)
        except GridUnavailableError:
            return False
        if mark is not None:
            self._ledger.take_choice(subject, mark)
        return True

    async def may_use_vector(self, key: ListKey, subject: str | None) -> bool:
        """Whether a caller's own vector may be ranked with, now that home does not answer: not of who opted out.

        Where the grid is away too, a list that home made since this edge last missed anything says that the caller had
        not opted out then; of whom there is none nobody knows.
        """
        if subject is None:
            return True
        if not await self._hear_choice(subject):
            held = self._cache.peek(key)
            if held is None or not held.answer.personal or self._ledger.may_have_missed(held.made_s):
                return False
        return not self._ledger.has_opted_out(subject)

    async def _hear_again(self, key: ListKey) -> None:
        """Home may not answer in time, and then a list of before is shown: a word about that may have been missed."""
        held = self._cache.peek(key)
        if key.subject is not None and held is not None and self._ledger.may_have_missed(held.made_s):
            await self._hear_choice(key.subject)

    def _keep(self, key: ListKey, entry: Entry) -> None:
        if not self._may_keep(key, entry.answer) or entry.life.error_until_s <= 0:
            return
        held = self._cache.peek(key)
        if held is not None and held.answer.subject_version > entry.answer.subject_version:
            return  # A slow fill that began before an event must not put the list of before over the list of after.
        self._hold(key, entry)
        value = GridValue(answer=entry.answer, asked=entry.asked)
        ttl_s = min(entry.life.error_until_s, GRID_TTL_S_MAX)
        self._background.spawn(self._shared.write(key, value, ttl_s=ttl_s))

    def _life(self, key: ListKey, lifetime: Lifetime, cost_s: float) -> Life:
        life = jittered_life(lifetime, self._uniform)
        return with_early_refresh(life, cost_s=cost_s, uniform=self._uniform, is_hot=self.hot_keys.is_hot(key))

    def _hold(self, key: ListKey, entry: Entry) -> None:
        entry.before = behind(self._cache.peek(key), entry, self._ledger, now_s=self._clock.monotonic_s())
        entry.is_held = self._cache.put(key, entry)

    def _may_keep(self, key: ListKey, answer: HomeAnswer) -> bool:
        """Residency: only lists that this region made, and personal ones only under their subject's key.

        So are those of a release that is tried: only its bucket may see them.
        """
        owned = key.subject is not None or not (answer.personal or answer.arm == TRIAL_ARM)
        return answer.region == self._settings.own_region and owned and bool(answer.items)

    def _note_failed(self, key: ListKey, error: RegionCallError) -> None:
        self._metrics.fills.labels(error.failure.value).inc()
        if error.failure is CallFailure.REFUSED:
            self._refused[key] = self._clock.monotonic_s() + REFUSED_KEPT_S
            self._refused.move_to_end(key)
            if len(self._refused) > REFUSED_MAX:
                self._refused.popitem(last=False)


def as_home_answer(answer: AwayAnswer) -> HomeAnswer:
    """Another region's answer in the shape that pages are made of."""
    return HomeAnswer(
        items=answer.items, release=answer.release, region=answer.region, personal=answer.used_vector,
        lifetime=answer.lifetime, degraded=answer.degraded, generated_at_ms=answer.generated_at_ms,
    )  # fmt: skip
