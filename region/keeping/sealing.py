"""Records of the log under their subjects' keys (AES-256-GCM), and back: what both adapters of the log do alike.

A sealed record begins with a byte that no plain one does (msgpack of an object never begins with 1), then the handle,
a nonce and the ciphertext of the whole record. In the clear stay the handle, the time of receipt (retention asks for
it) and a digest of the event id under the subject's key, by which a record that comes again is recognised. Records of
before there were keys stay readable as they are.

Why no acknowledged event is lost and no erased one comes back, while erasures go on beside appends in other processes:
an append takes keys of an epoch that was read before (from its cache, or else made), writes, and when the record is
durable reads the epoch again.

* unchanged: no erasure had deleted a key by then, so one that comes later finds this record under a handle it knows;
* changed: keys are looked up anew. A record whose handle is not its subject's any more is written again under the new
  one before it is acknowledged; the earlier one is opened by nobody, and the log passes it over;
* not to be read: the keys' store is gone, and nobody erases without it. Events of people whose keys are at hand go on
  being taken. (Where only this node is cut off from it, what it writes about somebody who is erased elsewhere meanwhile
  is opened by nobody.)
"""

import hashlib
import secrets
from collections import OrderedDict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from infra.contracts.events import LoggedEvent
from infra.plumbing.clock import Clock
from region.events.records import NOTHING, SHREDDED, decode_record, encode_record
from region.keeping.subject_keys import DAY_MS, USED_STEP_DAYS, SubjectKey, SubjectKeys
from region.keeping.wrapping import KeysUnavailableError
from region.store.port import OffsetEvent

CACHED_MAX = 20_000
"""Keys that a process has at hand, about 1 kB each; the least used go first."""
_UNREAD: Final = object()
"""The epoch of who has not read any yet."""
_MAGIC = b"\x01"
_HANDLE_BYTES = 33
_NONCE_BYTES = 12
_HEAD_BYTES = 1 + _HANDLE_BYTES + _NONCE_BYTES
_MARK_BYTES = 16


@dataclass(frozen=True, slots=True)
class SealedRecord:
    """A record as a log keeps it."""

    received_ms: int
    handle: str
    mark: str
    """A digest of the event id, which only the subject's key makes."""
    body: bytes
    record: LoggedEvent


@dataclass(frozen=True, slots=True)
class Sealing:
    """Records that were sealed together, and the epoch that their keys are of."""

    records: Sequence[SealedRecord]
    epoch: object


@dataclass(frozen=True, slots=True)
class Placed:
    """A record as a log gives it back."""

    partition: int
    offset: int
    body: bytes


class Seals:
    """Seals and opens records; remembers keys.

    Args:
        keys: where they are kept; closed with this.
        clock: for the day that a key was used on.
        cached_max: keys that are remembered.
    """

    def __init__(self, keys: SubjectKeys, *, clock: Clock, cached_max: int = CACHED_MAX) -> None:
        self.keys = keys
        self._clock = clock
        self._cached_max = cached_max
        self._cached: OrderedDict[str, tuple[SubjectKey, AESGCM]] = OrderedDict()
        """By handle."""
        self._handles: dict[str, str] = {}
        """Handle by subject, of those that are cached."""
        self._epoch: object = _UNREAD

    async def seal(self, records: Sequence[LoggedEvent]) -> Sealing:
        """Records under their subjects' keys, which are made where there are none.

        Raises:
            KeysUnavailableError: the keys cannot be read or made.
        """
        epoch = await self._look() if self._epoch is _UNREAD else self._epoch
        boxes = await self._boxes_for({record.subject for record in records}, epoch)
        return Sealing([_seal(record, *boxes[record.subject]) for record in records], epoch)

    async def lost(self, sealing: Sealing) -> list[LoggedEvent]:
        """Of records that are durable now those that must be written again: their key was erased meanwhile."""
        try:
            epoch = await self._look()
        except KeysUnavailableError:
            return []
        if epoch == sealing.epoch:
            return []
        now = await self._boxes_for({one.record.subject for one in sealing.records}, epoch)
        return [one.record for one in sealing.records if now[one.record.subject][0].handle != one.handle]

    async def open(self, records: Sequence[Placed]) -> list[OffsetEvent]:
        """Records as they were; one whose key was erased comes as broken by `SHREDDED`.

        Raises:
            KeysUnavailableError: the keys cannot be read.
        """
        boxes = await self._boxes_of({handle for one in records if (handle := handle_of(one.body)) is not None})
        return [self._open(one, boxes) for one in records]

    async def seal_content(self, subject: str, content: bytes) -> bytes:
        """Bytes about a subject under its key, as a record is."""
        key, box = (await self._boxes_for([subject], await self._look()))[subject]
        return seal_value(content, key.handle, box)

    async def open_content(self, content: bytes) -> bytes:
        """Inverse of `seal_content`; what is not sealed, or opens no more, comes back as it is."""
        handle = handle_of(content)
        box = (await self._boxes_of([handle])).get(handle) if handle is not None else None
        if handle is None or box is None:
            return content
        try:
            return open_value(content, handle, box[1])
        except (InvalidTag, ValueError):
            return content

    async def keep_up(self) -> object:
        """Let go of all keys if anybody was erased since the last look; the epoch of now (compared for equality only).

        Raises:
            KeysUnavailableError: it cannot be read.
        """
        return await self._look()

    def box_at_hand(self, handle: str) -> AESGCM | None:
        """A key that is remembered. Nobody is asked whether it was erased: for bytes that an erasure deletes too."""
        return self._touch(handle)[1] if handle in self._cached else None

    async def box_of(self, handle: str) -> AESGCM | None:
        """The same, read when it is not remembered; None when it has gone.

        Raises:
            KeysUnavailableError: the keys cannot be read.
        """
        epoch = await self._look() if self._epoch is _UNREAD else self._epoch
        found = (await self.keys.by_handles([handle])).get(handle)
        return self._remember(found, epoch)[1] if found is not None else None

    async def box_for(self, subject: str) -> tuple[str, AESGCM]:
        """A subject's handle and key for writing, as of the last look; made when there is none.

        Raises:
            KeysUnavailableError: the key cannot be read or made.
        """
        epoch = await self._look() if self._epoch is _UNREAD else self._epoch
        key, box = (await self._boxes_for([subject], epoch))[subject]
        return key.handle, box

    async def expire(self, *, before_ms: int) -> int:
        """Erase keys under which nothing lies any more once records received before a moment are gone."""
        return await self.keys.expire(before_day=before_ms // DAY_MS - USED_STEP_DAYS - 1)

    async def handle_of_subject(self, subject: str) -> str | None:
        """By what the log calls a subject; None when it has no key."""
        key = await self.keys.of_subject(subject)
        return key.handle if key is not None else None

    async def forget(self, subject: str) -> int:
        """Erase a subject's key, here too; returns how many there were."""
        gone = await self.keys.forget(subject)
        self._drop_all()
        return gone

    async def renew(self) -> None:
        """Let go of all keys, and of what the keeper's connections hold."""
        self._drop_all()
        await self.keys.renew()

    def _open(self, one: Placed, boxes: dict[str, tuple[SubjectKey, AESGCM]]) -> OffsetEvent:
        handle = handle_of(one.body)
        if handle is None:
            return decode_record(one.offset, one.body, partition=one.partition)
        if handle not in boxes:
            return OffsetEvent(offset=one.offset, logged=NOTHING, partition=one.partition, broken=SHREDDED)
        try:
            content = open_value(one.body, handle, boxes[handle][1])
        except (InvalidTag, ValueError):
            reason = "the record was changed: it does not open under its key"
            return OffsetEvent(
                offset=one.offset, logged=NOTHING, partition=one.partition, broken=reason, content=one.body
            )
        return decode_record(one.offset, content, partition=one.partition)

    async def _boxes_for(self, subjects: Collection[str], epoch: object) -> dict[str, tuple[SubjectKey, AESGCM]]:
        today = self._clock.now_ms() // DAY_MS
        boxes = {one: self._touch(self._handles[one]) for one in subjects if one in self._handles}
        # A key that is remembered for long has its use noted like any other, or it would expire while it is used.
        missing = [
            one for one in subjects if one not in boxes or boxes[one][0].used_day <= today - USED_STEP_DAYS
        ]  # fmt: skip
        if missing:
            made = await self.keys.for_writing(missing, today=today)
            boxes |= {key.subject: self._remember(key, epoch) for key in made.values()}
        return boxes

    async def _boxes_of(self, handles: Collection[str]) -> dict[str, tuple[SubjectKey, AESGCM]]:
        epoch = await self._look()
        boxes = {one: self._touch(one) for one in handles if one in self._cached}
        missing = [one for one in handles if one not in boxes]
        if missing:
            found = await self.keys.by_handles(missing)
            boxes |= {key.handle: self._remember(key, epoch) for key in found.values()}
        return boxes

    async def _look(self) -> object:
        """The epoch. What was erased anywhere is not remembered here: erasures are rare, so everything goes."""
        epoch = await self.keys.epoch()
        if epoch != self._epoch:
            self._drop_all()
            self._epoch = epoch
        return epoch

    def _drop_all(self) -> None:
        self._cached.clear()
        self._handles.clear()

    def _touch(self, handle: str) -> tuple[SubjectKey, AESGCM]:
        self._cached.move_to_end(handle)
        return self._cached[handle]

    def _remember(self, key: SubjectKey, epoch: object) -> tuple[SubjectKey, AESGCM]:
        box = (key, AESGCM(key.key))
        if epoch != self._epoch:
            return box  # somebody looked meanwhile and found an erasure: perhaps of this one
        self._cached[key.handle] = box
        self._handles[key.subject] = key.handle
        while len(self._cached) > self._cached_max:
            _, (old, _) = self._cached.popitem(last=False)
            self._handles.pop(old.subject, None)
        return box


def handle_of(body: bytes) -> str | None:
    """The handle in a sealed record; None for one in the clear."""
    return body[1 : 1 + _HANDLE_BYTES].decode(errors="replace") if body[:1] == _MAGIC else None


def plain(records: Iterable[LoggedEvent]) -> list[SealedRecord]:
    """Records in the clear, as a log without keys keeps them."""
    return [
        SealedRecord(record.received_ms, record.subject, record.event.event_id, encode_record(record), record)
        for record in records
    ]


def _seal(record: LoggedEvent, key: SubjectKey, box: AESGCM) -> SealedRecord:
    digest = hashlib.blake2b(record.event.event_id.encode(), digest_size=_MARK_BYTES, key=key.key)
    body = seal_value(encode_record(record), key.handle, box)
    return SealedRecord(record.received_ms, key.handle, digest.hexdigest(), body, record)


def seal_value(content: bytes, handle: str, box: AESGCM, *, about: bytes = b"") -> bytes:
    """Bytes under a key; they open for the same `about` only."""
    name, nonce = handle.encode(), secrets.token_bytes(_NONCE_BYTES)
    return _MAGIC + name + nonce + box.encrypt(nonce, content, name + about)


def open_value(body: bytes, handle: str, box: AESGCM, *, about: bytes = b"") -> bytes:
    """Inverse of `seal_value`.

    Raises:
        InvalidTag: the bytes were changed, or are about something else.
        ValueError: they were cut off.
    """
    nonce = body[_HEAD_BYTES - _NONCE_BYTES : _HEAD_BYTES]
    return box.decrypt(nonce, body[_HEAD_BYTES:], handle.encode() + about)
