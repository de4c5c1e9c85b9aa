"""Open-loop load on a balancer: calls leave at their own times, so what a slow answer makes wait is seen."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

import aiohttp
import msgspec

from infra.plumbing.clock import Clock

GIVEN_UP_S = 3.0
IN_FLIGHT_MAX = 600
NOT_SENT = "not sent"
"""The generator had IN_FLIGHT_MAX calls under way: nobody was asked."""


@dataclass(frozen=True, slots=True)
class Call:
    """One request for a list: path with query, and headers."""

    path: str
    headers: dict[str, str]


@dataclass(frozen=True, slots=True)
class Sample:
    """What came of one call. `status` is 0 when no answer came; times are seconds since the load began.

    `step`: which one answered; of a call that no answer came to, why: NOT_SENT, or the name of the error.
    """

    sent_s: float
    took_s: float
    status: int
    items: int
    step: str

    @property
    def good(self) -> bool:
        """Whether the caller has its list."""
        return self.status == 200 and self.items > 0

    @property
    def trouble(self) -> str:
        """What was wrong with it: "" for a good one, else one of TROUBLES."""
        if self.good:
            return ""
        if self.status == 0:
            return "not_sent" if self.step == NOT_SENT else "unanswered"
        return "empty" if self.status == 200 else "refused"


TROUBLES = ("not_sent", "unanswered", "refused", "empty")
"""`refused`: an answer of another status than 200."""


class _Body(msgspec.Struct):
    items: list[msgspec.Raw]


@dataclass
class OpenLoad:
    """Sends `calls` in turn at `rate_per_s` until `stop`; more than IN_FLIGHT_MAX at once are failures of their own."""

    base_url: str
    calls: Sequence[Call]
    rate_per_s: float
    clock: Clock
    samples: list[Sample] = field(default_factory=list)
    late_s: list[float] = field(default_factory=list)
    """By how much each call left behind its time. Where that is much, the machine had no time for this generator: calls
    that it did not send, and answers that it did not read in time, are its own failures."""
    _began_s: float = 0.0
    _ends: asyncio.Event = field(default_factory=asyncio.Event)

    def now_s(self) -> float:
        """Seconds since the load began."""
        return self.clock.monotonic_s() - self._began_s

    def stop(self) -> None:
        """Send no more; `run` returns when every answer is in."""
        self._ends.set()

    async def run(self) -> None:
        """Send, and record every outcome."""
        self._began_s = self.clock.monotonic_s()
        async with _session() as session, asyncio.TaskGroup() as out:
            number = in_flight = 0

            def done(_task: asyncio.Task[None]) -> None:
                nonlocal in_flight
                in_flight -= 1

            while not self._ends.is_set():
                wait_s = number / self.rate_per_s - self.now_s()
                if wait_s > 0:
                    await asyncio.sleep(wait_s)
                self.late_s.append(max(0.0, self.now_s() - number / self.rate_per_s))
                number += 1
                if in_flight >= IN_FLIGHT_MAX:
                    self.samples.append(Sample(self.now_s(), 0.0, 0, 0, NOT_SENT))
                    continue
                in_flight += 1
                out.create_task(self._send(session, self.calls[number % len(self.calls)])).add_done_callback(done)

    async def _send(self, session: aiohttp.ClientSession, call: Call) -> None:
        sent_s = self.now_s()
        status, items, step = await ask(session, self.base_url, call)
        self.samples.append(Sample(sent_s, self.now_s() - sent_s, status, items, step))


async def capacity_rps(base_url: str, calls: Sequence[Call], *, clock: Clock, width: int, seconds: float) -> float:
    """Calls a second that `width` callers get answered who each wait for their answer."""
    ends_s = clock.monotonic_s() + seconds
    answered = 0

    async def caller(first: int, session: aiohttp.ClientSession) -> None:
        nonlocal answered
        number = first
        while clock.monotonic_s() < ends_s:
            status, _, _ = await ask(session, base_url, calls[number % len(calls)])
            answered += status == 200
            number += width

    async with _session() as session:
        await asyncio.gather(*(caller(first, session) for first in range(width)))
    return answered / seconds


async def ask(session: aiohttp.ClientSession, base_url: str, call: Call) -> tuple[int, int, str]:
    """Status (0 without an answer), number of items, and the step that answered, or the error where none did."""
    try:
        async with session.get(base_url + call.path, headers=call.headers) as answer:
            body = await answer.read()
            items = len(msgspec.json.decode(body, type=_Body).items) if answer.status == 200 else 0
            return answer.status, items, answer.headers.get("Atoll-Step", "")
    except (aiohttp.ClientError, TimeoutError, msgspec.DecodeError) as error:
        return 0, 0, type(error).__name__


def _session() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=IN_FLIGHT_MAX), timeout=aiohttp.ClientTimeout(total=GIVEN_UP_S)
    )
