"""What a phone would send and cannot yet: kept on its disk, in order, until it is taken or of no use any more.

Three kinds of errands. Events go to the phone's region and count once by their ids. A choice (opting out or in) takes
the place of the one before it. A round's reply, the masked update, is of use until the round ends; after that it is
dropped, not sent. Everything is on disk when a call returns: a phone that is killed sends it after its next start, and
what it had sent without hearing the answer it sends again, byte for byte (another update under the same masks would
tell the difference of the two).

The file is sealed part by part like the phone's store, by the same key; sensitive events never come in here. Bounded in
number, bytes and age: beyond, the oldest events go, and are counted. A choice is never dropped for room.
"""

import enum
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import msgspec

from federation.device.keystore import KeyStore
from federation.device.sealed_parts import opened_parts, sealed_parts
from federation.secure_aggregation.messages import MaskedUpdate
from infra.contracts.events import Event
from infra.contracts.residency import Device, DeviceRecord, encode_regional
from infra.plumbing.files import write_atomically

WAITING_MAX = 2_000
BYTES_MAX = 1 << 19
"""Of the file."""
AGE_MAX_MS = 30 * 86_400_000
"""How long an event waits: a region does not take older ones for news."""
EVENTS_A_CALL = 100
OUTBOX_SUFFIX = ".outbox"
_PART_ERRANDS = 100
_CONTEXT = b"atoll phone outbox\0"


class Kind(enum.StrEnum):
    """What an errand is."""

    EVENT = "event"
    CHOICE = "choice"
    REPLY = "reply"


class Errand(DeviceRecord, frozen=True, kw_only=True):
    """One thing to be sent; `number` is its place in the order."""

    number: Device[int]
    kind: Device[Kind]
    body: Device[bytes]
    """JSON, as it is to be sent."""
    ticket: Device[str] = ""
    """Of the round that a reply is for."""
    until_ms: Device[int | None] = None
    """Of no use after that; None: always of use."""


class OutboxPart(DeviceRecord, frozen=True, kw_only=True):
    """A part of the file."""

    errands: Device[tuple[Errand, ...]] = ()
    next_number: Device[int] = 0
    dropped: Device[dict[str, int]] = msgspec.field(default_factory=dict)


class Outbox:
    """One phone's errands. A damaged file costs the parts that do not hold; it is set aside.

    Args:
        path: the file; made with the first errand.
        keys: the device's key.
        waiting_max: errands at most.
        bytes_max: of the file.

    Raises:
        KeyStoreError: the key cannot be used.
    """

    def __init__(
        self, path: Path, *, keys: KeyStore, waiting_max: int = WAITING_MAX, bytes_max: int = BYTES_MAX
    ) -> None:  # fmt: skip
        self._path = path
        self._keys = keys
        self._waiting_max = waiting_max
        self._bytes_max = bytes_max
        self._errands: tuple[Errand, ...] = ()
        self._next_number = 0
        self._dropped: Counter[str] = Counter()
        if os.path.lexists(path):
            self._open()

    def __len__(self) -> int:
        return len(self._errands)

    @property
    def dropped(self) -> Mapping[str, int]:
        """How many errands were never taken, by why: `late`, `old`, `no-room`, `refused`, `damaged` (parts)."""
        return dict(self._dropped)

    def waiting(self) -> dict[str, int]:
        """How many errands wait, by kind."""
        return dict(Counter(str(one.kind) for one in self._errands))

    def add_event(self, event: Event, *, now_ms: int) -> None:
        """An event for the phone's region; it is on disk when this returns."""
        self._add(Kind.EVENT, encode_regional(event), until_ms=now_ms + AGE_MAX_MS, now_ms=now_ms)

    def add_choice(self, *, opted_out: bool, now_ms: int) -> None:
        """Opting out or in; takes the place of a choice that waits."""
        self._errands = tuple(one for one in self._errands if one.kind is not Kind.CHOICE)
        self._add(Kind.CHOICE, msgspec.json.encode({"opted_out": opted_out}), until_ms=None, now_ms=now_ms)

    def add_reply(self, update: MaskedUpdate, *, ticket: str, until_ms: int, now_ms: int) -> None:
        """A round's masked update; takes the place of one that waits, whose round is over.

        Args:
            update: as the gateway was to get it.
            ticket: the phone's in this round.
            until_ms: when the round ends at the latest.
            now_ms: the moment.
        """
        kept = tuple(one for one in self._errands if one.kind is not Kind.REPLY)
        self._dropped["late"] += len(self._errands) - len(kept)
        self._errands = kept
        self._add(Kind.REPLY, encode_regional(update), ticket=ticket, until_ms=until_ms, now_ms=now_ms)

    def head(self, kinds: Iterable[Kind], *, now_ms: int) -> tuple[Errand, ...]:
        """What is to be sent next of these kinds: as many events in a row as one call takes, or one of another kind."""
        self._expire(now_ms)
        wanted = set(kinds)
        own = [one for one in self._errands if one.kind in wanted]
        if not own or own[0].kind is not Kind.EVENT:
            return tuple(own[:1])
        row = next((at for at, one in enumerate(own) if one.kind is not Kind.EVENT), len(own))
        return tuple(own[: min(row, EVENTS_A_CALL)])

    def settle(self, errands: Sequence[Errand], *, refused: int = 0) -> None:
        """These were answered for good; `refused` of them were not taken and never will be."""
        done = {one.number for one in errands}
        self._errands = tuple(one for one in self._errands if one.number not in done)
        self._dropped["refused"] += refused
        self._save()

    def erase(self) -> None:
        """Forget everything."""
        self._errands, self._dropped = (), Counter()
        for path in (self._path, self._path.with_name(f"{self._path.name}.damaged")):
            path.unlink(missing_ok=True)

    def _add(self, kind: Kind, body: bytes, *, now_ms: int, until_ms: int | None, ticket: str = "") -> None:
        errand = Errand(number=self._next_number, kind=kind, body=body, ticket=ticket, until_ms=until_ms)
        self._next_number += 1
        self._errands = (*self._errands, errand)
        self._expire(now_ms, save=False)
        self._save()

    def _expire(self, now_ms: int, *, save: bool = True) -> None:
        gone = [one for one in self._errands if one.until_ms is not None and one.until_ms <= now_ms]
        if gone:
            self._dropped.update("late" if one.kind is Kind.REPLY else "old" for one in gone)
            self._errands = tuple(one for one in self._errands if one not in gone)
            if save:
                self._save()

    def _save(self) -> None:
        while len(self._errands) > self._waiting_max and self._make_room():
            pass
        content = self._sealed()
        while len(content) > self._bytes_max and self._make_room():
            content = self._sealed()
        write_atomically(self._path, content, mode=0o600)

    def _sealed(self) -> bytes:
        return sealed_parts(self._parts(), self._keys, context=_CONTEXT)

    def _make_room(self) -> bool:
        """Drop the oldest tenth of the events; False when there is none."""
        events = [one.number for one in self._errands if one.kind is Kind.EVENT]
        gone = set(events[: max(1, len(events) // 10)])
        self._dropped["no-room"] += len(gone)
        self._errands = tuple(one for one in self._errands if one.number not in gone)
        return bool(gone)

    def _parts(self) -> list[bytes]:
        starts = range(0, max(1, len(self._errands)), _PART_ERRANDS)
        return [
            msgspec.msgpack.encode(
                OutboxPart(
                    errands=self._errands[start : start + _PART_ERRANDS], next_number=self._next_number,
                    dropped=dict(self._dropped),
                )
            )
            for start in starts
        ]  # fmt: skip

    def _open(self) -> None:
        opened = opened_parts(self._path.read_bytes(), self._keys, context=_CONTEXT)
        parts = [msgspec.msgpack.decode(content, type=OutboxPart) for content in opened.parts]
        self._errands = tuple(errand for part in parts for errand in part.errands)
        self._next_number = max((part.next_number for part in parts), default=0)
        self._dropped = Counter(parts[0].dropped if parts else {})
        lost = opened.lost if parts else max(1, opened.lost)
        if lost:
            self._path.replace(self._path.with_name(f"{self._path.name}.damaged"))
            self._dropped["damaged"] += lost
            self._save()


def outbox_path(store: Path) -> Path:
    """Where the outbox of the phone with this store lies."""
    return store.with_suffix(OUTBOX_SUFFIX)
