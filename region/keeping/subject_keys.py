"""The key of every subject under which its events lie in the log: erasing the key erases them in every copy of it.

On Cassandra its row lies under it too (`region.store.sealed`).

A key has a handle, 16 random bytes: the log calls the subject by it. So with the key goes the last thing that says
whose records they are, and what they say (crypto-shredding). Keys do not lie in the log, and must not lie in its
backups: a copy of the keys is kept for as long only as a copy may bring back whom somebody erased.
"""

import asyncio
import secrets
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from region.keeping.deposits import Deposit
from region.keeping.wrapping import KEY_BYTES, KeysUnavailableError, Wrapping

T = TypeVar("T")
HANDLE = "k"
"""A handle is this and 32 hex digits: no subject looks like that."""
DAY_MS = 86_400_000
USED_STEP_DAYS = 30
"""A key's last use is noted so coarsely: an append seldom writes."""


@dataclass(frozen=True, slots=True)
class SubjectKey:
    """A subject's key, unwrapped: it is in memory only."""

    subject: str
    handle: str
    key: bytes
    used_day: int


class SubjectKeys(Protocol):
    """Where they are kept. Every call may raise `KeysUnavailableError`.

    `epoch` is what makes a cache of keys safe: it has another value after a `forget` has returned than before it began.
    Whoever finds it unchanged after a record is durable knows that the key was still there, so that an erasure that
    comes later finds the record; whoever finds it changed looks the key up again.
    """

    async def for_writing(self, subjects: Collection[str], *, today: int) -> dict[str, SubjectKey]:
        """The keys of subjects, made where there is none; durable when this returns. Two who make one get the same."""
        ...

    async def of_subject(self, subject: str) -> SubjectKey | None:
        """A subject's key."""
        ...

    async def by_handles(self, handles: Collection[str]) -> dict[str, SubjectKey]:
        """The keys of handles; those that were erased are left out."""
        ...

    async def epoch(self) -> object:
        """Compared for equality only."""
        ...

    async def forget(self, subject: str) -> int:
        """Erase a subject's key, durably; returns how many there were."""
        ...

    async def expire(self, *, before_day: int) -> int:
        """Erase keys that nothing was written under since a day (Unix time over DAY_MS); returns how many."""
        ...

    async def rewrap(self) -> int:
        """Wrap every key by the newest root key; returns how many were changed."""
        ...

    async def scrub(self) -> str:
        """Have the bytes of erased keys leave the files too; returns what cannot, "" if all did."""
        ...

    async def deposits(self, *, erased_ms: int) -> tuple[Deposit, ...]:
        """Where bytes of a key that was erased at a moment may still lie, and what they are good for."""
        ...

    async def renew(self) -> None:
        """Let go of what connections hold in memory of before; the next calls open them anew."""
        ...

    async def close(self) -> None:
        """Let go of files and connections."""
        ...


def new_handle() -> str:
    """A fresh handle."""
    return HANDLE + secrets.token_hex(16)


def new_key() -> bytes:
    """A fresh AES-256 key."""
    return secrets.token_bytes(KEY_BYTES)


def wrap_key(wrapping: Wrapping, key: bytes, *, subject: str, handle: str) -> bytes:
    """A subject's key as it is kept: it opens for this subject and handle only."""
    return wrapping.wrap(key, about=_about(subject, handle))


def unwrap_key(wrapping: Wrapping, wrapped: bytes, *, subject: str, handle: str) -> bytes:
    """Inverse of `wrap_key`.

    Raises:
        KeysUnavailableError: the root key is not there.
    """
    key = wrapping.unwrap(wrapped, about=_about(subject, handle))
    if len(key) != KEY_BYTES:
        raise KeysUnavailableError("a subject's key has another length than a key has.")
    return key


async def at_ease(wrapping: Wrapping, wrapped: Sequence[bytes] | None, work: Callable[[], T]) -> T:
    """`work`, which unwraps these (None: wraps): here when all is at hand, else on a thread that may wait."""
    if wrapping.at_hand(None) if wrapped is None else all(wrapping.at_hand(one) for one in wrapped):
        return work()
    return await asyncio.to_thread(work)


def _about(subject: str, handle: str) -> bytes:
    return f"atoll subject {handle} {subject}".encode()
