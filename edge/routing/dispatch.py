"""Asking a region: nodes in order of health, each try with its share of the time, every outcome noted.

One place makes calls behind the edge, so one place keeps breakers, latencies and the retry budget true.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from edge.routing.health import Target, Targets
from edge.routing.port import CallFailure, RegionCallError
from edge.routing.retry_budget import RetryBudget
from infra.plumbing.clock import Clock

TRIES_MAX = 2
TRY_MIN_S = 0.002
FAIR_TRY_S = 0.03
"""A node that did not answer in less than this has shown nothing: callers with tiny deadlines must not be able to
make a healthy node look dead to everybody else."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Reply(Generic[T]):
    """An answer and the node that gave it."""

    answer: T
    target: Target


class Attempts:
    """Counts the calls that one request causes: the first is free, the others come out of the retry budget."""

    __slots__ = ("_budget", "_made")

    def __init__(self, budget: RetryBudget) -> None:
        self._budget = budget
        self._made = 0

    def may_call(self) -> bool:
        """Whether this request may make one call more; counts it."""
        self._made += 1
        if self._made == 1:
            self._budget.note_first()
            return True
        return self._budget.take()


class Dispatcher:
    """Asks nodes of a region until one answers."""

    def __init__(self, *, targets: Targets, clock: Clock, budget: RetryBudget, try_timeout_s: float) -> None:
        self._targets = targets
        self._clock = clock
        self._budget = budget
        self._try_timeout_s = try_timeout_s

    def attempts(self) -> Attempts:
        """The account of a new request."""
        return Attempts(self._budget)

    def reachable(self, region: str) -> bool:
        """Whether any node of `region` may be asked now."""
        return bool(self._targets.candidates(region, now_s=self._clock.monotonic_s()))

    async def ask(
        self,
        region: str,
        call: Callable[[str, float], Awaitable[T]],
        *,
        deadline_s: float,
        attempts: Attempts,
        try_timeout_s: float | None = None,
    ) -> Reply[T]:
        """The first answer of a node of `region`.

        Args:
            region: whose nodes to ask.
            call: given a base URL and a timeout in seconds; raises `RegionCallError`.
            deadline_s: monotonic moment after which nobody waits.
            attempts: the account of the request that asks.
            try_timeout_s: how long one node may take while another could be asked; None for this edge's setting.

        Raises:
            RegionCallError: nobody answered in time, nobody may be asked, or the call was refused.
        """
        error = RegionCallError(CallFailure.UNREACHABLE)
        nodes = self._targets.candidates(region, now_s=self._clock.monotonic_s())[:TRIES_MAX]
        for index, target in enumerate(nodes):
            remaining_s = deadline_s - self._clock.monotonic_s()
            if remaining_s < TRY_MIN_S:
                raise RegionCallError(CallFailure.TIMEOUT)
            if not attempts.may_call():
                break
            last = index == len(nodes) - 1
            timeout_s = remaining_s if last else min(try_timeout_s or self._try_timeout_s, remaining_s / 2)
            try:
                return Reply(await self._one_try(target, call, timeout_s), target)
            except RegionCallError as failure:
                if failure.failure is CallFailure.REFUSED:
                    raise
                error = failure
        raise error

    async def _one_try(self, target: Target, call: Callable[[str, float], Awaitable[T]], timeout_s: float) -> T:
        started_s = self._clock.monotonic_s()
        self._targets.begin(target, now_s=started_s)
        try:
            # The adapter keeps its own time; this one holds even if the adapter does not.
            async with asyncio.timeout(timeout_s + 0.05):
                answer = await call(target.url, timeout_s)
        except TimeoutError as error:
            timed_out = RegionCallError(CallFailure.TIMEOUT)
            self._note(target, timed_out, started_s, timeout_s)
            raise timed_out from error
        except RegionCallError as error:
            self._note(target, error, started_s, timeout_s)
            raise
        self._targets.succeeded(target, took_s=self._clock.monotonic_s() - started_s)
        return answer

    def _note(self, target: Target, error: RegionCallError, started_s: float, timeout_s: float) -> None:
        now_s = self._clock.monotonic_s()
        if error.failure is CallFailure.REFUSED:
            self._targets.succeeded(target, took_s=now_s - started_s)
        elif error.failure is not CallFailure.TIMEOUT or timeout_s >= FAIR_TRY_S:
            self._targets.failed(target, now_s=now_s)
