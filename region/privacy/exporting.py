"""Exporting a subject: everything that this node can find of it, in one message of the region."""

import asyncio
from collections.abc import Sequence

from infra.plumbing.clock import Clock
from region.events.dead_letters import DeadLetter, DeadLetters
from region.events.records import decode_record
from region.privacy.access_log import AccessLog
from region.privacy.messages import ExportedEvent, ExportedLetter, SubjectExport
from region.privacy.places import Known, Place
from region.store.port import ExportedRow
from region.store.subjects import erasure_mark

EVENTS_MAX = 100_000
_PAGE = 1_000


class Exporter:
    """Reads every place for one subject.

    Args:
        memory: further places, of which an export says how much they have.
        accesses: the node's account of who asked for whose data.
    """

    def __init__(
        self, *, region: str, node: str, known: Known, letters: DeadLetters, memory: Sequence[Place],
        accesses: AccessLog, clock: Clock, events_max: int = EVENTS_MAX,
    ) -> None:  # fmt: skip
        self._accesses = accesses
        self._region = region
        self._node = node
        self._known = known
        self._letters = letters
        self._memory = tuple(memory)
        self._clock = clock
        self._events_max = events_max

    async def export(self, subject: str) -> SubjectExport:
        """Everything of a subject.

        Raises:
            UnavailableError: a place does not answer: half an export is none.
        """
        held = await self._known.store.holds(subject)
        row = await self._known.store.read(subject) if held else None
        events = await self._events(subject)
        letters = await self._letters.of_subject(subject)
        return SubjectExport(
            region=self._region, node=self._node, exported_ms=self._clock.now_ms(), subject=subject,
            opted_out=row is not None and row.opted_out,
            row=ExportedRow.of(row) if row is not None else None, events=events[: self._events_max],
            unreadable=len(letters), letters=tuple(map(_exported, letters)),
            samples=tuple(await asyncio.to_thread(self._known.samples.of_subject, subject)),
            exposures=tuple(await asyncio.to_thread(self._known.exposures.of_subject, subject)),
            requests=tuple(self._known.requests.of_subject(subject)),
            memory={place.name: await place.count(subject) for place in self._memory},
            erasure=await self._known.store.erasure(subject),
            accesses=tuple(await asyncio.to_thread(self._accesses.of_mark, erasure_mark(subject))),
            complete=len(events) <= self._events_max,
        )  # fmt: skip

    async def _events(self, subject: str) -> tuple[ExportedEvent, ...]:
        """The subject's records, one more than are given out at most."""
        events: list[ExportedEvent] = []
        for partition in sorted(await self._known.log.last_offsets()):
            after = 0
            while len(events) <= self._events_max:
                page = await self._known.log.of_subject(subject, after={partition: after}, limit=_PAGE)
                own = [one for one in page if one.partition == partition]
                events += [
                    ExportedEvent(partition=one.partition, offset=one.offset, logged=one.logged) for one in own
                ]  # fmt: skip
                if len(own) < _PAGE:
                    break
                after = own[-1].offset
        return tuple(events)


def _exported(letter: DeadLetter) -> ExportedLetter:
    record = decode_record(letter.offset, letter.content)
    read, content = (None, letter.content) if record.broken else (record.logged, b"")
    return ExportedLetter(noted_ms=letter.noted_ms, reason=letter.reason, logged=read, content=content)
