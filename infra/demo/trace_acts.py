"""One call's trace, from the balancer to the store, gathered from what every process wrote down."""

import asyncio
import json
from pathlib import Path

from infra.demo.callers import Caller
from infra.demo.play import Play
from infra.demo.probes import PERSONAL, ask, open_session
from infra.demo.report import Line
from infra.plumbing.ids import new_trace_id

PATIENCE_S, POLL_S = 5.0, 0.1
EXPECTED = {("balancer", "GET"), ("edge", "GET"), ("region", "POST"), ("region", "store")}
"""Service, and the first word of a span's name."""


async def trace(play: Play, caller: Caller) -> None:
    """Send one call whose caller wants it traced (W3C Trace Context), and find its spans in every process."""
    world = play.running_world
    trace_id = new_trace_id()
    # A surface that nothing asked for yet: the call goes all the way.
    headers = {**caller.headers, "traceparent": f"00-{trace_id}-00f067aa0ba902b7-01"}
    with play.phase("trace"):
        async with open_session(world.ssl_context()) as session:
            await ask(session, world.balancer_url, f"{PERSONAL}&surface=cart", headers)
        spans = await _spans(play, world.layout.spans, trace_id)
    services = [service for service in ("balancer", "edge", "region") if any(one[0] == service for one in spans)]
    stages = sorted(name for service, name in spans if service == "region" and name.islower())
    play.figures["trace"] = {"spans": len(spans), "services": services, "stages": stages}
    play.show(
        Line("trace", "one call, one trace (W3C traceparent): balancer, edge, region, store",
             f"{len(spans)} spans: {' > '.join(services)} > {', '.join(stages)}", "all four", met=_complete(spans))
    )  # fmt: skip


async def _spans(play: Play, folder: Path, trace_id: str) -> list[tuple[str, str]]:
    """(service, span name) of the trace; spans are written in batches, so they are waited for."""
    end_s = play.clock.monotonic_s() + PATIENCE_S
    while True:
        spans = await asyncio.to_thread(_read_spans, folder, trace_id)
        if _complete(spans) or play.clock.monotonic_s() > end_s:
            return spans
        await asyncio.sleep(POLL_S)


def _read_spans(folder: Path, trace_id: str) -> list[tuple[str, str]]:
    found = []
    for path in folder.glob("*.jsonl"):
        for line in path.read_text(encoding="utf-8").splitlines():
            if trace_id in line and line.endswith("}"):
                span = json.loads(line)
                found.append((span["resource"]["attributes"]["service.name"], span["name"]))
    return found


def _complete(spans: list[tuple[str, str]]) -> bool:
    return {(service, name.split()[0]) for service, name in spans} >= EXPECTED
