"""Reads of many people's data in the account of accesses: one line before, one line after, whatever their number.

The line after says how many records of which kind were read, and a digest of whose they were: the sum modulo 2**256 of
HMAC-SHA256 over each record's subject (a multiset hash by addition, Clarke et al. 2003), under a key of the region. It
takes 32 bytes for any number of records in any order; who has the key and a list of subjects can tell whether the list
is what was read, and nobody else learns anything from it.
"""

import asyncio
import hashlib
import hmac
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

from infra.plumbing.clock import Clock
from infra.plumbing.keys import RegionKeys
from region.privacy.access_log import AccessLog
from region.settings import RegionSettings

KINDS_MAX = 16
"""Kinds of records that one read may name."""
ASKED, DONE, FAILED, LEFT_OFF = "asked", "done", "failed", "left off"
STANDING_S = 3600.0
"""A read that never ends is written down so often."""
Touch = Callable[[str, str], None]
"""Told of each record that is read: its kind, and whose it is."""


def untouched(_kind: str, _subject: str) -> None:
    """For who writes down nothing: a test, or a read of somebody's own data."""


_MODULUS = 1 << 256


class BulkRead:
    """What one read has touched so far; constant memory.

    Args:
        key: of digests (`digest_key`).
    """

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._counts: Counter[str] = Counter()
        self._digest = 0

    def touch(self, kind: str, subject: str) -> None:
        """A record of `kind` about a subject was read.

        Raises:
            ValueError: there are KINDS_MAX other kinds already.
        """
        if kind not in self._counts and len(self._counts) == KINDS_MAX:
            raise ValueError(f"a read names {KINDS_MAX} kinds at most")
        self._counts[kind] += 1
        value = hmac.new(self._key, f"{kind}\0{subject}".encode(), hashlib.sha256).digest()
        self._digest = (self._digest + int.from_bytes(value)) % _MODULUS

    def touch_each(self, kind: str, subjects: Iterable[str]) -> None:
        """A record of `kind` about each of these."""
        for subject in subjects:
            self.touch(kind, subject)

    @property
    def total(self) -> int:
        """Records so far."""
        return self._counts.total()

    @property
    def detail(self) -> str:
        """What the account says of it."""
        counts = ", ".join(f"{count} {kind}" for kind, count in sorted(self._counts.items())) or "nothing"
        return f"{counts}; whose: hmac-sum {self._digest:064x}"


def digest_key(keys: RegionKeys) -> bytes:
    """The key of digests. Another purpose of the key that makes the pseudonyms, and as old as they are."""
    return hmac.new(keys.pseudonym_key, b"atoll digests of accesses", hashlib.sha256).digest()


class BulkReads:
    """Writes bulk reads into a node's account.

    Args:
        accesses: the account.
        key: of digests.
    """

    def __init__(self, accesses: AccessLog, *, key: bytes) -> None:
        self._accesses = accesses
        self._key = key

    async def begin(self, *, who: str, action: str, why: str) -> BulkRead:
        """Write down that a read begins; it may begin when this returns.

        Raises:
            AccessLogError: the disk does not take it: then nothing may be read.
        """
        await self._note(who, action, ASKED, why)
        return BulkRead(self._key)

    async def end(self, read: BulkRead, *, who: str, action: str, outcome: str = DONE) -> None:
        """Write down what was read. Raises as `begin`."""
        await self._note(who, action, outcome, read.detail)

    async def refuse(self, *, who: str, action: str, why: str) -> None:
        """Write down that a read was asked for and not allowed. Raises as `begin`."""
        await self._note(who, action, "refused", why)

    @asynccontextmanager
    async def reading(self, *, who: str, action: str, why: str) -> AsyncIterator[BulkRead]:
        """A whole read; one that breaks off is written down with what it had read. Raises as `begin`."""
        read = await self.begin(who=who, action=action, why=why)
        try:
            yield read
        except BaseException:
            await self.end(read, who=who, action=action, outcome=FAILED)
            raise
        await self.end(read, who=who, action=action)

    def standing(self, *, who: str, action: str, why: str, clock: Clock) -> "StandingRead":
        """A read that goes on for as long as the process lives."""
        return StandingRead(self, who=who, action=action, why=why, clock=clock)

    async def _note(self, who: str, action: str, outcome: str, detail: str) -> None:
        await asyncio.to_thread(self._accesses.append, who=who, action=action, outcome=outcome, detail=detail)


class StandingRead:
    """A read without an end, in the account as one read an hour: `asked` before its first record, `done` behind.

    A kill loses the line behind the last hour; the one before it stands, without an end.
    """

    def __init__(self, reads: BulkReads, *, who: str, action: str, why: str, clock: Clock) -> None:
        self._reads = reads
        self._who = who
        self._action = action
        self._why = why
        self._clock = clock
        self._read: BulkRead | None = None
        self._since_s = 0.0

    async def current(self) -> BulkRead:
        """The read of this hour. Raises as `BulkReads.begin`: then nothing may be read."""
        if self._read is not None and self._clock.monotonic_s() - self._since_s >= STANDING_S:
            await self.close()
        if self._read is None:
            self._read = await self._reads.begin(who=self._who, action=self._action, why=self._why)
            self._since_s = self._clock.monotonic_s()
        return self._read

    async def close(self) -> None:
        """Write down what was read so far. Raises as `BulkReads.begin`."""
        read, self._read = self._read, None
        if read is not None:
            await self._reads.end(read, who=self._who, action=self._action)


def open_bulk_reads(settings: RegionSettings, clock: Clock) -> BulkReads:
    """The node's account, for bulk reads.

    Raises:
        SettingsError: the key file cannot be used.
    """
    keys = RegionKeys.load(Path(settings.keys_file))
    accesses = AccessLog(
        Path(settings.state_directory), region=settings.region, node=settings.node, keys=keys, clock=clock
    )  # fmt: skip
    return BulkReads(accesses, key=digest_key(keys))
