"""The funnel: one request from its user row to a slate, each stage with its share of the time, none of them needed.

What fails or is late is left out, said in the trace and in `degraded`, and something is always shown.
"""

import asyncio
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager

import numpy as np

from infra.contracts.features import FloatArray, IntArray, encode_history
from infra.contracts.messages import Context, HomeRequest, ItemFilters, SlateItem, Source
from infra.plumbing.errors import OverloadedError
from region.exploration.counters import Tally
from region.funnel import sources
from region.funnel.chosen import of_editors, of_followed
from region.funnel.compute import ComputePool, Early
from region.funnel.contexts import in_context
from region.funnel.exploring import Exploring
from region.funnel.finishing import Draft, Finished, finish
from region.funnel.live import LiveTrend
from region.funnel.plans import ANN_CANDIDATES_MAX, CANDIDATES_PER_SOURCE, slots_for
from region.funnel.query import History
from region.funnel.release import LoadedRelease
from region.funnel.ruling import Ruling, Rulings
from region.funnel.seats import Seats
from region.funnel.sources import Candidates
from region.funnel.tables import ReleaseTables
from region.funnel.understanding import Call, Query, understand
from region.rules.applying import Guard, RuleCounts
from region.rules.facets import Facets
from region.rules.filters import outside, row_set
from region.rules.regional import Withdrawals

SOURCES_WAIT_S = 0.05
"""However late a call is, the sources of the tables are waited for this long: they take a millisecond once they have a
thread, and without them a list says nothing of the caller."""
Shown = Callable[[Call, Finished, Ruling], None]


class Funnel:
    """Runs calls against whatever release they name.

    Args:
        compute: threads for the numeric parts.
        live: what trends in this region now.
        withdrawals: items that may not be shown.
        rulings: the region's rules, or each release's defaults.
        on_blocked: told how many candidates of a call each hard rule kept out.
        tally: the counts that exploration slots go by.
        on_shown: told of every page that goes to whom it is about.
        forget: told of every subject that has opted out.
        lifts: how much more than usual each category is taken in some circumstances.
    """

    def __init__(
        self, *, compute: ComputePool, live: LiveTrend, withdrawals: Withdrawals, rulings: Rulings,
        on_blocked: Callable[[Mapping[str, int]], None] = lambda _counts: None,
        tally: Callable[[], Tally] = Tally, on_shown: Shown = lambda _call, _finished, _ruling: None,
        forget: Callable[[str], None] = lambda _subject: None,
        lifts: Callable[[Context], Mapping[str, float]] = lambda _context: {},
    ) -> None:  # fmt: skip
        self._compute = compute
        self._live = live
        self._withdrawals = withdrawals
        self._rulings = rulings
        self._on_blocked = on_blocked
        self._tally = tally
        self._on_shown = on_shown
        self._forget = forget
        self._lifts = lifts
        self._withdrawn: tuple[tuple[Seats, int, int], frozenset[int]] | None = None

    async def run(self, call: Call) -> tuple[SlateItem, ...]:
        """The slate: the page and spare items behind it.

        Raises:
            InvalidInputError: the call's vector does not fit the release that it names.
            OverloadedError: too many computations wait.
        """
        with call.recorder.stage("query", candidates_in=_brought(call)) as note:
            await self._look_through(call)
            ruling = self._ruling(call)
            call.recorder.lives = ruling.active.settings.lives
            query = understand(call, mix=ruling.active.settings.mix)
            note.candidates_out = query.history.size
        vector, groups = await self._candidates(call, query, ruling)
        draft = self._draft(call, query, ruling, vector, groups)
        finished = await self._compute.run(finish, draft, call.recorder)
        self._account(call, finished, ruling)
        call.recorder.rows = finished.rows
        return finished.slate

    def permitted(self, request: HomeRequest, release: LoadedRelease, rows: IntArray, *, now_s: float) -> IntArray:
        """Those of `rows` that may be shown to whoever asks like this: not withdrawn, not kept out by a hard rule."""
        ruling = self._rulings.rule(request, release, now_s=now_s, remembered=False)
        rows = rows[outside(rows, row_set(self._withdrawn_rows(release)))]
        return rows[Guard(ruling.active, ruling.ground, counts=RuleCounts()).allowed(rows)]

    async def _look_through(self, call: Call) -> None:
        """Filters that are new look through the catalogue once: not on the loop."""
        filters, facets = call.request.filters, call.release.tables.facets
        if not (filters.empty or facets.knows(filters)):
            await self._compute.run(self._knowing, facets, filters)

    def _knowing(self, facets: Facets, filters: ItemFilters) -> None:
        with self._compute.without_turn():
            facets.allowed(filters)

    def _ruling(self, call: Call) -> Ruling:
        return self._rulings.rule(
            call.request, call.release, now_s=call.now_s, remembered=call.may_remember, proposed=call.proposed
        )

    def _account(self, call: Call, finished: Finished, ruling: Ruling) -> None:
        if call.proposed is None and finished.blocked:
            self._on_blocked(finished.blocked)
        if call.row is not None and call.row.opted_out:
            self._rulings.pages.forget(call.row.subject)
            self._forget(call.row.subject)
        elif call.leaves_traces:
            self._rulings.remember(call.request, call.release, finished.rows, now_s=call.now_s)
            self._on_shown(call, finished, ruling)

    async def _candidates(
        self, call: Call, query: Query, ruling: Ruling
    ) -> tuple[FloatArray | None, tuple[Candidates, ...]]:
        """The query's vector, and what every source of the plan puts up, the index first.

        One trip to the threads makes both: trips cost more than most sources. The loop hears of the vector on the way,
        so that the index searches in its own process while the thread reads the tables::

            thread    user tower | sources of the tables |
            loop                 | ask the index |.......................| both are there
            index                                | search, answer        |

        Raises:
            OverloadedError: too many computations wait.
        """
        early: Early[FloatArray | None] = Early()
        trip = self._compute.begin(self._vector_and_sources, call, query, ruling, early)
        try:
            vector = await self._vector(call, early) if query.wants_tower else query.vector
            if early.is_given_up:
                # The tower does not come back in time; the sources do without it, on another thread.
                trip = self._compute.begin(self._sources_in_time, call, query, ruling)
            share_s = call.budget.timeout_s("sources", now_s=call.recorder.clock.monotonic_s())
            until_s = asyncio.get_running_loop().time() + max(share_s, SOURCES_WAIT_S)
            nearest = await self._nearest(call, query, vector)
            return vector, (*nearest, *await self._from_sources(call, trip, until_s=until_s))
        finally:
            trip.cancel()

    async def _vector(self, call: Call, early: "Early[FloatArray | None]") -> FloatArray | None:
        """The user tower's vector, or None."""
        try:
            async with asyncio.timeout(call.budget.left_s(now_s=call.recorder.clock.monotonic_s())):
                return await early.value
        except TimeoutError:
            call.recorder.skip("user-tower", why="timeout")
            return None

    async def _from_sources(
        self, call: Call, trip: "asyncio.Future[tuple[Candidates, ...]]", *, until_s: float
    ) -> tuple[Candidates, ...]:  # fmt: skip
        try:
            async with asyncio.timeout_at(until_s):
                return await trip
        except TimeoutError:
            call.recorder.skip("sources", why="timeout")
            return ()

    def _vector_and_sources(
        self, call: Call, query: Query, ruling: Ruling, early: "Early[FloatArray | None]"
    ) -> tuple[Candidates, ...]:  # fmt: skip
        if query.wants_tower:
            vector = None
            try:
                vector = self._user_vector(call, query.history)
            finally:
                early.tell(vector)
            if early.is_given_up:
                return ()
        return self._sources_in_time(call, query, ruling)

    def _sources_in_time(self, call: Call, query: Query, ruling: Ruling) -> tuple[Candidates, ...]:
        if call.budget.timeout_s("sources", now_s=call.recorder.clock.monotonic_s()) <= 0.0:
            call.recorder.skip("sources", why="deadline")
            return ()
        return self._every_source(call, query, ruling)

    def _every_source(self, call: Call, query: Query, ruling: Ruling) -> tuple[Candidates, ...]:
        groups: list[Candidates] = []
        for source in query.plan.weights:
            if source is Source.ANN or self._has_nothing(source, query, ruling):
                continue
            if call.budget.timeout_s("sources", now_s=call.recorder.clock.monotonic_s()) <= 0.0:
                call.recorder.skip(source.value, why="deadline")
                continue
            found = self._one_source(call, query, ruling, source)
            if found is not None:
                groups.append(found)
        return tuple(groups)

    @staticmethod
    def _has_nothing(source: Source, query: Query, ruling: Ruling) -> bool:
        """Whether a source need not be asked: nothing is followed, or the editors have no list for the call."""
        if source is Source.FOLLOWS:
            return not query.follows
        return source is Source.EDITORIAL and not ruling.active.editorial

    def _user_vector(self, call: Call, history: History) -> FloatArray | None:
        if call.budget.timeout_s("user-tower", now_s=call.recorder.clock.monotonic_s()) <= 0.0:
            call.recorder.skip("user-tower", why="deadline")
            return None
        try:
            with call.recorder.stage("user-tower", candidates_in=history.size) as note:
                vector = _tower_vector(call, history, self._compute.without_turn)
                note.candidates_out = 1
        except Exception:
            call.recorder.degrade("user-tower")
            return None
        return vector

    async def _nearest(self, call: Call, query: Query, vector: FloatArray | None) -> tuple[Candidates, ...]:
        if query.anchor is not None:
            vector = call.release.tables.arrays.vectors[query.anchor]
        if Source.ANN not in query.plan.weights or vector is None:
            return ()
        timeout_s = call.budget.timeout_s("ann", now_s=call.recorder.clock.monotonic_s())
        if timeout_s <= 0.0:
            call.recorder.skip("ann", why="deadline")
            return ()
        try:
            with call.recorder.stage("ann") as note:
                found = await self._search(call, query, vector, timeout_s)
                note.candidates_out = found.rows.size
        except OverloadedError:
            raise
        except Exception:
            call.recorder.degrade("ann")
            return ()
        return (found,)

    async def _search(self, call: Call, query: Query, vector: FloatArray, timeout_s: float) -> Candidates:
        tables = call.release.tables
        wanted = tables.shape.ranker_batch + query.history.size + len(call.request.exclude)
        limit = min(wanted, tables.shape.num_items, ANN_CANDIDATES_MAX)
        rows = _rows_to_search(tables, query)
        if rows is not None:
            async with asyncio.timeout(timeout_s):
                return await self._compute.run(sources.nearest_among, tables, vector, rows=rows, limit=limit)
        rows, scores = await call.release.retrieval.search(vector, limit, timeout_s)
        return Candidates(Source.ANN, rows, scores)

    def _one_source(self, call: Call, query: Query, ruling: Ruling, source: Source) -> Candidates | None:
        try:
            with call.recorder.stage(source.value) as note:
                found = self._from_tables(call, query, ruling, source)
                note.candidates_out = found.rows.size
        except Exception:
            call.recorder.degrade(source.value)
            return None
        if source is Source.TRENDING and self._live.is_stale():
            call.recorder.degrade(source.value)
        return found

    def _from_tables(self, call: Call, query: Query, ruling: Ruling, source: Source) -> Candidates:
        tables, standing, limit = call.release.tables, call.release.standing, CANDIDATES_PER_SOURCE[source]
        category = query.category
        asked: Mapping[Source, Callable[[], Candidates]] = {
            Source.SIMILAR_TO_RECENT: lambda: sources.similar_to_recent(tables, query.history, limit=limit),
            Source.TRENDING: lambda: self._live.trend(call.release).best(category, limit),
            Source.POPULAR: lambda: sources.popular(tables, standing, category=category, limit=limit),
            Source.NEW: lambda: sources.newest(tables, standing, category=category, limit=limit),
            Source.FOLLOWS: lambda: of_followed(tables, query.follows, limit=limit),
            Source.EDITORIAL: lambda: of_editors(ruling.ground.bound, ruling.active, limit=limit),
            Source.CONTEXT: lambda: in_context(
                tables, standing, self._lifts(call.request.context), category=category, limit=limit
            ),
        }
        if source in asked:
            return asked[source]()
        anchor = _anchor_of(query, source)
        if anchor is None:
            return sources.nothing(source)
        about = sources.together if source is Source.TOGETHER else sources.similar
        return about(tables, anchor, limit=limit)

    def _draft(
        self, call: Call, query: Query, ruling: Ruling, vector: FloatArray | None, groups: tuple[Candidates, ...]
    ) -> Draft:
        request, tables = call.request, call.release.tables
        explores = query.plan.arranged and call.may_remember
        return Draft(
            release=call.release,
            plan=query.plan,
            ruling=ruling,
            groups=groups,
            history=query.history,
            vector=vector,
            anchor=query.anchor,
            category=query.category,
            allowed=query.allowed,
            seen=() if request.among else tuple(query.history.rows.tolist()),
            excluded=tuple(tables.known_rows(request.exclude)),
            withdrawn=self._withdrawn_rows(call.release),
            page=request.n,
            slots=slots_for(request.n),
            now_s=call.now_s,
            budget=call.budget,
            explain=request.explain,
            locale=request.context.locale,
            follows=query.follows,
            without_turn=self._compute.without_turn,
            exploring=(
                Exploring.of(request, ruling.active.settings.exploration, self._tally(), tables) if explores else None
            ),
        )

    def _withdrawn_rows(self, release: LoadedRelease) -> frozenset[int]:
        seats = release.tables.seats
        key = (seats, self._withdrawals.edition, seats.edition)
        if self._withdrawn is None or self._withdrawn[0] != key:
            named = (*self._withdrawals.items, *release.tables.rules.withdrawn)
            self._withdrawn = (key, frozenset(release.tables.known_rows(named)) | seats.left)
        return self._withdrawn[1]


def _rows_to_search(tables: ReleaseTables, query: Query) -> IntArray | None:
    """The rows that are few enough to be searched one by one, new ones first; None where the index is better."""
    seated = tables.seats.rows
    if query.category is not None:
        seated = seated[tables.is_of_category(seated, query.category)]
        own = sources.passing_of_category(tables, query.category, query.allowed)
    elif query.allowed is not None and query.allowed.is_whole:
        own = query.allowed.best
    else:
        return None
    if query.allowed is not None:
        seated = seated[query.allowed[seated]]
    return np.concatenate([seated, own])


def _anchor_of(query: Query, source: Source) -> int | None:
    """The item that a list about an item is about; in personal lists, what goes together with the latest item liked."""
    if query.anchor is not None or source is not Source.TOGETHER:
        return query.anchor
    return sources.last_liked(query.history)


def _tower_vector(
    call: Call, history: History, without_turn: Callable[[], AbstractContextManager[None]]
) -> FloatArray:  # fmt: skip
    shape = call.release.tables.shape
    # A tower with a table inside has the release's own items only; what came after it counts in every other source
    # and feature.
    known = (history.rows < shape.num_items) | shape.tower_reads_vectors
    encoded = encode_history(
        history.rows[known], history.strengths[known], history.times_s[known], now_s=call.now_s,
        length=shape.history_length,
    )  # fmt: skip
    with without_turn():
        vector = call.release.towers.user_vector(encoded)
    if not np.isfinite(vector).all():
        raise ValueError("the user tower gave a vector that is not finite.")
    return vector


def _brought(call: Call) -> int:
    return len(call.row.history if call.row is not None else ()) + len(call.request.recent)
