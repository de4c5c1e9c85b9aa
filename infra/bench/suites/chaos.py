"""A real world under open-loop load while parts of it burn: nobody without an answer, nobody late, no retry storm.

Two regions of two edges with region nodes, workers, grids and the balancer, on a made-up dataset with a model trained
for it. 60 % of the capacity measured first is sent to the balancer for callers of the home region. Each scene hurts
something for a while and heals it: kill -9, SIGSTOP, black hole, reset, 500s, slow drip, 30 % loss, wall clocks ten
minutes wrong (forward and back), release switches; on the home region, on all regions and on the grid, each alone, and
every pair of faults (`infra.bench.serving.scenes` has the list). The scenes are divided among the runs: each is played
once, however many runs there are. A world that is not well again READY_S after a scene is counted (`unrecovered`); what
is not begun `budget_s` after the suite began is not played, and counted too (`scenes_left`).

Options: `hurt_s` (default 1.5), `heal_s` (default 0.7), `deadline_ms` (when an answer is late for its caller, default
250: the edges' 150 and what balancer, network and this load generator take), `scenes` (names with commas between, or
`alone`; all by default), `rate` (calls a second, instead of 60 % of the capacity), `budget_s` (default 440).
"""

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from infra.bench.catalogue import BenchRequest
from infra.bench.results import Measured, at_most, percentile
from infra.bench.serving.burning_world import BurningWorld, burning_world
from infra.bench.serving.growing import Grown
from infra.bench.serving.open_load import OpenLoad, Sample, capacity_rps
from infra.bench.serving.scenes import Deed, Scene, scenes
from infra.local.world import WorldNotReadyError
from infra.plumbing.errors import InvalidInputError

LOAD_SHARE = 0.6
PROBE_S = 0.5
HURT_S, HEAL_S = 1.5, 0.7
READY_S = 20.0
"""So soon after a scene's end everything is to be ready again: what was killed has come up by then."""
CALM_S = 4.0
BUDGET_S = 440.0
"""The last scene begins within it, so that the whole suite ends within eight minutes."""


@dataclass
class Account:
    """What one run saw."""

    samples: list[Sample] = field(default_factory=list)
    calm: list[Sample] = field(default_factory=list)
    """Before the first scene: what this machine does when nothing burns."""
    first_good_s: list[float] = field(default_factory=list)
    bad: Counter[str] = field(default_factory=Counter)
    """Failed, empty and late calls by scene."""
    played: list[str] = field(default_factory=list)
    unrecovered: list[str] = field(default_factory=list)
    """Scenes after which the world was not well in time; the next one began with less than everything."""


def run(request: BenchRequest) -> Measured:
    """Play every scene once; each run takes its share of them.

    Raises:
        InvalidInputError: a scene that there is not.
        UnavailableError: the world could not be made.
    """
    played = _chosen(request)
    ends_s = request.clock.monotonic_s() + request.number("budget_s", BUDGET_S)
    late_s = request.number("deadline_ms", 250.0) / 1000
    accounts: list[Account] = []
    with burning_world(request, clock_faults=True) as world:
        calls = world.calls(request)
        capacity = asyncio.run(
            capacity_rps(world.world.balancer_url, calls, clock=request.clock, width=16, seconds=5.0)
        )
        rate = request.number("rate", max(5.0, LOAD_SHARE * capacity))
        routed = Grown()
        routed.look(world.routing())
        for number in range(request.runs):
            share = played[number :: request.runs]
            # Each run has its part of what is left, so that none of them plays nothing.
            left_s = ends_s - request.clock.monotonic_s()
            run_ends_s = request.clock.monotonic_s() + left_s / (request.runs - number)
            accounts.append(
                asyncio.run(_play(request, world, share, routed, rate=rate, late_s=late_s, ends_s=run_ends_s))
            )
            request.progress.advance(number + 1, request.runs, "runs")
    return _measured(accounts, played, _extra_share(routed.totals), capacity=capacity, rate=rate, late_s=late_s)


def _chosen(request: BenchRequest) -> list[Scene]:
    every = scenes()
    quick = "home black-hole,home kill,grid stop,all clock-back"
    asked = request.options.get("scenes", quick if request.quick else ",".join(every))
    words = [name for name in every if " + " not in name] if asked == "alone" else asked.split(",")
    unknown = [word for word in words if word not in every]
    if unknown:
        raise InvalidInputError(f"there is no scene {unknown[0]!r}.", fix=f"Name some of {', '.join(every)}.")
    return [every[word] for word in words]


async def _play(
    request: BenchRequest, world: BurningWorld, played: Sequence[Scene], routed: Grown, *, rate: float,
    late_s: float, ends_s: float,
) -> Account:  # fmt: skip
    load = OpenLoad(world.world.balancer_url, world.calls(request), rate, request.clock)
    sending = asyncio.create_task(load.run())
    account = Account()
    await asyncio.sleep(CALM_S)
    account.calm = list(load.samples)
    try:
        for number, scene in enumerate(played, 1):
            if request.clock.monotonic_s() >= ends_s:
                break
            began = len(load.samples)
            hurt_s = load.now_s()
            await asyncio.to_thread(_do, world, scene.hurt)
            done_s = load.now_s()
            await asyncio.sleep(request.number("hurt_s", HURT_S))
            await asyncio.to_thread(_do, world, scene.heal)
            if not await asyncio.to_thread(_is_ready, world):
                account.unrecovered.append(scene.name)
            await asyncio.sleep(request.number("heal_s", HEAL_S))
            account.played.append(scene.name)
            routed.look(await asyncio.to_thread(world.routing))
            seen = [sample for sample in load.samples[began:] if sample.sent_s >= hurt_s]
            if scene.kills:
                account.first_good_s.append(_first_good_s(seen, done_s))
            account.bad[scene.name] += sum(not one.good or one.took_s > late_s for one in seen)
            request.progress.advance(number, len(played), scene.name)
    finally:
        load.stop()
        await sending
    account.samples = load.samples
    return account


def _do(world: BurningWorld, deeds: Sequence[Deed]) -> None:
    for deed in deeds:
        deed(world)


def _is_ready(world: BurningWorld) -> bool:
    """Let what was killed come up again; says whether everything is well in time."""
    try:
        world.world.wait(timeout_s=READY_S)
    except WorldNotReadyError:
        return False
    return True


def _first_good_s(samples: Sequence[Sample], killed_s: float) -> float:
    """From the kill to the first good answer of a call that was sent after it."""
    good = [one.sent_s + one.took_s - killed_s for one in samples if one.sent_s >= killed_s and one.good]
    return min(good, default=float("inf"))


def _extra_share(grown: Mapping[str, float]) -> float:
    """Second calls behind the edges per first call."""
    second = grown.get("retried", 0.0) + grown.get("hedged", 0.0)
    return second / max(1.0, grown.get("first", 0.0))


def _late(samples: Sequence[Sample], late_s: float) -> float:
    return sum(sample.took_s > late_s for sample in samples) / max(1, len(samples))


def _measured(
    accounts: Sequence[Account], played: Sequence[Scene], extra: float, *, capacity: float, rate: float, late_s: float
) -> Measured:
    samples = [sample for account in accounts for sample in account.samples]
    failed = sum(sample.status != 200 for sample in samples)
    empty = sum(sample.status == 200 and not sample.items for sample in samples)
    late = _late(samples, late_s)
    calm_late = _late([sample for account in accounts for sample in account.calm], late_s)
    first = max((good for account in accounts for good in account.first_good_s), default=0.0)
    bad: Counter[str] = sum((account.bad for account in accounts), Counter())
    steps = Counter(sample.step or "none" for sample in samples)
    late_steps = Counter(sample.step or "none" for sample in samples if sample.took_s > late_s)
    names = [name for account in accounts for name in account.played]
    unrecovered = [name for account in accounts for name in account.unrecovered]
    left = len(played) - len(names)
    return Measured(
        figures={
            "requests": len(samples), "failed": failed, "empty": empty, "late_share": late, "extra_call_share": extra,
            "scenes": len(names), "scenes_left": left, "unrecovered": len(unrecovered), "calm_late_share": calm_late,
            "first_good_ms": first * 1000, "capacity_rps": capacity, "rate_rps": rate,
            "p50_ms": percentile([sample.took_s * 1000 for sample in samples], 0.5),
            "p99_ms": percentile([sample.took_s * 1000 for sample in samples], 0.99),
        },
        bars=(
            at_most("calls without an answer", failed, 0, unit="calls"),
            at_most("calls with an empty list", empty, 0, unit="calls"),
            at_most(f"answers later than {late_s * 1000:.0f} ms", late, 0.001, unit="share"),
            at_most("first good answer after a kill", first * 1000, PROBE_S * 1000, unit="ms"),
            at_most(f"scenes after which not all was well within {READY_S:.0f} s", len(unrecovered), 0, unit="scenes"),
            at_most("scenes for which no time was left", left, 0, unit="scenes"),
            at_most("second calls per first call behind the edges", extra, 0.1, unit="share"),
        ),
        notes=(
            f"{len(names)} scenes, divided among {len(accounts)} runs: {', '.join(names)}.",
            f"bad by scene: {dict(bad.most_common(8)) or 'none'}; not well again: {', '.join(unrecovered) or 'none'}.",
            f"steps: {dict(steps.most_common())}; of late answers: {dict(late_steps.most_common()) or 'none'}.",
            "a pair of faults is played at one pair of places; counts are sums over the runs, not medians.",
        ),
    )  # fmt: skip
