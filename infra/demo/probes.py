"""Measurements over plain HTTP: how soon an event shows, how soon a roll back is everywhere."""

import asyncio
import json
import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import aiohttp

from infra.demo.callers import Caller
from infra.plumbing.clock import Clock
from infra.plumbing.errors import AtollError
from infra.plumbing.ids import new_request_id
from infra.plumbing.progress import Progress

POLL_S = 0.004
PATIENCE_S = 10.0
LATER = (429, 503)
"""What an event is answered while a part is busy or away: the same event counts once, however often it comes."""


class ProbeFailedError(AtollError):
    """What the probe waited for did not happen in time, or an answer was not what it must be."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer of an edge: its slate and what the headers say of it."""

    status: int
    items: tuple[str, ...]
    step: str
    region: str
    release: str
    headers: Mapping[str, str]
    """Names in any case."""
    body: Any


def open_session(tls: ssl.SSLContext | None) -> aiohttp.ClientSession:
    """A session that trusts what the world's operator trusts; None: without TLS."""
    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=True if tls is None else tls))


async def ask(session: aiohttp.ClientSession, base_url: str, path: str, headers: dict[str, str]) -> Answer:
    """GET a list.

    Raises:
        ProbeFailedError: the answer is not a 200.
    """
    async with session.get(base_url + path, headers=headers) as response:
        raw = await response.read()
        if response.status != 200:
            raise ProbeFailedError(f"{path} was answered {response.status}: {raw[:300].decode(errors='replace')}")
        body = json.loads(raw)
        return Answer(
            status=response.status,
            items=tuple(item["item"] for item in body["items"]),
            step=response.headers.get("Atoll-Step", ""),
            region=response.headers.get("Atoll-Region", ""),
            release=response.headers.get("Atoll-Release", ""),
            headers=response.headers,
            body=body,
        )


async def send_event(
    session: aiohttp.ClientSession, base_url: str, headers: dict[str, str], *, item: str, event_id: str, clock: Clock
) -> dict[str, Any]:
    """POST one click and return the acknowledgement; where it is told to come again later, it does, as callers must.

    Raises:
        ProbeFailedError: the event was not acknowledged within PATIENCE_S.
    """
    event = {"event_id": event_id, "type": "click", "item": item, "at_ms": clock.now_ms()}
    till_s = clock.monotonic_s() + PATIENCE_S
    while True:
        async with session.post(f"{base_url}/v1/events", json={"events": [event]}, headers=headers) as response:
            raw = await response.read()
        if response.status == 200:
            acknowledged: dict[str, Any] = json.loads(raw)
            return acknowledged
        again_s = float(response.headers.get("Retry-After", "inf")) if response.status in LATER else float("inf")
        if clock.monotonic_s() + again_s > till_s:
            raise ProbeFailedError(f"an event was answered {response.status}: {raw[:300].decode(errors='replace')}")
        await asyncio.sleep(again_s)


PERSONAL = "/v1/recommendations/personal?n=10"


async def event_to_list_ms(
    session: aiohttp.ClientSession, caller: Caller, *, edge_a: str, edge_b: str, event_id: str, clock: Clock
) -> float:
    """Milliseconds from the acknowledgement at one edge to a changed list at another edge of the region.

    The event is a click on the first item of the list that edge B holds in its cache; the list has changed when edge
    B answers another one.
    """
    before = await ask(session, edge_b, PERSONAL, caller.headers)
    await send_event(session, edge_a, caller.headers, item=before.items[0], event_id=event_id, clock=clock)
    acknowledged_s = clock.monotonic_s()
    while clock.monotonic_s() - acknowledged_s < PATIENCE_S:
        now = await ask(session, edge_b, PERSONAL, caller.headers)
        if now.items != before.items:
            return (clock.monotonic_s() - acknowledged_s) * 1000
        await asyncio.sleep(POLL_S)
    raise ProbeFailedError(f"an event did not show in {PATIENCE_S:.0f} s at {edge_b}.")


async def freshness(
    callers: Sequence[Caller], edges: dict[str, list[str]], *, tries: int, clock: Clock, progress: Progress,
    tls: ssl.SSLContext | None = None,
) -> tuple[list[float], list[str]]:  # fmt: skip
    """`event_to_list_ms` of `tries` events, callers taking turns. Returns durations and the event ids used."""
    event_ids = [f"demo-{new_request_id()}" for _ in range(tries)]
    took_ms = []
    async with open_session(tls) as session:
        for number, event_id in enumerate(event_ids):
            caller = callers[number % len(callers)]
            edge_a, edge_b = edges[caller.home][0], edges[caller.home][1]
            took_ms.append(
                await event_to_list_ms(session, caller, edge_a=edge_a, edge_b=edge_b, event_id=event_id, clock=clock)
            )
            progress.advance(number + 1, tries, "events")
    return took_ms, event_ids


async def switch_everywhere_ms(
    command: Callable[[], Awaitable[Any]], edges: Sequence[str], caller: Caller, *, release: str, clock: Clock,
    tls: ssl.SSLContext | None = None,
) -> float:  # fmt: skip
    """Milliseconds from giving `command` until every edge in `edges` answers from `release`."""

    async def until_switched(session: aiohttp.ClientSession, edge: str) -> None:
        while (await ask(session, edge, PERSONAL, caller.headers)).release != release:
            if clock.monotonic_s() - started_s > PATIENCE_S:
                raise ProbeFailedError(f"{edge} does not answer from {release} after {PATIENCE_S:.0f} s.")
            await asyncio.sleep(POLL_S)

    started_s = clock.monotonic_s()
    async with open_session(tls) as session, asyncio.TaskGroup() as tasks:
        tasks.create_task(command())  # type: ignore[arg-type]
        for edge in edges:
            tasks.create_task(until_switched(session, edge))
    return (clock.monotonic_s() - started_s) * 1000
