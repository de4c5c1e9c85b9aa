"""The region's answer to a call: read the row, run the funnel on the active release, say how long the list may live."""

import asyncio
from collections.abc import Callable
from contextlib import AbstractContextManager

import msgspec

from infra.contracts.messages import (
    AwayAnswer,
    AwayRequest,
    HomeAnswer,
    HomeRequest,
    Lifetime,
    SlateItem,
)
from infra.plumbing.clock import Clock
from infra.plumbing.errors import UnavailableError
from infra.plumbing.telemetry import Telemetry
from region.funnel.dry_run import Proposal, RequestLog
from region.funnel.funnel import Funnel
from region.funnel.metrics import FunnelMetrics
from region.funnel.plans import OPTED_OUT_LIFETIME, Budget, lifetime_for
from region.funnel.recording import Recorder
from region.funnel.release import LoadedRelease
from region.funnel.sampling import Sampler
from region.funnel.tagging import tags_of
from region.funnel.understanding import PERSONAL_TYPES, Call
from region.store.port import Store, UserRow

REHEARSAL_BUDGET_S = 5.0
"""Nobody waits for a page of a dry run: no stage is left out for lack of time."""
Lease = Callable[[], AbstractContextManager[LoadedRelease]]


class DeadlinePassedError(UnavailableError):
    """Nobody waits for the answer any more."""


class Recommender:
    """Answers calls of the home region's edges and, without a subject, of other regions' edges.

    Args:
        region: this region's name.
        store: where user rows live.
        funnel: what makes slates.
        lease: holds the active release open for the length of a `with` block (`Activator.lease`).
        requests: told every request of the region's own edges, for dry runs of rules.
        sampler: told every answered call, for parity checks.
    """

    def __init__(
        self, *, region: str, store: Store, funnel: Funnel, lease: Lease,
        clock: Clock, telemetry: Telemetry, metrics: FunnelMetrics, requests: RequestLog,
        sampler: Sampler | None = None,
    ) -> None:  # fmt: skip
        self._sampler = sampler
        self._region = region
        self._store = store
        self._funnel = funnel
        self._lease = lease
        self._clock = clock
        self._telemetry = telemetry
        self._metrics = metrics
        self._requests = requests

    async def home(self, request: HomeRequest, *, lease: Lease | None = None, shown: bool = True) -> HomeAnswer:
        """The answer for this region's own edge.

        Args:
            request: what is asked.
            lease: holds the release that is to answer; the active one if not given.
            shown: whether the answer goes to whom it is about.

        Raises:
            DeadlinePassedError: the request's deadline is over.
            UnavailableError: no release is active.
            InvalidInputError: the request's vector does not fit the release that it names.
            OverloadedError: this node has too much to compute.
        """
        self._requests.note(request, now_s=self._clock.monotonic_s())
        call, items = await self._run(request, lease or self._lease, shown=shown)
        if self._sampler is not None:
            self._sampler(call, monotonic_s=self._clock.monotonic_s())
        degraded = tuple(call.recorder.degraded)
        return HomeAnswer(
            items=items,
            release=call.release.release_id,
            region=self._region,
            personal=_is_personal(request),
            subject_version=call.row.version if call.row is not None else 0,
            lifetime=_lifetime(call, degraded),
            degraded=degraded,
            trace=tuple(call.recorder.stages),
            tags=tags_of(request, call.recorder.rows, call.release.tables),
            generated_at_ms=self._clock.now_ms(),
        )

    async def away(self, request: AwayRequest) -> AwayAnswer:
        """The answer for another region's edge: nobody is named, nothing is stored. Raises as `home` does."""
        call, items = await self._run(_anonymous(request), self._lease)
        degraded = tuple(call.recorder.degraded)
        wants_vector = request.vector is not None and request.type in PERSONAL_TYPES
        return AwayAnswer(
            items=items,
            release=call.release.release_id,
            region=self._region,
            used_vector=wants_vector and "vector-release" not in degraded,
            lifetime=_lifetime(call, degraded),
            degraded=degraded,
            generated_at_ms=self._clock.now_ms(),
        )

    async def rehearse(self, request: HomeRequest, proposed: Proposal | None) -> tuple[SlateItem, ...]:
        """The slate of a request under proposed rules, or under those that hold; neither counted nor remembered.

        Raises:
            UnavailableError: no release is active.
            OverloadedError: this node has too much to compute.
        """
        budget = Budget(self._clock.monotonic_s(), REHEARSAL_BUDGET_S)
        return await self.rehearse_for(
            request, await self._read_row(request, budget, Recorder(clock=self._clock)), proposed
        )  # fmt: skip

    async def rehearse_for(
        self, request: HomeRequest, row: UserRow | None, proposed: Proposal | None = None
    ) -> tuple[SlateItem, ...]:
        """`rehearse` for a row that need not be the one that is kept. Raises as it does."""
        now_ms, started_s = self._clock.now_ms(), self._clock.monotonic_s()
        request = msgspec.structs.replace(request, timeout_ms=None, explain=True)
        recorder = Recorder(clock=self._clock)
        with self._lease() as release:
            call = Call(
                request=request, row=row, release=release, now_s=now_ms / 1000,
                budget=Budget(started_s, REHEARSAL_BUDGET_S), recorder=recorder, proposed=proposed,
            )  # fmt: skip
            return await self._funnel.run(call)

    async def _run(
        self, request: HomeRequest, lease: Lease, *, shown: bool = True
    ) -> tuple[Call, tuple[SlateItem, ...]]:
        now_ms, started_s = self._clock.now_ms(), self._clock.monotonic_s()
        if request.timeout_ms is not None and not request.timeout_ms > 0:
            self._metrics.deadline_passed()
            raise DeadlinePassedError("the deadline of this call is over.")
        recorder = Recorder(clock=self._clock, telemetry=self._telemetry)
        budget = Budget.of(request.timeout_ms, started_s=started_s)
        row = await self._read_row(request, budget, recorder)
        with lease() as release:
            call = Call(
                request=request, row=row, release=release, now_s=now_ms / 1000, budget=budget, recorder=recorder,
                shown=shown,
            )  # fmt: skip
            items = await self._funnel.run(call)
        self._metrics.record(request.type, recorder, items=len(items))
        return call, items

    async def _read_row(self, request: HomeRequest, budget: Budget, recorder: Recorder) -> UserRow | None:
        if request.subject is None or request.type not in PERSONAL_TYPES:
            return None
        try:
            with recorder.stage("store") as note:
                async with asyncio.timeout(budget.timeout_s("store", now_s=self._clock.monotonic_s())):
                    row = await self._store.read(request.subject)
                note.candidates_out = len(row.history) if row is not None else 0
        except (UnavailableError, TimeoutError):
            recorder.degrade("store")
            return None
        return row


def _is_personal(request: HomeRequest) -> bool:
    named = request.subject is not None or bool(request.recent) or request.vector is not None
    return named and request.type in PERSONAL_TYPES


def _lifetime(call: Call, degraded: tuple[str, ...]) -> Lifetime:
    if call.row is not None and call.row.opted_out:
        return OPTED_OUT_LIFETIME
    return lifetime_for(call.request.type, degraded, call.recorder.lives)


def _anonymous(request: AwayRequest) -> HomeRequest:
    return HomeRequest(
        type=request.type,
        surface=request.surface,
        n=request.n,
        item=request.item,
        category=request.category,
        filters=request.filters,
        vector=request.vector,
        vector_release=request.vector_release,
        context=request.context,
        timeout_ms=request.timeout_ms,
    )
