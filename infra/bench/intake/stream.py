"""Many subjects' events of every type, sent until each is acknowledged."""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field

import aiohttp
import msgspec
import numpy as np

from infra.bench.serving.processes import HOST
from infra.contracts.events import Event, EventAck, EventBatch, EventType
from infra.contracts.residency import encode_regional
from infra.plumbing.clock import Clock
from infra.plumbing.errors import UnavailableError

TYPES, BRANDS = tuple(EventType), 7
_VALUES = {EventType.WATCH: 0.9, EventType.RATING: 4.0}
TRY_S, AGAIN_S = 5.0, 0.05
GIVEN_UP_S = 90.0
SENT_TWICE_SHARE = 0.1
"""So many acknowledged batches are sent once more, as by a caller that never saw the answer."""


def subject_of(number: int) -> str:
    """A pseudonym as regions make them."""
    return f"{number:032x}"


def event_of(subject: int, number: int, first_ms: int) -> Event:
    """Event `number` of a subject: types take turns, items are the subject's own once, times rise."""
    kind = TYPES[(subject + number) % len(TYPES)]
    follows = f"brand:brand-{number % BRANDS}" if kind in (EventType.FOLLOW, EventType.UNFOLLOW) else None
    return Event(
        event_id=f"stream-{subject:05d}-{number:06d}", type=kind, at_ms=first_ms + number,
        item="" if follows or kind is EventType.SEARCH else f"item-{number}", value=_VALUES.get(kind), follows=follows,
        query="something" if kind is EventType.SEARCH else None,
    )  # fmt: skip


@dataclass
class Stream:
    """`subjects` times `per_subject` events, in batches of `batch`, `at_once` subjects at a time.

    Args:
        url: the region's API.
        service_key: as its edges show.
        clock: bounds how long a batch is tried.
        first_ms: the moment of each subject's first event.
        subjects: how many.
        per_subject: events of each; at most 1,536, which is as far as trends are exact.
        batch: events sent together.
        at_once: subjects whose events are under way at any time.
        seed: decides which batches are sent twice.
    """

    url: str
    service_key: str
    clock: Clock
    first_ms: int
    subjects: int
    per_subject: int
    batch: int = 50
    at_once: int = 8
    seed: int = 7
    acknowledged: int = 0
    sent_again: int = 0
    """Batches that were not acknowledged at the first try."""
    refused: dict[int, int] = field(default_factory=dict)
    """Answers that were no acknowledgement, by status; 0: none came."""
    _heard: asyncio.Condition = field(default_factory=asyncio.Condition)

    @property
    def total(self) -> int:
        """All events."""
        return self.subjects * self.per_subject

    async def until(self, count: int) -> None:
        """Wait until so many events are acknowledged."""
        async with self._heard:
            await self._heard.wait_for(lambda: self.acknowledged >= count)

    async def run(self) -> None:
        """Send everything; returns when everything is acknowledged.

        Raises:
            UnavailableError: a batch was not acknowledged for GIVEN_UP_S.
        """
        waiting, rng = iter(range(self.subjects)), np.random.default_rng(self.seed)
        timeout = aiohttp.ClientTimeout(total=TRY_S)
        async with aiohttp.ClientSession(timeout=timeout) as session, asyncio.TaskGroup() as senders:
            for _ in range(self.at_once):
                senders.create_task(self._send_subjects(session, waiting, rng))

    async def _send_subjects(
        self, session: aiohttp.ClientSession, waiting: Iterator[int], rng: np.random.Generator
    ) -> None:  # fmt: skip
        for subject in waiting:
            for first in range(0, self.per_subject, self.batch):
                numbers = range(first, min(first + self.batch, self.per_subject))
                events = tuple(event_of(subject, number, self.first_ms) for number in numbers)
                body = encode_regional(EventBatch(events=events, subject=subject_of(subject)))
                await self._until_acknowledged(session, body, len(events))
                async with self._heard:
                    self.acknowledged += len(events)
                    self._heard.notify_all()
                if rng.random() < SENT_TWICE_SHARE:
                    await self._until_acknowledged(session, body, len(events))

    async def _until_acknowledged(self, session: aiohttp.ClientSession, body: bytes, count: int) -> None:
        ends_s, tries = self.clock.monotonic_s() + GIVEN_UP_S, 0
        while not await self._acknowledged(session, body, count):
            tries += 1
            if self.clock.monotonic_s() > ends_s:
                raise UnavailableError(f"a batch was not acknowledged in {GIVEN_UP_S:.0f} s: {self.refused}.")
            await asyncio.sleep(AGAIN_S)
        self.sent_again += tries > 0

    async def _acknowledged(self, session: aiohttp.ClientSession, body: bytes, count: int) -> bool:
        status = 0
        try:
            async with session.post(
                f"{self.url}/v1/events", data=body, headers={"Atoll-Service-Key": self.service_key}
            ) as answer:
                raw, status = await answer.read(), answer.status
        except (aiohttp.ClientError, TimeoutError):
            pass
        if status != 200:
            self.refused[status] = self.refused.get(status, 0) + 1
            return False
        ack = msgspec.json.decode(raw, type=EventAck)
        if ack.accepted + ack.duplicates != count or ack.rejected:
            raise UnavailableError(f"{count} events were acknowledged as {ack}.")
        return True


def stream_to(port: int, service_key: str, clock: Clock, *, subjects: int, per_subject: int, first_ms: int) -> Stream:
    """A stream to the API at a loopback port."""
    return Stream(
        url=f"http://{HOST}:{port}", service_key=service_key, clock=clock, first_ms=first_ms, subjects=subjects,
        per_subject=per_subject,
    )  # fmt: skip
