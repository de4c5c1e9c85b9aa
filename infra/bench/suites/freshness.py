"""From an event posted at one edge to a changed list at another edge of the region, under load, on real servers.

A world of one region with two edges on Cassandra, Hazelcast and Kafka answers BACKGROUND requests a second through its
balancer (by wrk: personal, similar and trending lists, one in ten made anew). Meanwhile a user clicks on the first item
of the list that edge B holds for them; the click is posted at edge A, and edge B is asked every POLL_S until its list
is another one. Times count from before the post; `acked_p50_ms` from its acknowledgement. The peer is the same world
on embedded parts. Options: `tries` (clicks a run, default 200), `background` (requests/s, default 200), `parts`
(`both`; or one of `real`, `embedded`, `cassandra`, `hazelcast`, `kafka`: that server alone).
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import aiohttp
import msgspec

from infra.bench.catalogue import BenchRequest
from infra.bench.results import Measured, at_most, medians, percentile
from infra.bench.serving.open_load import Call
from infra.bench.serving.published import PublishedRing, publish_ring
from infra.bench.serving.real_world import EMBEDDED, HOME, REAL, headers_of, real_world
from infra.bench.serving.steady import steady_load
from infra.local.world import World
from infra.plumbing.clock import Clock
from infra.plumbing.errors import InvalidInputError, UnavailableError

POLL_S = 0.003
GIVEN_UP_S = 10.0
AGAIN_S, AGAIN_MAX = 0.02, 50
"""A post that is answered 503 is sent again under the same id, as applications do; time counts from the first one."""
SETTLE_S = 3.0
"""Load before the first click: connections are open, and what the machines compile first is compiled."""
PERSONAL = "/v1/recommendations/personal?n=10"
PARTS = {
    "real": REAL,
    "embedded": EMBEDDED,
    "cassandra": {**EMBEDDED, "store": "cassandra"},
    "hazelcast": {**EMBEDDED, "grid": "hazelcast"},
    "kafka": {**EMBEDDED, "log": "kafka"},
}


class _Item(msgspec.Struct):
    item: str


class _List(msgspec.Struct):
    items: list[_Item]


@dataclass(frozen=True, slots=True, kw_only=True)
class Clicking:
    """A user who clicks, as edge A and edge B see them."""

    session: aiohttp.ClientSession
    edge_a: str
    edge_b: str
    clock: Clock
    again: list[str]
    """What was said to posts that had to be sent again."""

    async def try_ms(self, headers: dict[str, str], event_id: str) -> tuple[float, float]:
        """Milliseconds from before the post, and from its acknowledgement, to a changed list at edge B."""
        before = await self._items(headers)
        event = {"event_id": event_id, "type": "click", "item": before[0], "at_ms": self.clock.now_ms()}
        posted_s = self.clock.monotonic_s()
        while said := await self._refused(event, headers):
            self.again.append(said)
            if len(self.again) > AGAIN_MAX:
                raise UnavailableError(f"{AGAIN_MAX} clicks had to be posted again, the last one for: {said}.")
            await asyncio.sleep(AGAIN_S)
        acked_s = self.clock.monotonic_s()
        while (seen_s := self.clock.monotonic_s()) < acked_s + GIVEN_UP_S:
            if await self._items(headers) != before:
                now_s = self.clock.monotonic_s()
                return (now_s - posted_s) * 1000, (now_s - acked_s) * 1000
            await asyncio.sleep(max(0.0, POLL_S - (self.clock.monotonic_s() - seen_s)))
        raise UnavailableError(f"a click did not show at the other edge in {GIVEN_UP_S:.0f} s.")

    async def _refused(self, event: dict[str, object], headers: dict[str, str]) -> str:
        """Post a click; "" when it was acknowledged, else why it was not."""
        async with self.session.post(f"{self.edge_a}/v1/events", json={"events": [event]}, headers=headers) as said:
            return "" if said.status == 200 else f"{said.status} {(await said.text())[:300]}"

    async def _items(self, headers: dict[str, str]) -> list[str]:
        async with self.session.get(self.edge_b + PERSONAL, headers=headers) as answer:
            raw = await answer.read()
            if answer.status != 200:
                raise UnavailableError(f"a list was answered {answer.status}: {raw[:300].decode(errors='replace')}")
            return [one.item for one in msgspec.json.decode(raw, type=_List).items]


def run(request: BenchRequest) -> Measured:
    """Start the worlds one after the other, click in each.

    Raises:
        InvalidInputError: there are no such parts.
        UnavailableError: a world could not be made, or a click never showed.
    """
    words = request.options.get("parts", "both")
    if words not in ("both", *PARTS):
        raise InvalidInputError(f"there are no parts {words!r}.", fix=f"Say one of both, {', '.join(PARTS)}.")
    ring = publish_ring(request)
    chosen = ("real", "embedded") if words == "both" else (words,)
    seen = {parts: medians(_in_world(request, ring, parts)) for parts in chosen}
    mine = chosen[0]
    figures = seen.pop(mine)
    return Measured(
        figures=figures,
        bars=(
            at_most("event to changed list at the other edge, p50", figures["p50_ms"], 100.0, unit="ms"),
            at_most("event to changed list at the other edge, p99", figures["p99_ms"], 500.0, unit="ms"),
        ),
        peers=seen,
        notes=(
            f"figures of {mine} parts; the edge is asked every {POLL_S * 1000:.0f} ms, which is part of them; client, "
            "load, world and servers share the machine's cores",
        ),
    )


def _in_world(request: BenchRequest, ring: PublishedRing, parts: str) -> list[dict[str, float]]:
    rate = int(request.number("background", 50 if request.quick else 200))
    runs: list[dict[str, float]] = []
    with real_world(request, ring, name=parts, parts=PARTS[parts]) as world:
        callers = headers_of(world, request.clock)
        half = len(callers) // 2
        for number in range(request.runs):
            with steady_load(
                world.balancer_url, _background(callers[half:]), rate_per_s=rate, work=request.work
            ) as background:
                took, again = asyncio.run(_clicks(request, world, callers[:half], f"{parts}-{number}"))
            whole, acked = [one for one, _ in took], [one for _, one in took]
            runs.append(
                {
                    "p50_ms": percentile(whole, 0.5), "p99_ms": percentile(whole, 0.99), "max_ms": max(whole),
                    "acked_p50_ms": percentile(acked, 0.5), "acked_p99_ms": percentile(acked, 0.99),
                    "tries": float(len(took)), "posted_again": float(again), "background_rps": background.rps,
                    "background_p50_ms": background.seen["p50_us"] / 1000,
                    "background_p99_ms": background.seen["p99_us"] / 1000,
                    "background_failed": background.seen["failed"] + background.seen["refused"],
                }
            )  # fmt: skip
            request.progress.advance(number + 1, request.runs, f"runs on {parts} parts")
    return runs


async def _clicks(
    request: BenchRequest, world: World, callers: Sequence[dict[str, str]], mark: str
) -> tuple[list[tuple[float, float]], int]:
    tries = int(request.number("tries", 20 if request.quick else 200))
    edge_a, edge_b = world.edge_urls(HOME)
    took = []
    timeout = aiohttp.ClientTimeout(total=GIVEN_UP_S)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        clicking = Clicking(session=session, edge_a=edge_a, edge_b=edge_b, clock=request.clock, again=[])
        await asyncio.sleep(SETTLE_S)
        for number in range(tries):
            took.append(await clicking.try_ms(callers[number % len(callers)], f"fresh-{mark}-{number:05d}"))
            request.progress.advance(number + 1, tries, f"clicks, {mark}")
    return took, len(clicking.again)


def _background(callers: Sequence[dict[str, str]]) -> list[Call]:
    """What other users do meanwhile; every tenth call has to be made anew."""
    calls = []
    for number, headers in enumerate(callers):
        anyone = {"Atoll-Client-Region": HOME}
        calls += [Call(f"/v1/recommendations/personal?n={n}", headers) for n in (5, 8, 10, 12, 20, 25)]
        calls.append(Call("/v1/recommendations/personal?n=10&explain=1", headers))
        calls += [Call(f"/v1/recommendations/similar?n=10&item=i{item}", anyone) for item in (number, number + 40)]
        calls.append(Call("/v1/recommendations/trending?n=10", anyone))
    return calls
