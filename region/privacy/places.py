"""The places of a region node that may know a subject, each behind the same four calls."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from region.events.dead_letters import DeadLetters
from region.events.port import Log
from region.exploration.exposures import ExposureLog
from region.funnel.contexts import ContextTastes
from region.funnel.dry_run import RequestLog
from region.keeping.deposits import Deposit, in_lines, in_memory
from region.keeping.sealing import Seals
from region.precompute.making import Precomputer
from region.privacy.explaining import Rehearsing, TitleOf
from region.releases.trials import Trials
from region.rules.history import PageHistory
from region.sampling.journal import About, Journal
from region.sampling.served import ServedSamples
from region.store.port import Erasure, Store

NOT_REACHED = (
    "counts over items and sketches of what trends: sums over all subjects, in which none can be told apart",
    "other nodes of the region: they hear of it at once, and look for it by themselves within minutes and at a start; "
    "what lay under the subject's key opens for none of them",
    "device gateway: that somebody checked in to the round under way, in memory, by a name that nobody can tell",
    "edges: the pseudonym as the name of a version or of a rate limit, in memory, the oldest first out",
    "the grid: that somebody chose or was erased, under a hash of the pseudonym, for seven days: an edge that was away "
    "reads there that no list of before may be shown",
    "anonymous sessions: nothing says whose they are; they run out with their pause",
    "extracts made for central before, under keys that nobody else can make, and models trained on them: the next "
    "extract is made from a store without the subject",
    "copies of the event log: nobody opens the subject's records there any more, for the key has gone; copies of the "
    "store and of the keys themselves that an operator made: the mark keeps the subject from coming back with them",
)


REMEMBERED_LATER_MS = 60_000
"""A request that was under way when its subject was erased is remembered within so long behind it."""


async def _nothing() -> str:
    return ""


async def _unsaid(_subject: str, _erased_ms: int) -> tuple[Deposit, ...]:
    return ()


async def _memory_only(_subject: str, _erased_ms: int) -> tuple[Deposit, ...]:
    return in_memory()


async def _made_ahead(_subject: str, _erased_ms: int) -> tuple[Deposit, ...]:
    return in_memory("memory of this process, and of the grid, which was told to delete them")


async def _lines(_subject: str, _erased_ms: int) -> tuple[Deposit, ...]:
    return in_lines("the journal on this node's disk")


async def _nobody() -> Collection[str]:
    return ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A place. `forget` may be repeated; `scrub` has the bytes go too, and says what cannot.

    `deposits` says, for a subject and the moment of its erasure, where bytes may lie beside what was emptied.
    `names` says whom it knows, `forget_before` forgets what it has of subjects from before a moment each: for a node
    that missed an erasure. Both are left out where what lies there opens no more without the subject's key, or where
    all nodes share it.
    """

    name: str
    what: str
    count: Callable[[str], Awaitable[int]]
    forget: Callable[[str], Awaitable[int]]
    scrub: Callable[[], Awaitable[str]] = _nothing
    deposits: Callable[[str, int], Awaitable[tuple[Deposit, ...]]] = _unsaid
    names: Callable[[], Awaitable[Collection[str]]] = _nobody
    forget_before: Callable[[Mapping[str, int]], Awaitable[int]] | None = None


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
    seals: Seals | None = None
    """Open what lies under a subject's key, until it is erased; closed with the log."""


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

    async def deposits(subject: str, erased_ms: int) -> tuple[Deposit, ...]:
        return await log.deposits(subject, erased_ms=erased_ms)

    return Place(
        name="event log", what="records", count=log.count_of, forget=forget, scrub=Scrubber(log.scrub).run,
        deposits=deposits,
    )  # fmt: skip


def keys_place(log: Log) -> Place:
    """The key of the subject's records. The log erases it before its records (`Eraser` adds what it says)."""

    async def forget(_subject: str) -> int:
        return 0

    async def deposits(_subject: str, erased_ms: int) -> tuple[Deposit, ...]:
        return await log.key_deposits(erased_ms=erased_ms)

    return Place(
        name="key of the event log", what="keys", count=log.count_keys, forget=forget, deposits=deposits
    )  # fmt: skip


def store_place(store: Store) -> Place:
    """The store: row, features, history, choice. How it forgets depends on what the log said (`Eraser`)."""

    async def forget(subject: str) -> int:
        kept = await store.erasure(subject) or Erasure(erased_ms=0, through={})
        return (await store.forget(subject, kept)).rows

    async def deposits(_subject: str, erased_ms: int) -> tuple[Deposit, ...]:
        return await store.deposits(erased_ms=erased_ms)

    return Place(
        name="store", what="rows", count=store.holds, forget=forget, scrub=Scrubber(store.scrub).run, deposits=deposits
    )  # fmt: skip


def letters_place(letters: DeadLetters) -> Place:
    """The dead letters."""

    async def forget(subject: str) -> int:
        return await letters.forget(subject)

    async def deposits(_subject: str, erased_ms: int) -> tuple[Deposit, ...]:
        return await letters.deposits(erased_ms=erased_ms)

    return Place(
        name="dead letters", what="letters", count=letters.count_of, forget=forget, scrub=Scrubber(letters.scrub).run,
        deposits=deposits,
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

    async def names() -> Collection[str]:
        return await asyncio.to_thread(journal.subjects)

    async def forget_before(moments: Mapping[str, int]) -> int:
        def goes(one: About) -> bool:
            erased_ms = moments.get(one.subject)
            return erased_ms is not None and one.written_ms <= erased_ms + REMEMBERED_LATER_MS

        return await asyncio.to_thread(journal.drop, goes)

    return Place(
        name=name, what=what, count=count, forget=forget, names=names, forget_before=forget_before, deposits=_lines
    )  # fmt: skip


def memory_places(
    *, requests: RequestLog, pages: PageHistory, trials: "Trials[Any]", tastes: ContextTastes
) -> tuple[Place, ...]:
    """What the node has in memory only."""
    return (
        _memory(
            "requests for dry runs", "requests", lambda subject: len(requests.of_subject(subject)), requests.forget,
            requests.subjects,
        ),
        _memory("pages shown", "pages", pages.count_of, pages.forget, pages.subjects),
        _memory("exposures of a trial", "subjects", trials.count_of, trials.forget, trials.subjects),
        _memory("circumstances of calls", "subjects", tastes.count_of, tastes.forget, tastes.subjects),
    )  # fmt: skip


def precompute_place(precomputer: Precomputer) -> Place:
    """Last requests, and lists made ahead, which leave the grid."""

    async def count(subject: str) -> int:
        return precomputer.count_of(subject)

    async def names() -> Collection[str]:
        return precomputer.subjects()

    return Place(
        name="lists made ahead", what="entries", count=count, forget=precomputer.forget, names=names,
        forget_before=_each(precomputer.forget), deposits=_made_ahead,
    )  # fmt: skip


def _memory(
    name: str, what: str, count: Callable[[str], int], forget: Callable[[str], None],
    subjects: Callable[[], Collection[str]],
) -> Place:  # fmt: skip
    async def counted(subject: str) -> int:
        return count(subject)

    async def forgot(subject: str) -> int:
        held = count(subject)
        forget(subject)
        return held

    async def names() -> Collection[str]:
        return subjects()

    return Place(
        name=name, what=what, count=counted, forget=forgot, names=names, forget_before=_each(forgot),
        deposits=_memory_only,
    )  # fmt: skip


def _each(forget: Callable[[str], Awaitable[int]]) -> Callable[[Mapping[str, int]], Awaitable[int]]:
    """What lies in memory has no moment of its own: all that is there of each goes."""

    async def forget_before(moments: Mapping[str, int]) -> int:
        return sum([await forget(subject) for subject in moments])

    return forget_before
