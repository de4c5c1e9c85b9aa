"""Open-loop load on the balancer: requests leave on time whether or not answers come back, so waiting is seen."""

import asyncio
import json
import ssl
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

import aiohttp
import numpy as np

from infra.plumbing.clock import Clock

TIMEOUT_S = 3.0
IN_FLIGHT_MAX = 400


@dataclass(frozen=True, slots=True)
class Call:
    """One request to send: path with query, headers, and the region that its caller sits in."""

    path: str
    headers: dict[str, str]
    home: str
    personal: bool


@dataclass(frozen=True, slots=True)
class Sample:
    """What came of one call. `status` is 0 when no answer came at all; `sent_s` is since the start of the load."""

    sent_s: float
    took_ms: float
    status: int
    items: int
    step: str
    region: str
    release: str
    home: str
    personal: bool


@dataclass(frozen=True, slots=True)
class LoadSummary:
    """Figures over a window of samples."""

    requests: int
    failed: int
    empty: int
    p50_ms: float
    p99_ms: float
    max_ms: float
    steps: dict[str, int]


def summarise(samples: Sequence[Sample]) -> LoadSummary:
    """Counts and percentiles; a call without a 200 has failed, a 200 without items is empty."""
    took = np.array([sample.took_ms for sample in samples]) if samples else np.zeros(1)
    return LoadSummary(
        requests=len(samples),
        failed=sum(sample.status != 200 for sample in samples),
        empty=sum(sample.status == 200 and sample.items == 0 for sample in samples),
        p50_ms=round(float(np.percentile(took, 50)), 2),
        p99_ms=round(float(np.percentile(took, 99)), 2),
        max_ms=round(float(took.max()), 2),
        steps=dict(Counter(sample.step for sample in samples if sample.status == 200)),
    )


class Load:
    """A steady stream of calls until it is told to stop."""

    def __init__(
        self, *, base_url: str, calls: Sequence[Call], rate_per_s: float, clock: Clock,
        tls: ssl.SSLContext | None = None,
    ) -> None:  # fmt: skip
        self._base_url = base_url
        self._tls = tls
        self._calls = calls
        self._interval_s = 1.0 / rate_per_s
        self._clock = clock
        self._started_s = clock.monotonic_s()
        self._stop = asyncio.Event()
        self.samples: list[Sample] = []

    def now_s(self) -> float:
        """Seconds since the load began."""
        return self._clock.monotonic_s() - self._started_s

    def stop(self) -> None:
        """Send no more; `run` returns when every answer is in."""
        self._stop.set()

    async def run(self) -> None:
        """Send calls in turn, each at its own time, and record every outcome."""
        self._started_s = self._clock.monotonic_s()
        # The load comes from many callers: one connection each would hide nothing, one for all would.
        connector = aiohttp.TCPConnector(limit=IN_FLIGHT_MAX, ssl=True if self._tls is None else self._tls)
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session, asyncio.TaskGroup() as tasks:
            number = 0
            while not self._stop.is_set():
                due_s = number * self._interval_s
                if due_s > self.now_s():
                    await asyncio.sleep(due_s - self.now_s())
                tasks.create_task(self._send(session, self._calls[number % len(self._calls)]))
                number += 1

    async def _send(self, session: aiohttp.ClientSession, call: Call) -> None:
        sent_s = self.now_s()
        status, items = 0, 0
        headers: Mapping[str, str] = {}
        try:
            async with session.get(self._base_url + call.path, headers=call.headers) as answer:
                body = await answer.read()
                status, headers = answer.status, answer.headers
                items = len(json.loads(body)["items"]) if status == 200 else 0
        except (aiohttp.ClientError, TimeoutError):
            status = 0
        self.samples.append(
            Sample(
                sent_s=sent_s,
                took_ms=(self.now_s() - sent_s) * 1000,
                status=status,
                items=items,
                step=headers.get("Atoll-Step", ""),
                region=headers.get("Atoll-Region", ""),
                release=headers.get("Atoll-Release", ""),
                home=call.home,
                personal=call.personal,
            )
        )


async def under_load(load: Load, scene: Callable[[Load], Awaitable[None]]) -> None:
    """Play `scene` while the load runs, then let the last answers come in."""
    running = asyncio.create_task(load.run())
    try:
        await scene(load)
    finally:
        load.stop()
        await running
