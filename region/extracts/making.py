"""Extracts out of the store: the region's policy is asked first, the account of accesses next, then anybody is read.

Who has opted out is in no extract (the store's walk leaves them out), nor is an anonymous session. A killed extract
leaves no file: what is written appears when it is whole.
"""

import hashlib
import hmac
import os
import secrets
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

from infra.contracts.extracts import AggregateExtract, SequenceExtract, aggregates_file, sequences_file
from infra.contracts.residency import ExportPolicy, Global, RegionalMessage, encode_extract
from infra.plumbing.clock import Clock
from infra.plumbing.errors import ForbiddenError, OverloadedError
from infra.plumbing.files import sync_directory, write_atomically
from infra.plumbing.keys import RegionKeys
from infra.plumbing.progress import Progress
from region.extracts.budget import ExtractBudget
from region.extracts.counting import ItemCounting, Noise, PairCounting
from region.privacy.bulk import BulkRead, BulkReads
from region.settings import RegionSettings
from region.store.port import Store, UserRow

PAGE_ROWS = 500
HOUR_MS = 3_600_000
PERIOD_MS = 30 * 24 * HOUR_MS
"""So long a user keeps the key of their sequences."""
KINDS = (ExportPolicy.AGGREGATES, ExportPolicy.PSEUDONYMOUS)


class ExportRefusedError(ForbiddenError):
    """The region's export policy does not allow such an extract."""


class ExtractReport(RegionalMessage, frozen=True, kw_only=True):
    """What was made. `users` and `left_out` stay with the operator."""

    kind: Global[str]
    policy: Global[str]
    file: Global[str]
    bytes: Global[int]
    users: Global[int]
    """Whose histories were read."""
    records: Global[int]
    """Sequences, or items and pairs, in the file."""
    left_out: Global[int]
    """Items, or items and pairs, that too few people have."""
    epsilon_of_year: Global[float] = 0.0


def cryptographic_noise(sigma: float) -> float:
    """A draw from a normal distribution, from the system's cryptographic source."""
    return secrets.SystemRandom().gauss(0.0, sigma)


def period_of(now_ms: int) -> int:
    """The number of the period in which keys stay what they are."""
    return now_ms // PERIOD_MS


def key_of(keys: RegionKeys, subject: str, period: int) -> str:
    """Under what a subject's sequence leaves the region in a period: HMAC-SHA256 under a key of that period."""
    of_period = hmac.new(keys.pseudonym_key, f"atoll extract keys {period}".encode(), hashlib.sha256).digest()
    return hmac.new(of_period, subject.encode(), hashlib.sha256).hexdigest()[:32]


class Extractor:
    """Makes extracts of one region.

    Args:
        keys: for the keys of sequences.
        reads: the account of accesses.
        noise: for aggregates.
    """

    def __init__(
        self, settings: RegionSettings, *, store: Store, keys: RegionKeys, reads: BulkReads, clock: Clock,
        progress: Progress, noise: Noise = cryptographic_noise,
    ) -> None:  # fmt: skip
        self._settings = settings
        self._store = store
        self._keys = keys
        self._reads = reads
        self._clock = clock
        self._progress = progress
        self._noise = noise

    async def make(self, kind: ExportPolicy, to: Path) -> ExtractReport:
        """Write an extract of a kind into the folder `to`.

        Raises:
            ExportRefusedError: the policy does not allow it; nothing was read.
            ExtractBudgetError: the year's budget for aggregates is spent; nothing was read.
            OverloadedError: the region has more users than an extract takes; nothing is written.
            UnavailableError: the store or the account of accesses does not answer.
        """
        policy, action = self._settings.policy, f"extract {kind.value}"
        if not policy.allows(kind):
            await self._reads.refuse(who="command line", action=action, why=f"the export policy is {policy.value}")
            raise ExportRefusedError(
                f"the export policy of {self._settings.region} is {policy.value!r}: it lets no extract"
                f" {kind.value!r} out.",
                fix="Nothing was read. Whoever answers for the region's data sets export_policy in its settings"
                " (in a world: world.toml).",
            )
        made = self._sequences if kind is ExportPolicy.PSEUDONYMOUS else self._aggregates
        return await made(to, action)

    async def _sequences(self, to: Path, action: str) -> ExtractReport:
        now_ms, region = self._clock.now_ms(), self._settings.region
        why = f"for central, keys of period {period_of(now_ms)}"
        async with self._reads.reading(who="command line", action=action, why=why) as read:
            having: Counter[str] = Counter()
            async for row in self._users(read, "counting who has what"):
                having.update(set(row.history.items))
            common = {item for item, count in having.items() if count >= self._settings.extracts.users_min}
            path = to / sequences_file(region)
            staged = _staged(path)
            written = users = 0
            try:
                with staged.open("wb") as file:
                    async for row in self._users(read, "writing sequences"):
                        users += 1
                        found = sequence_of(row, common, region=region, keys=self._keys, period=period_of(now_ms))
                        if found is not None:
                            file.write(encode_extract(found, self._settings.policy) + b"\n")
                            written += 1
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(staged, path)
            finally:
                staged.unlink(missing_ok=True)
            sync_directory(to)
        return self._report(ExportPolicy.PSEUDONYMOUS, path, users, written, len(having) - len(common))

    async def _aggregates(self, to: Path, action: str) -> ExtractReport:
        settings, now_ms = self._settings.extracts, self._clock.now_ms()
        budget = ExtractBudget(
            Path(self._settings.state_directory), epsilon_a_year_max=settings.epsilon_a_year_max
        )  # fmt: skip
        spent = budget.book(settings.epsilon, now_ms=now_ms)
        why = f"for central, epsilon {settings.epsilon:g} of {spent:g} in a year"
        users = 0
        async with self._reads.reading(who="command line", action=action, why=why) as read:
            counting = ItemCounting(settings)
            async for row in self._users(read, "counting items"):
                users += 1
                counting.add(row.history.items)
            items = counting.release(self._noise)
            pairing = PairCounting(settings, [one.item for one in items[: settings.paired_items_max]])
            async for row in self._users(read, "counting pairs"):
                pairing.add(row.history.items)
            pairs = pairing.release(self._noise)
        extract = AggregateExtract(
            region=self._settings.region, made_hour=now_ms // HOUR_MS, users_min=settings.users_min,
            epsilon=settings.epsilon, delta=settings.delta, items=items, pairs=pairs,
        )  # fmt: skip
        path = to / aggregates_file(extract.region)
        write_atomically(path, encode_extract(extract, self._settings.policy))
        left_out = counting.items + pairing.pairs - len(items) - len(pairs)
        return self._report(ExportPolicy.AGGREGATES, path, users, len(items) + len(pairs), left_out, spent)

    async def _users(self, read: BulkRead, says: str) -> AsyncIterator[UserRow]:
        """Every user's row, written down as read."""
        after, count = "", 0
        while True:
            walk = await self._store.walk(after=after, limit=PAGE_ROWS)
            for row in walk.rows:
                read.touch("histories", row.subject)
                yield row
            count += len(walk.rows)
            self._progress.advance(count, max(count, 1), says)
            if count > self._settings.extracts.users_max:
                raise OverloadedError(
                    f"the region has more than {self._settings.extracts.users_max} users.",
                    fix="Raise extracts.users_max in its settings.",
                )
            if not walk.after:
                return
            after = walk.after

    def _report(
        self, kind: ExportPolicy, path: Path, users: int, records: int, left_out: int, spent: float = 0.0
    ) -> ExtractReport:
        return ExtractReport(
            kind=kind.value, policy=self._settings.policy.value, file=str(path), bytes=path.stat().st_size,
            users=users, records=records, left_out=max(0, left_out), epsilon_of_year=spent,
        )  # fmt: skip


def sequence_of(
    row: UserRow, common: "set[str]", *, region: str, keys: RegionKeys, period: int
) -> SequenceExtract | None:
    """What leaves of a user's row; None when nothing does."""
    kept = [entry for entry in row.history if entry.item in common]
    if not kept:
        return None
    return SequenceExtract(
        region=region, key=key_of(keys, row.subject, period), period=period,
        items=tuple(entry.item for entry in kept), strengths=tuple(entry.strength for entry in kept),
        hours=tuple(entry.at_ms // HOUR_MS for entry in kept),
    )  # fmt: skip


def _staged(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")
