"""Asking a region: nodes in order of health, each try with its share of the time, every outcome noted.

One place makes calls behind the edge, so one place keeps breakers, latencies, limits and the retry budget true.

A request may be *hedged*: when the node asked first has not answered within the time that 95 % of its answers take,
another node is asked too (the same one over another connection where a region has only one), and the first answer
wins (Dean and Barroso 2013, doi:10.1145/2408776.2408794). The loser runs on until its own time is over: what became
of it is noted like any other outcome, so a node that is always rescued by hedges still opens its breaker, and its
latencies are not cut off at the moment of the hedge.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from edge.routing.concurrency import Priority
from edge.routing.health import Target, Targets
from edge.routing.port import CallFailure, RegionCallError
from edge.routing.retry_budget import RetryBudget
from infra.plumbing.clock import Clock

TRIES_MAX = 2
TRY_MIN_S = 0.002
FAIR_TRY_S = 0.03
"""A node that did not answer in less than this has shown nothing: callers with tiny deadlines must not be able to
make a healthy node look dead to everybody else."""
HEDGE_MIN_S = 0.005
"""Sooner than this a second request would only race the event loop."""
GRACE_S = 0.05
_HAS_TOO_MUCH = frozenset({429, 503})

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Reply(Generic[T]):
    """An answer and the node that gave it."""

    answer: T
    target: Target


class Attempts:
    """Counts the calls that one request causes: the first is free, the others come out of the retry budget."""

    __slots__ = ("_budget", "_counted", "_made", "priority")

    def __init__(self, budget: RetryBudget, priority: Priority, counted: Callable[[str], None]) -> None:
        self._budget = budget
        self._counted = counted
        self._made = 0
        self.priority = priority

    def may_call(self) -> bool:
        """Whether this request may make one call more; counts it."""
        self._made += 1
        if self._made == 1:
            self._budget.note_first()
            self._counted("first")
            return True
        granted = self._budget.take()
        self._counted("retried" if granted else "refused")
        return granted

    def may_hedge(self) -> bool:
        """Whether this request may make one call more before anything has failed; counts it."""
        if not self._budget.take_spare():
            return False
        self._made += 1
        return True


@dataclass(frozen=True, slots=True, kw_only=True)
class _Errand(Generic[T]):
    """What one `ask` wants of nodes."""

    call: Callable[[str, float], Awaitable[T]]
    deadline_s: float
    try_timeout_s: float
    attempts: Attempts


class Dispatcher:
    """Asks nodes of a region until one answers.

    Args:
        counted: told `first` for a request's first call, `retried` or `refused` for a further one after a failure,
            `hedged`, `hedge-won` and `shed`.
    """

    def __init__(
        self, *, targets: Targets, clock: Clock, budget: RetryBudget, try_timeout_s: float,
        counted: Callable[[str], None] = lambda _decision: None,
    ) -> None:  # fmt: skip
        self._targets = targets
        self._clock = clock
        self._budget = budget
        self._try_timeout_s = try_timeout_s
        self._counted = counted
        self._out: set[asyncio.Task[Any]] = set()
        """Tries under way, so that a loser is not lost; each ends by its own time-out."""

    def attempts(self, priority: Priority = Priority.PAGE) -> Attempts:
        """The account of a new request."""
        return Attempts(self._budget, priority, self._counted)

    def reachable(self, region: str) -> bool:
        """Whether any node of `region` may be asked now."""
        return bool(self._targets.candidates(region, now_s=self._clock.monotonic_s()))

    async def close(self) -> None:
        """Cancel the tries under way and wait until they are gone."""
        tasks = list(self._out)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

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
        choice = self._targets.choose(region, attempts.priority, now_s=self._clock.monotonic_s())
        if choice.full:
            self._counted("shed")
            raise RegionCallError(CallFailure.SHED)
        errand = _Errand(
            call=call, deadline_s=deadline_s, attempts=attempts, try_timeout_s=try_timeout_s or self._try_timeout_s
        )
        return await self._ask_in_turn(errand, list(choice.nodes[:TRIES_MAX]))

    async def _ask_in_turn(self, errand: _Errand[T], nodes: list[Target]) -> Reply[T]:
        error = RegionCallError(CallFailure.UNREACHABLE)
        # Only what somebody waits for is worth a second call before anything has failed.
        hedge = errand.attempts.priority is Priority.PAGE
        while True:
            first = self._next_node(errand, nodes, error)
            out = {self._launch(errand, first, last=not nodes): first}
            if hedge and (tail_s := self._targets.hedge_after_s(first)) is not None:
                done, _ = await asyncio.wait(out, timeout=max(HEDGE_MIN_S, tail_s))
                if not done and (second := self._second_node(errand, first, nodes)) is not None:
                    out[self._launch(errand, second, last=True)] = second
                    hedge = False
            try:
                return await self._first_answer(out)
            except RegionCallError as failure:
                if failure.failure is CallFailure.REFUSED:
                    raise
                error = failure

    async def _first_answer(self, out: dict[asyncio.Task[T], Target]) -> Reply[T]:
        """What the first of `out` that answers says; raises the last one's error when none does."""
        hedge = list(out)[1:]
        while True:
            done, _ = await asyncio.wait(out, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                target = out.pop(task)
                try:
                    answer = task.result()
                except RegionCallError as error:
                    if error.failure is CallFailure.REFUSED or not out:
                        raise
                else:
                    if task in hedge:
                        self._counted("hedge-won")
                    return Reply(answer, target)

    def _next_node(self, errand: _Errand[T], nodes: list[Target], error: RegionCallError) -> Target:
        """The next node to ask, taken out of `nodes`; raises `error`, which was the last one, when there is none."""
        if not nodes:
            raise error
        if errand.deadline_s - self._clock.monotonic_s() < TRY_MIN_S:
            raise RegionCallError(CallFailure.TIMEOUT)
        if not errand.attempts.may_call():
            raise error
        return nodes.pop(0)

    def _second_node(self, errand: _Errand[T], first: Target, nodes: list[Target]) -> Target | None:
        """Where a hedge goes: another node, else the same one while it is well; None when it may not be sent."""
        now_s = self._clock.monotonic_s()
        second = nodes[0] if nodes else first
        if self._targets.is_open(second) or not self._targets.has_room(second, errand.attempts.priority, now_s=now_s):
            return None
        if errand.deadline_s - now_s < TRY_MIN_S or not errand.attempts.may_hedge():
            return None
        if nodes:
            nodes.pop(0)
        self._counted("hedged")
        return second

    def _launch(self, errand: _Errand[T], target: Target, *, last: bool) -> asyncio.Task[T]:
        remaining_s = errand.deadline_s - self._clock.monotonic_s()
        timeout_s = remaining_s if last else min(errand.try_timeout_s, remaining_s / 2)
        self._targets.begin(target, now_s=self._clock.monotonic_s())
        task = asyncio.create_task(self._one_try(target, errand, timeout_s))
        self._out.add(task)
        task.add_done_callback(self._came_in)
        return task

    def _came_in(self, task: asyncio.Task[Any]) -> None:
        self._out.discard(task)
        if not task.cancelled():
            task.exception()  # A loser's error interests nobody; asyncio would report it.

    async def _one_try(self, target: Target, errand: _Errand[T], timeout_s: float) -> T:
        started_s = self._clock.monotonic_s()
        learn = errand.attempts.priority is not Priority.EVENT
        try:
            # The adapter keeps its own time; this one holds even if the adapter does not.
            async with asyncio.timeout(timeout_s + GRACE_S):
                answer = await errand.call(target.url, timeout_s)
        except TimeoutError as error:
            timed_out = RegionCallError(CallFailure.TIMEOUT)
            self._note(target, timed_out, self._clock.monotonic_s() - started_s, timeout_s, learn=learn)
            raise timed_out from error
        except RegionCallError as error:
            self._note(target, error, self._clock.monotonic_s() - started_s, timeout_s, learn=learn)
            raise
        except BaseException:
            self._targets.inconclusive(target)
            raise
        now_s = self._clock.monotonic_s()
        self._targets.succeeded(target, took_s=now_s - started_s, now_s=now_s, learn=learn)
        return answer

    def _note(self, target: Target, error: RegionCallError, took_s: float, timeout_s: float, *, learn: bool) -> None:
        now_s, timed_out = self._clock.monotonic_s(), error.failure is CallFailure.TIMEOUT
        if error.failure is CallFailure.REFUSED:
            self._targets.succeeded(target, took_s=took_s, now_s=now_s, learn=learn)
        elif timed_out and timeout_s < FAIR_TRY_S:
            self._targets.inconclusive(target)
        else:
            has_too_much = error.status in _HAS_TOO_MUCH
            self._targets.failed(
                target, took_s=took_s, now_s=now_s, learn=learn and timed_out, has_too_much=has_too_much
            )
