"""The smaller parts: dispatching, background work, bounded memories, what may be kept."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from edge.background import Background
from edge.cache.entry import PAGES_PER_ENTRY_MAX, Entry, Page
from edge.cache.policy import Life
from edge.http import identity
from edge.http.identity import Identities
from edge.routing.breaker import BreakerPolicy
from edge.routing.dispatch import FAIR_TRY_S, Dispatcher
from edge.routing.health import Target, Targets
from edge.routing.port import CallFailure, RegionCallError
from edge.routing.retry_budget import RetryBudget
from infra.plumbing.clock import Clock, ManualClock, SystemClock
from infra.plumbing.keys import RegionKeys, TrustDirectory
from infra.plumbing.service_keys import KeyRing
from infra.plumbing.telemetry import TelemetrySettings, start_telemetry
from infra.plumbing.tokens import Principal, issue_token, verify_token
from tests.unit.edge.fakes import answer

ONE, TWO = Target("r", "http://1", 0), Target("r", "http://2", 1)
Call = Callable[[str, float], Awaitable[str]]


class Nodes:
    """Two nodes that answer as told."""

    def __init__(self, *, tokens: float = 10.0, **failures: CallFailure | None) -> None:
        self.failures = {"http://1": failures.get("one"), "http://2": failures.get("two")}
        self.asked: list[tuple[str, float]] = []
        self.targets = Targets([ONE, TWO], policy=BreakerPolicy())
        self.clock = ManualClock()
        self.budget = RetryBudget(tokens=tokens)
        self.dispatcher = Dispatcher(targets=self.targets, clock=self.clock, budget=self.budget, try_timeout_s=0.1)

    async def call(self, url: str, timeout_s: float) -> str:
        self.asked.append((url, timeout_s))
        failure = self.failures[url]
        if failure is not None:
            raise RegionCallError(failure)
        return url

    async def ask(self, *, deadline_s: float = 1.0, call: Call | None = None) -> str:
        attempts = self.dispatcher.attempts()
        reply = await self.dispatcher.ask("r", call or self.call, deadline_s=deadline_s, attempts=attempts)
        return reply.answer


async def test_the_second_node_gets_what_time_is_left() -> None:
    nodes = Nodes(one=CallFailure.UNREACHABLE)
    assert await nodes.ask() == "http://2"
    assert nodes.asked == [("http://1", 0.1), ("http://2", 1.0)]


async def test_a_refused_call_is_asked_once_and_speaks_for_the_node() -> None:
    nodes = Nodes(one=CallFailure.REFUSED)
    for _ in range(5):
        with pytest.raises(RegionCallError, match="refused"):
            await nodes.ask()
    assert len(nodes.asked) == 5
    assert not nodes.targets.is_open(ONE)


async def test_no_second_call_without_budget_and_none_without_time() -> None:
    nodes = Nodes(tokens=0.0, one=CallFailure.UNREACHABLE)
    with pytest.raises(RegionCallError):
        await nodes.ask()
    assert len(nodes.asked) == 1
    with pytest.raises(RegionCallError, match="timeout"):
        await nodes.ask(deadline_s=0.001)
    assert len(nodes.asked) == 1


async def test_nobody_left_to_ask_is_no_call() -> None:
    nodes = Nodes(one=CallFailure.SERVER_ERROR, two=CallFailure.MALFORMED)
    for _ in range(3):
        with pytest.raises(RegionCallError):
            await nodes.ask()
    assert not nodes.dispatcher.reachable("r")
    asked = len(nodes.asked)
    with pytest.raises(RegionCallError, match="unreachable"):
        await nodes.ask()
    assert len(nodes.asked) == asked


async def test_impatient_callers_do_not_make_a_node_look_dead() -> None:
    nodes = Nodes(one=CallFailure.TIMEOUT, two=CallFailure.TIMEOUT)
    for _ in range(5):
        with pytest.raises(RegionCallError):
            await nodes.ask(deadline_s=FAIR_TRY_S / 2)
    assert not nodes.targets.is_open(ONE)
    for _ in range(3):
        with pytest.raises(RegionCallError):
            await nodes.ask()
    assert nodes.targets.is_open(ONE)


async def test_an_adapter_that_forgets_the_time_is_cut_off() -> None:
    nodes = Nodes()

    async def never(url: str, timeout_s: float) -> str:
        await asyncio.Event().wait()
        return url

    with pytest.raises(RegionCallError, match="timeout"):
        await nodes.ask(deadline_s=0.05, call=never)


async def test_background_work_is_bounded_reported_and_ended(tmp_path: Path) -> None:
    log = tmp_path / "log"
    telemetry = start_telemetry(
        service="edge", region="r", node="n", settings=TelemetrySettings(log_file=str(log), sample_ratio=0.0)
    )
    dropped: list[int] = []
    background = Background(telemetry=telemetry, dropped=lambda: dropped.append(1), tasks_max=2)
    gate = asyncio.Event()

    async def fails() -> None:
        await gate.wait()
        raise ValueError("boom")

    assert background.spawn(fails())
    assert background.spawn(asyncio.Event().wait())
    assert not background.spawn(fails())
    assert dropped == [1]
    gate.set()
    await asyncio.wait(set(background._tasks), return_when=asyncio.FIRST_COMPLETED)
    await background.close()
    telemetry.close()
    assert len(background) == 0
    assert "boom" in log.read_text()


def test_an_entry_keeps_few_pages() -> None:
    entry = Entry(answer(), Life(1, 2, 3), made_s=0.0, asked=10)
    for number in range(10):
        entry.remember((number, 0, 0), Page(b"", str(number)))
    assert len(entry.pages) == PAGES_PER_ENTRY_MAX
    assert entry.age_s(-1.0) == 0.0


def test_verified_tokens_are_remembered_until_they_expire_and_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = RegionKeys.generate("here")
    clock = ManualClock(wall_ms=SystemClock().now_ms())
    identities = Identities(
        keys=keys, trust=TrustDirectory.of([keys]), clock=clock, service_keys=KeyRing(None, clock=clock)
    )
    headers = {"Authorization": f"Bearer {issue_token(keys, 'alice', clock=clock, life_s=100)}"}
    first = identities.caller(headers)
    verified: list[int] = []

    def counting(token: str, trust: TrustDirectory, *, clock: Clock) -> Principal:
        verified.append(1)
        return verify_token(token, trust, clock=clock)

    monkeypatch.setattr(identity, "verify_token", counting)
    assert identities.caller(headers) == first
    assert identities.is_remembered(headers)
    assert not verified
    identities.forget("somebody else")
    assert identities.is_remembered(headers)
    identities.forget(str(first.subject))
    assert not identities.is_remembered(headers), "nothing of who was erased is remembered"
    assert identities.caller(headers) == first
    verified.clear()
    clock.advance(101)
    assert identities.caller(headers).subject == first.subject, "the clock skew of tokens still allows it"
    assert verified
    monkeypatch.setattr(identity, "REMEMBERED_MAX", 3)
    for number in range(6):
        token = issue_token(keys, f"user-{number}", clock=clock)
        identities.caller({"Authorization": f"Bearer {token}"})
    assert len(identities) <= 4
