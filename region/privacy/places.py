"""The places of a region node that may know a subject, each behind the same four calls."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from region.events.dead_letters import DeadLetters
from region.events.port import Log
from region.exploration.exposures import ExposureLog
from region.funnel.contexts import ContextTastes
from region.funnel.dry_run import RequestLog
from region.precompute.making import Precomputer
from region.privacy.explaining import Rehearsing, TitleOf
from region.releases.trials import Trials
from region.rules.history import PageHistory
from region.sampling.journal import Journal
from region.sampling.served import ServedSamples
from region.store.port import Erasure, Store

NOT_REACHED = (
    "counts over items and sketches of what trends: sums over all subjects, in which none can be told apart",
    "device gateway: that somebody checked in to the round under way, in memory, by a name that nobody can tell",
    "edges: the pseudonym as the name of a version or of a rate limit, in memory, the oldest first out",
    "anonymous sessions: nothing says whose they are; they run out with their pause",
    "extracts made for central before, under keys that nobody else can make, and models trained on them: the next "
    "extract is made from a store without the subject",
    "copies of the event log: nobody opens the subject's records there any more, for the key has gone; copies of the "
    "store and of the keys themselves that an operator made: the mark keeps the subject from coming back with them",
)


async def _nothing() -> str:
    return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A place. `forget` may be repeated; `scrub` has the bytes go too, and says what cannot."""

    name: str
    what: str
    count: Callable[[str], Awaitable[int]]
    forget: Callable[[str], Awaitable[int]]
    scrub: Callable[[], Awaitable[str]] = _nothing


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """The parts of the node that know subjects."""

    store: Store
    log: Log
    samples: ServedSamples
    exposures: ExposureLog
    requests: RequestLog
    pages: PageHistory
    trials: "Trials[Any]"
    tastes: ContextTastes
    precomputer: Precomputer
    lists: Rehearsing
    """Makes lists of whoever asks why."""
    title_of: TitleOf


class Scrubber:
    """One scrub at a time. Who asks while one runs shares the next: it begins after whatever they deleted."""

    def __init__(self, scrub: Callable[[], Awaitable[str]]) -> None:
        self._scrub = scrub
        self._running: asyncio.Task[str] | None = None
        self._next: asyncio.Task[str] | None = None

    async def run(self) -> str:
        """Scrub once, all that was deleted before the call. Raises as the scrub does."""
        if self._next is None:
            self._next = asyncio.create_task(self._after(self._running))
        return await asyncio.shield(self._next)

    async def _after(self, earlier: "asyncio.Task[str] | None") -> str:
        if earlier is not None:
            await asyncio.wait((earlier,))
        self._running, self._next = self._next, None
        return await self._scrub()


def log_place(log: Log) -> Place:
    """The event log."""

    async def forget(subject: str) -> int:
        return (await log.forget(subject)).records

    return Place(
        name="event log", what="records", count=log.count_of, forget=forget, scrub=Scrubber(log.scrub).run
    )  # fmt: skip


def keys_place(log: Log) -> Place:
    """The key of the subject's records. The log erases it before its records (`Eraser` adds what it says)."""

    async def forget(_subject: str) -> int:
        return 0

    return Place(name="key of the event log", what="keys", count=log.count_keys, forget=forget)


def store_place(store: Store) -> Place:
    """The store: row, features, history, choice. How it forgets depends on what the log said (`Eraser`)."""

    async def forget(subject: str) -> int:
        kept = await store.erasure(subject) or Erasure(erased_ms=0, through={})
        return (await store.forget(subject, kept)).rows

    return Place(name="store", what="rows", count=store.holds, forget=forget, scrub=Scrubber(store.scrub).run)


def letters_place(letters: DeadLetters) -> Place:
    """The dead letters."""

    async def forget(subject: str) -> int:
        return await letters.forget(subject)

    return Place(
        name="dead letters", what="letters", count=letters.count_of, forget=forget, scrub=Scrubber(letters.scrub).run
    )  # fmt: skip


def samples_place(samples: ServedSamples) -> Place:
    """The sampled requests on the node's disk."""
    return _journal("sampled requests", "samples", samples)


def exposures_place(exposures: ExposureLog) -> Place:
    """What exploration slots showed, on the node's disk."""
    return _journal("exposures of exploration slots", "exposures", exposures)


def _journal(name: str, what: str, journal: "Journal[Any]") -> Place:
    async def count(subject: str) -> int:
        return len(await asyncio.to_thread(journal.of_subject, subject))

    async def forget(subject: str) -> int:
        return await asyncio.to_thread(journal.forget, subject)

    return Place(name=name, what=what, count=count, forget=forget)


def memory_places(
    *, requests: RequestLog, pages: PageHistory, trials: "Trials[Any]", tastes: ContextTastes
) -> tuple[Place, ...]:
    """What the node has in memory only."""
    return (
        _memory(
            "requests for dry runs", "requests", lambda subject: len(requests.of_subject(subject)), requests.forget
        ),
        _memory("pages shown", "pages", pages.count_of, pages.forget),
        _memory("exposures of a trial", "subjects", trials.count_of, trials.forget),
        _memory("circumstances of calls", "subjects", tastes.count_of, tastes.forget),
    )


def precompute_place(precomputer: Precomputer) -> Place:
    """Last requests, and lists made ahead, which leave the grid."""

    async def count(subject: str) -> int:
        return precomputer.count_of(subject)

    return Place(name="lists made ahead", what="entries", count=count, forget=precomputer.forget)


def _memory(name: str, what: str, count: Callable[[str], int], forget: Callable[[str], None]) -> Place:
    async def counted(subject: str) -> int:
        return count(subject)

    async def forgot(subject: str) -> int:
        held = count(subject)
        forget(subject)
        return held

    return Place(name=name, what=what, count=counted, forget=forgot)
