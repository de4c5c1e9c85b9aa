"""A seeded faulty world on the edge's own ports: nodes that fail in six ways for a while, and a grid that does too."""

import asyncio
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from edge.routing.port import CallFailure, RegionCallError, Right
from infra.contracts.discovery import ChoicesAnswer, ChoicesCall, SuggestAnswer, SuggestCall
from infra.contracts.events import EventAck, EventBatch
from infra.contracts.messages import (
    AwayAnswer,
    AwayRequest,
    HomeAnswer,
    HomeRequest,
    Lifetime,
    Notices,
    NoticesCall,
    OptOutAnswer,
    OptOutCall,
    ReasonCode,
    RightsCall,
    SealedAnswer,
    SealedCall,
    SlateItem,
    Source,
)
from infra.contracts.reasons import reason
from infra.plumbing.grid.port import GridUnavailableError
from tests.sim.edge.virtual import LoopClock

FAULTS = ("refused", "reset", "error", "black-hole", "slow", "empty", "garbage", "flaky")
RELEASE = "a" * 20
_WHY = reason(ReasonCode.POPULAR)


def slate(name: str) -> tuple[SlateItem, ...]:
    return tuple(
        SlateItem(item=f"{name}-{i}", score=1 / (i + 1), source=Source.ANN, reason=_WHY, title="") for i in range(30)
    )


_HOME, _AWAY = slate("home"), slate("away")


@dataclass(frozen=True)
class Outage:
    """Node `url` behaves as `fault` from `start_s` until `end_s`."""

    url: str
    fault: str
    start_s: float
    end_s: float


@dataclass
class FaultyRegions:
    """Implements `edge.routing.port.RegionPort`; counts the calls that reach nodes."""

    rng: random.Random
    outages: list[Outage]
    regions: dict[str, str]
    """Region by URL."""
    clock: LoopClock = field(default_factory=LoopClock)
    calls: int = 0
    versions: dict[str, int] = field(default_factory=dict)
    opted_out: set[str] = field(default_factory=set)

    def fault(self, url: str) -> str:
        now_s = self.clock.monotonic_s()
        return next((o.fault for o in self.outages if o.url == url and o.start_s <= now_s < o.end_s), "")

    async def _network(self, url: str, timeout_s: float) -> str:
        fault = self.fault(url)
        wait_s = self.rng.uniform(0.001, 0.02)
        if fault == "flaky":
            fault = self.rng.choice(["", "reset", "error", "black-hole"])
        if fault == "refused":
            raise RegionCallError(CallFailure.UNREACHABLE)
        if fault in ("black-hole", "slow"):
            wait_s = 1e9 if fault == "black-hole" else self.rng.uniform(0.1, 1.0)
        await asyncio.sleep(min(wait_s, timeout_s))
        if wait_s >= timeout_s:
            raise RegionCallError(CallFailure.TIMEOUT)
        failures = {
            "reset": CallFailure.UNREACHABLE, "error": CallFailure.SERVER_ERROR, "garbage": CallFailure.MALFORMED,
        }  # fmt: skip
        if fault in failures:
            raise RegionCallError(failures[fault])
        return fault

    async def recommend(self, url: str, request: HomeRequest, *, timeout_s: float) -> HomeAnswer:
        self.calls += 1
        fault = await self._network(url, timeout_s)
        personal = request.subject is not None and request.subject not in self.opted_out
        return HomeAnswer(
            items=() if fault == "empty" else _HOME, release=RELEASE, region=self.regions[url],
            personal=personal, subject_version=self.versions.get(request.subject or "", 0),
            lifetime=Lifetime(max_age_s=2.0, stale_while_revalidate_s=1.0, stale_if_error_s=5.0),
            generated_at_ms=self.clock.now_ms(),
        )  # fmt: skip

    async def recommend_away(self, url: str, request: AwayRequest, *, timeout_s: float) -> AwayAnswer:
        self.calls += 1
        fault = await self._network(url, timeout_s)
        return AwayAnswer(
            items=() if fault == "empty" else _AWAY, release=RELEASE, region=self.regions[url],
            used_vector=request.vector is not None,
            lifetime=Lifetime(max_age_s=2.0, stale_while_revalidate_s=1.0, stale_if_error_s=5.0),
            generated_at_ms=self.clock.now_ms(),
        )  # fmt: skip

    async def choices(self, url: str, call: ChoicesCall, *, timeout_s: float) -> ChoicesAnswer:
        raise RegionCallError(CallFailure.UNREACHABLE)

    async def suggest(self, url: str, call: SuggestCall, *, timeout_s: float) -> SuggestAnswer:
        raise RegionCallError(CallFailure.UNREACHABLE)

    async def notices(self, url: str, call: NoticesCall, *, timeout_s: float) -> Notices:
        raise RegionCallError(CallFailure.UNREACHABLE)

    async def probe(self, url: str, *, timeout_s: float) -> None:
        # What is merely wrong in its answers still says that it is ready: the edge has to find out by itself.
        if await self._network(url, timeout_s) == "garbage":
            return

    async def relay(self, url: str, call: SealedCall, *, timeout_s: float) -> SealedAnswer:
        raise RegionCallError(CallFailure.UNREACHABLE)

    async def send_events(self, url: str, batch: EventBatch, *, timeout_s: float) -> EventAck:
        raise RegionCallError(CallFailure.UNREACHABLE)

    async def exercise(self, url: str, right: Right, call: RightsCall, *, timeout_s: float) -> bytes:
        raise RegionCallError(CallFailure.UNREACHABLE)

    async def opt_out(self, url: str, call: OptOutCall, *, timeout_s: float) -> OptOutAnswer:
        raise RegionCallError(CallFailure.UNREACHABLE)


@dataclass
class FaultyGrid:
    """Implements `infra.plumbing.grid.port.Grid`; between `down_from_s` and `down_until_s` it hangs or fails."""

    rng: random.Random
    down_from_s: float
    down_until_s: float
    hangs: bool
    clock: LoopClock = field(default_factory=LoopClock)
    values: dict[str, bytes] = field(default_factory=dict)
    topics: list[asyncio.Queue[bytes | None]] = field(default_factory=list)

    async def _reach(self) -> None:
        if self.down_from_s <= self.clock.monotonic_s() < self.down_until_s:
            if self.hangs:
                await asyncio.sleep(1e9)
            raise GridUnavailableError("down.")
        await asyncio.sleep(self.rng.uniform(0.0001, 0.001))

    async def get(self, key: str) -> bytes | None:
        await self._reach()
        return self.values.get(key)

    async def put(self, key: str, value: bytes, *, ttl_s: float) -> None:
        await self._reach()
        self.values[key] = value

    async def delete(self, key: str) -> None:
        self.values.pop(key, None)

    async def publish(self, topic: str, message: bytes) -> None:
        for queue in self.topics:
            queue.put_nowait(message)

    async def subscribe(self, topic: str) -> AsyncIterator[bytes | None]:
        queue: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.topics.append(queue)
        yield None
        while True:
            yield await queue.get()

    async def close(self) -> None:
        return
