"""The serving acts: every kind of call, an event that changes the next list, a region lost and found under load."""

import asyncio
from collections.abc import Mapping, Sequence

import aiohttp
import numpy as np

from infra.demo.callers import Caller, mixed_calls
from infra.demo.load import Load, Sample, summarise, under_load
from infra.demo.play import Play
from infra.demo.probes import PERSONAL, Answer, ProbeFailedError, ask, freshness, open_session, send_event
from infra.demo.report import Line, failover_plot, histogram_plot
from infra.plumbing.ids import new_request_id

LOAD_PER_S = 120.0
CALM_S, STAGE_S = 4.0, 5.0
"""How long the load runs before the first kill, and after each change."""
HOME_STEPS = frozenset({"fresh", "grid", "home", "stale", "replica"})
FRESHNESS_GOAL_MS, FAILOVER_GOAL_MS, HEAL_GOAL_S = 300.0, 100.0, 5.0


async def calls(play: Play, callers: Sequence[Caller], item: str) -> None:
    """One call of every kind through the balancer, and what each answer says of itself."""
    world = play.running_world
    caller = callers[0]
    region = {"Atoll-Client-Region": caller.home}
    paths: dict[str, tuple[str, dict[str, str]]] = {
        "personal": ("/v1/recommendations/personal?n=10", caller.headers),
        "similar": (f"/v1/recommendations/similar?item={item}&n=10", region),
        "trending": ("/v1/recommendations/trending?n=10", region),
        "popular": ("/v1/recommendations/popular?n=10", region),
        "anonymous session": (f"/v1/recommendations/session?recent={item}&n=10", region),
    }
    with play.phase("calls"):
        async with open_session(world.ssl_context()) as session:
            answers = {name: await ask(session, world.balancer_url, *call) for name, call in paths.items()}
            # The balancer takes turns: the other edge finds the list in the grid, then both hold it themselves.
            again = [await ask(session, world.balancer_url, *paths["personal"]) for _ in range(3)]
            unchanged = await _not_modified(session, world.balancer_url, *paths["personal"], again[-1])
            abroad = await _travel(play, session, caller)
    for name, answer in answers.items():
        if len(answer.items) != 10:
            raise ProbeFailedError(f"the {name} list has {len(answer.items)} items, not 10.")
    first = answers["personal"].body["items"][0]
    play.show(
        Line(
            "calls", "personal, similar, trending, popular, anonymous: full lists with reasons",
            f"first: {first.get('title') or first['item']} ({first['reason']['text']})",
        )
    )  # fmt: skip
    steps = [answers["personal"].step, *(answer.step for answer in again)]
    play.show(
        Line("calls", "asked again, an edge answers from its own cache, and says when nothing changed",
             f"{', '.join(steps)}, {unchanged}", "..., fresh, 304", met=steps[-1] == "fresh" and unchanged == 304)
    )  # fmt: skip
    play.show(
        Line("calls", "a traveller is answered by the home region, through a sealed box",
             f"{abroad.region}, step {abroad.step}", f"{caller.home}", met=abroad.region == caller.home)
    )  # fmt: skip


async def _travel(play: Play, session: aiohttp.ClientSession, caller: Caller) -> Answer:
    """The caller calls from another region: the list is their own all the same, and so is where their event goes."""
    world = play.running_world
    elsewhere = next(region for region in world.configuration.region_names if region != caller.home)
    edge = world.edge_urls(elsewhere)[0]
    answer = await ask(session, edge, PERSONAL, caller.headers)
    play.event_ids.append(event_id := f"demo-{new_request_id()}")
    await send_event(session, edge, caller.headers, item=answer.items[-1], event_id=event_id, clock=play.clock)
    return answer


async def _not_modified(
    session: aiohttp.ClientSession, base_url: str, path: str, headers: dict[str, str], known: Answer
) -> int:
    conditional = {**headers, "If-None-Match": known.headers.get("ETag", "")}
    async with session.get(base_url + path, headers=conditional) as response:
        return response.status


async def events(play: Play, callers: Sequence[Caller], *, tries: int) -> None:
    """An event acknowledged at one edge changes the list at the region's other edge."""
    world = play.running_world
    edges = {region: list(world.edge_urls(region)) for region in world.configuration.region_names}
    with play.phase("events"):
        took_ms, event_ids = await freshness(
            callers, edges, tries=tries, clock=play.clock, progress=play.progress, tls=world.ssl_context()
        )
    play.event_ids.extend(event_ids)
    p50_ms, p99_ms = (round(float(np.percentile(took_ms, share)), 1) for share in (50, 99))
    play.figures["freshness_ms"] = {"p50": p50_ms, "p99": p99_ms, "tries": tries}
    play.show(
        Line("events", "acknowledged event -> changed list at another edge",
             f"p50 {p50_ms} ms, p99 {p99_ms} ms of {tries}", f"p99 <= {FRESHNESS_GOAL_MS:.0f} ms",
             met=p99_ms <= FRESHNESS_GOAL_MS)
    )  # fmt: skip
    play.plots.append(histogram_plot(took_ms, "From an acknowledged event to a changed list at another edge."))


async def failover(
    play: Play, callers: Sequence[Caller], items: Sequence[str], vectors: Mapping[str, Mapping[str, str]], lost: str
) -> None:
    """Lose a region under load in two steps (its core, then all of it), heal it, and count every answer."""
    world = play.running_world
    load = Load(
        base_url=world.balancer_url, calls=mixed_calls(callers, items, vectors), rate_per_s=LOAD_PER_S,
        clock=play.clock, tls=world.ssl_context(),
    )  # fmt: skip
    marks: dict[str, float] = {}

    async def scene(running: Load) -> None:
        whole_s = CALM_S + 3 * STAGE_S
        past_s = await play.pause(CALM_S, what="failover", past_s=0.0, whole_s=whole_s)
        for mark, part in (("core killed", "core"), ("all killed", "all")):
            marks[mark] = running.now_s()
            await asyncio.to_thread(world.kill, lost, part)
            past_s = await play.pause(STAGE_S, what="failover", past_s=past_s, whole_s=whole_s)
        marks["healing"] = running.now_s()
        await asyncio.to_thread(world.heal, lost)
        await asyncio.to_thread(world.wait, region=lost, progress=play.progress)
        marks["healed"] = running.now_s()
        await play.pause(STAGE_S, what="failover", past_s=past_s, whole_s=whole_s)

    with play.phase("failover"):
        await under_load(load, scene)
    _report_failover(play, load.samples, marks, lost)


def _report_failover(play: Play, samples: Sequence[Sample], marks: Mapping[str, float], lost: str) -> None:
    summary = summarise(samples)
    back_s = next(
        (
            sample.sent_s + sample.took_ms / 1000 - marks["healing"]
            for sample in sorted(samples, key=lambda sample: sample.sent_s)
            if sample.sent_s >= marks["healing"] and sample.personal and sample.home == lost
            and sample.region == lost and sample.step in HOME_STEPS
        ),
        float("inf"),
    )  # fmt: skip
    play.figures["failover"] = {
        "requests": summary.requests, "failed": summary.failed, "empty": summary.empty, "p50_ms": summary.p50_ms,
        "p99_ms": summary.p99_ms, "max_ms": summary.max_ms, "steps": summary.steps, "heal_s": round(back_s, 2),
    }  # fmt: skip
    steps = ", ".join(f"{name} {count}" for name, count in sorted(summary.steps.items(), key=lambda pair: -pair[1]))
    play.show(
        Line("failover", f"{lost} killed under {LOAD_PER_S:.0f} requests/s: failed, empty",
             f"{summary.failed} failed, {summary.empty} empty of {summary.requests:,}", "0, 0",
             met=summary.failed == 0 and summary.empty == 0)
    )  # fmt: skip
    play.show(
        Line("failover", "time to answer over the whole window", f"p50 {summary.p50_ms} ms, p99 {summary.p99_ms} ms",
             f"p99 <= {FAILOVER_GOAL_MS:.0f} ms", met=summary.p99_ms <= FAILOVER_GOAL_MS)
    )  # fmt: skip
    play.show(
        Line("failover", "personal lists are back after healing", f"{back_s:.1f} s", f"<= {HEAL_GOAL_S:.0f} s",
             met=back_s <= HEAL_GOAL_S)
    )  # fmt: skip
    play.show(Line("failover", "steps of the ladder that answered", steps))
    play.plots.append(failover_plot(samples, marks))
