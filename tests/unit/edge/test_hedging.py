"""Second requests while the first is out, and calls that are held back: in virtual time."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import pytest

from edge.routing.breaker import BreakerPolicy
from edge.routing.concurrency import ConcurrencyPolicy, Priority
from edge.routing.dispatch import Dispatcher
from edge.routing.health import Target, Targets
from edge.routing.port import CallFailure, RegionCallError
from edge.routing.quantile import SAMPLES_MIN
from edge.routing.retry_budget import RetryBudget
from tests.sim.edge.virtual import LoopClock, run_virtually

ONE, TWO = Target("r", "http://1", 0), Target("r", "http://2", 1)
USUAL_S = 0.01


@dataclass
class Nodes:
    """Nodes that answer after the time that stands first in `takes_s`, else after USUAL_S."""

    targets: Targets
    dispatcher: Dispatcher
    budget: RetryBudget
    counts: Counter[str]
    takes_s: dict[str, list[float]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    async def call(self, url: str, timeout_s: float) -> str:
        self.asked.append(url)
        queue = self.takes_s.get(url, [])
        took_s = queue.pop(0) if queue else USUAL_S
        await asyncio.sleep(min(took_s, timeout_s))
        if took_s > timeout_s:
            raise RegionCallError(CallFailure.TIMEOUT)
        return f"{url} {len(self.asked)}"

    async def ask(self, priority: Priority = Priority.PAGE) -> str:
        attempts = self.dispatcher.attempts(priority)
        deadline_s = LoopClock().monotonic_s() + 0.4
        return (await self.dispatcher.ask("r", self.call, deadline_s=deadline_s, attempts=attempts)).answer

    async def warm(self) -> None:
        for _ in range(SAMPLES_MIN):
            await self.ask(Priority.BULK)


def nodes(*targets: Target, concurrency: ConcurrencyPolicy | None = None) -> Nodes:
    known = Targets(targets, policy=BreakerPolicy(), concurrency=concurrency)
    counts: Counter[str] = Counter()

    def counted(kind: str) -> None:
        counts[kind] += 1

    budget = RetryBudget()
    dispatcher = Dispatcher(targets=known, clock=LoopClock(), budget=budget, try_timeout_s=0.15, counted=counted)
    return Nodes(known, dispatcher, budget, counts)


def virtually(test: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        await test()

    run_virtually(main())


def test_the_second_answer_wins_soon_after_the_usual_tail() -> None:
    async def play() -> None:
        world = nodes(ONE, TWO)
        await world.warm()
        world.takes_s = {"http://1": [0.14]}
        started_s = LoopClock().monotonic_s()
        assert (await world.ask()).startswith("http://2")
        assert LoopClock().monotonic_s() - started_s < 3 * USUAL_S
        assert (world.counts["hedged"], world.counts["hedge-won"]) == (1, 1)
        # The loser runs to its end, and what it took is known then: it is an answer, not a failure.
        assert world.targets.in_flight(ONE) == 1
        await asyncio.sleep(0.2)
        assert world.targets.in_flight(ONE) == 0
        assert world.targets.health(ONE).breaker.failures == 0

    virtually(play)


def test_a_node_that_hedges_always_rescue_is_still_found_out() -> None:
    async def play() -> None:
        world = nodes(ONE, TWO)
        await world.warm()
        world.takes_s = {"http://1": [9.0] * 3}
        for _ in range(3):
            assert (await world.ask()).startswith("http://2")
        await asyncio.sleep(0.2)
        assert world.targets.is_open(ONE)

    virtually(play)


def test_with_one_node_the_second_request_takes_another_connection_to_it() -> None:
    async def play() -> None:
        world = nodes(ONE)
        await world.warm()
        world.takes_s = {"http://1": [0.3]}
        started_s = LoopClock().monotonic_s()
        await world.ask()
        assert LoopClock().monotonic_s() - started_s < 3 * USUAL_S

    virtually(play)


def test_only_what_somebody_waits_for_is_hedged_and_only_while_there_is_budget() -> None:
    async def play() -> None:
        world = nodes(ONE)
        for _ in range(6):
            await world.warm()
        for priority in (Priority.BULK, Priority.REFRESH, Priority.EVENT):
            world.takes_s = {"http://1": [0.14]}
            await world.ask(priority)
            assert world.counts["hedged"] == 0
        for _ in range(40):
            world.takes_s = {"http://1": [0.14]}
            await world.ask()
        assert 1 <= world.counts["hedged"] <= world.budget.reserve
        assert world.budget.take(), "hedges never take a failed call's second try"

    virtually(play)


def test_both_fail_and_the_error_is_the_last_one() -> None:
    async def play() -> None:
        world = nodes(ONE, TWO)
        await world.warm()
        world.takes_s = {"http://1": [9.0], "http://2": [9.0]}
        with pytest.raises(RegionCallError, match="timeout"):
            await world.ask()
        assert world.asked[SAMPLES_MIN:] == ["http://1", "http://2"]
        await world.dispatcher.close()
        assert world.targets.in_flight(ONE) == world.targets.in_flight(TWO) == 0

    virtually(play)


def test_who_finds_no_room_is_turned_away_at_once_and_batches_first() -> None:
    async def play() -> None:
        world = nodes(ONE, concurrency=ConcurrencyPolicy(limit_start=4.0))
        world.takes_s = {"http://1": [0.1] * 4}
        batches = [asyncio.create_task(world.ask(Priority.BULK)) for _ in range(3)]
        await asyncio.sleep(0.001)
        pages = [asyncio.create_task(world.ask()) for _ in range(3)]
        done = await asyncio.gather(*batches, *pages, return_exceptions=True)
        shed = [isinstance(one, RegionCallError) and one.failure is CallFailure.SHED for one in done]
        assert shed == [False, False, True, False, False, True]
        assert world.counts["shed"] == 2
        assert len(world.asked) == 4
        assert not world.targets.is_open(ONE), "to be held back says nothing about the node"

    virtually(play)


def test_work_that_is_given_up_frees_its_place() -> None:
    async def play() -> None:
        world = nodes(ONE)
        world.takes_s = {"http://1": [9.0]}
        waiting = asyncio.create_task(world.ask())
        await asyncio.sleep(0.01)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        assert world.targets.in_flight(ONE) == 1
        await world.dispatcher.close()
        assert world.targets.in_flight(ONE) == 0

    virtually(play)
