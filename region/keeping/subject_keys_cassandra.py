"""Subjects' keys in the region's keyspace: tables of their own, written by conditional updates only.

A key is written under its handle first, then the subject is pointed to it, if it points nowhere yet: of two processes
that make one at once the slower takes its own back and uses the other's. A kill in between leaves a key that nobody
points to; its time to live ends it. Keys live as long as the log keeps what was written under them, and a bit longer.
"""

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Collection, Iterable
from functools import partial
from typing import TypeVar

from prometheus_client import CollectorRegistry

from infra.plumbing.addresses import parse_address
from infra.plumbing.errors import UnavailableError
from region.keeping.deposits import Deposit
from region.keeping.subject_keys import (
    DAY_MS,
    USED_STEP_DAYS,
    SubjectKey,
    at_ease,
    new_handle,
    new_key,
    unwrap_key,
    wrap_key,
)
from region.keeping.wrapping import KeysUnavailableError, Wrapping
from region.settings import RegionSettings
from region.store.cassandra_deposits import key_deposits, read_facts
from region.store.cassandra_link import CassandraLink, Row

A = TypeVar("A")
T = TypeVar("T")
AT_ONCE_MAX = 64
_TIMEOUT_S = 10.0
_SCAN_TIMEOUT_S = 600.0


class CassandraSubjectKeys:
    """`region.keeping.subject_keys.SubjectKeys` over a keyspace.

    Args:
        link: closed with this.
        life_days: how long a key stays after its last use.
    """

    def __init__(self, link: CassandraLink, *, wrapping: Wrapping, life_days: int) -> None:
        self._link = link
        self._wrapping = wrapping
        self._life_s = life_days * DAY_MS // 1000
        self._room = asyncio.Semaphore(AT_ONCE_MAX)

    async def for_writing(self, subjects: Collection[str], *, today: int) -> dict[str, SubjectKey]:
        """The keys of subjects, made where there is none."""

        async def one(subject: str) -> SubjectKey:
            key = await self.of_subject(subject)
            if key is None:
                return await self._make(subject, today)
            return key if key.used_day > today - USED_STEP_DAYS else await self._save_again(key, today)

        found = await self._at_once(one, dict.fromkeys(subjects))
        return {key.subject: key for key in found}

    async def of_subject(self, subject: str) -> SubjectKey | None:
        """A subject's key."""
        found = await self._ask("load_handle", (subject,))
        return await self._load(found[0][0]) if found and found[0][0] else None

    async def by_handles(self, handles: Collection[str]) -> dict[str, SubjectKey]:
        """The keys of handles."""
        found = await self._at_once(self._load, dict.fromkeys(handles))
        return {key.handle: key for key in found if key is not None}

    async def epoch(self) -> object:
        """What the last erasure left."""
        found = await self._ask("load_epoch", ())
        return found[0][0] if found else None

    async def forget(self, subject: str) -> int:
        """Erase a subject's key; the epoch behind it, so that who sees the old one came before the end of this."""
        found = await self._ask("load_handle", (subject,))
        gone = 0
        if found and found[0][0]:
            gone = int((await self._ask("forget_key", (found[0][0],)))[0][0])
        await self._ask("forget_subject_key", (subject,))
        await self._ask("save_epoch", (secrets.token_hex(8),))
        return gone

    async def expire(self, *, before_day: int) -> int:  # noqa: ARG002
        """Nothing is left to do: keys carry their time to live."""
        return 0

    async def rewrap(self) -> int:
        """Wrap every key by the newest root key."""
        try:
            found = await self._link.ask_all("list_keys", (), timeout_s=_SCAN_TIMEOUT_S)
        except UnavailableError as error:
            raise KeysUnavailableError(f"the keys cannot be listed: {error}") from error
        stale = [one for one in found if one[2] is not None and not self._wrapping.is_current(one[2])]

        async def again(row: Row) -> SubjectKey:
            key = self._opened(row)
            return await self._save_again(key, key.used_day)

        return len(await self._at_once(again, stale))

    async def scrub(self) -> str:
        """Nothing can be done from here (`cql/migrations/0005_erased_keys.cql` says what Cassandra does by itself)."""
        return (
            "keys deleted; what Cassandra wrote of them, wrapped by the region's key, leaves the tables' files within "
            "minutes while they are below 160 MB a node, else with `nodetool garbagecollect`; the commit log and "
            "system.paxos when those are written over"
        )

    async def deposits(self, *, erased_ms: int) -> tuple[Deposit, ...]:
        """Data files, commit log, hints, Paxos and snapshots, by what the nodes say of themselves."""
        facts, since_ms = await asyncio.gather(read_facts(self._link), asyncio.to_thread(self._wrapping.since_ms))
        return key_deposits(facts, erased_ms=erased_ms, roots_since_ms=since_ms)

    async def renew(self) -> None:
        """Nothing is held that could be let go of from here."""

    async def close(self) -> None:
        """Let go of connections."""
        await self._link.close()

    async def _make(self, subject: str, today: int) -> SubjectKey:
        made = SubjectKey(subject, new_handle(), new_key(), today)
        wrapped = await self._wrapped(made)
        await self._ask("save_key", (made.handle, subject, today, wrapped, self._life_s))
        applied = (await self._ask("add_subject_key", (subject, made.handle, self._life_s)))[0][0]
        if applied:
            return made
        await self._ask("forget_key", (made.handle,))
        other = await self.of_subject(subject)
        if other is None:
            raise KeysUnavailableError("a subject's key was erased while it was made.", fix="Send it again.")
        return other

    async def _save_again(self, key: SubjectKey, used_day: int) -> SubjectKey:
        """The key wrapped anew, its life begun anew."""
        wrapped = await self._wrapped(key)
        await self._ask("renew_key", (self._life_s, key.subject, used_day, wrapped, key.handle))
        await self._ask("renew_subject_key", (self._life_s, key.handle, key.subject, key.handle))
        return SubjectKey(key.subject, key.handle, key.key, used_day)

    async def _load(self, handle: str) -> SubjectKey | None:
        found = await self._ask("load_key", (handle,))
        if not found or found[0][2] is None:
            return None
        return await at_ease(self._wrapping, [found[0][2]], partial(self._opened, found[0]))

    async def _wrapped(self, key: SubjectKey) -> bytes:
        work = partial(wrap_key, self._wrapping, key.key, subject=key.subject, handle=key.handle)
        return await at_ease(self._wrapping, None, work)

    def _opened(self, row: Row) -> SubjectKey:
        subject, handle, wrapped, used_day = row
        key = unwrap_key(self._wrapping, wrapped, subject=subject, handle=handle)
        return SubjectKey(subject, handle, key, used_day)

    async def _ask(self, query: str, values: tuple[str | int | bytes, ...]) -> list[Row]:
        try:
            return await self._link.ask(query, values, timeout_s=_TIMEOUT_S)
        except UnavailableError as error:
            raise KeysUnavailableError(f"subjects' keys: {error.message}", fix=error.fix) from error

    async def _at_once(self, work: Callable[[A], Awaitable[T]], given: Iterable[A]) -> list[T]:
        async def one(argument: A) -> T:
            async with self._room:
                return await work(argument)

        return await asyncio.gather(*(one(argument) for argument in given))


def open_cassandra_keys(
    settings: RegionSettings, *, wrapping: Wrapping, registry: CollectorRegistry | None = None,
    link: CassandraLink | None = None,
) -> CassandraSubjectKeys:  # fmt: skip
    """The keys in the keyspace that the settings name.

    Args:
        settings: of the node.
        wrapping: the region's root key.
        registry: where calls that could not be served are counted.
        link: of the store, which has connections already; None: a link of their own.

    Raises:
        SettingsError: the address cannot be used.
    """
    if link is None:
        address = parse_address(settings.store, scheme="cassandra", options=CassandraLink.OPTIONS)
        link = CassandraLink(address, registry=registry, metrics="atoll_keys", tls=settings.store_tls)
    return CassandraSubjectKeys(link, wrapping=wrapping, life_days=key_life_days(settings))


def key_life_days(settings: RegionSettings) -> int:
    """How long a key stays after its last use was noted: longer than anything that was written under it."""
    longest_s = max(settings.log_retention_s, settings.behaviour_life_s, settings.session_life_s)
    return round(longest_s / 86_400) + 2 * USED_STEP_DAYS
