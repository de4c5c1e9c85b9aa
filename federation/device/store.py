"""The phone's own store: served and sensitive history, in one encrypted file of the phone.

Everything here is of class ``device``. The file is the phone's own disk, not a wire; nothing else in this project can
encode these records. It is sealed part by part by the device's key (`federation.device.keystore`). No call needs a
network: a phone that is offline goes on remembering, training and computing its vector, and asks for a round later.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import msgspec
import numpy as np
import numpy.typing as npt

from federation.device.keystore import KeyStore
from federation.device.outbox import OUTBOX_SUFFIX, Outbox, outbox_path
from federation.device.sealed_parts import Opened, opened_parts, sealed_parts
from federation.device.tower import DeviceRelease
from infra.contracts.events import STRENGTH_LEVELS, Event, SensitiveEvent, enters_history, event_strength
from infra.contracts.residency import Device, DeviceRecord
from infra.plumbing.errors import AtollError, InvalidInputError
from infra.plumbing.files import write_atomically

EVENTS_MAX = 5_000
"""Events of each kind that a phone keeps; the oldest go first."""
BYTES_MAX = 1 << 20
"""Of the file; beyond, the oldest events go."""
AGE_MAX_MS = 730 * 86_400_000
"""How long an event is kept: 24 months."""
STEPS_A_DAY = 20_000
"""Tower calls and gradients that training may take in one day: about eighty rounds of a long history."""
_PART_EVENTS = 250
_DAY_MS = 86_400_000


class DeviceStoreError(AtollError):
    """The phone's store, or a part of it, cannot be read.

    Attributes:
        lost: parts that do not hold.
    """

    def __init__(self, message: str, *, lost: int = 1) -> None:
        super().__init__(message, fix="Salvage it: what holds is kept, and served events come back from the region.")
        self.lost = lost


class StoredHistory(DeviceRecord, frozen=True, kw_only=True):
    """The file's content. Both kinds are held as the phone's own records, oldest first."""

    served: Device[tuple[SensitiveEvent, ...]] = ()
    sensitive: Device[tuple[SensitiveEvent, ...]] = ()
    steps_day: Device[int] = 0
    """The day (since 1970) that `steps_spent` is of."""
    steps_spent: Device[int] = 0


@dataclass(frozen=True, slots=True)
class LocalHistory:
    """A history in a release's rows, oldest first: `[events]` each; `sensitive` marks what no region knows."""

    rows: npt.NDArray[np.int32]
    strengths: npt.NDArray[np.int32]
    times_s: npt.NDArray[np.float64]
    sensitive: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        return f"LocalHistory({len(self)} events)"

    def before(self, position: int) -> "LocalHistory":
        """The events before `position`."""
        return LocalHistory(
            self.rows[:position], self.strengths[:position], self.times_s[:position], self.sensitive[:position]
        )

    def served_only(self) -> "LocalHistory":
        """What the region knows too."""
        return self.read_as(np.where(self.sensitive, -1, self.rows))

    def read_as(self, rows: npt.NDArray[np.int32]) -> "LocalHistory":
        """The same events, each of the item at `rows [events]` in its place; those at -1 are left out."""
        keep = rows >= 0
        return LocalHistory(rows[keep], self.strengths[keep], self.times_s[keep], self.sensitive[keep])


class DeviceStore:
    """One phone's store. Changes are kept in memory until `save`.

    Args:
        path: the file.
        keys: the device's key.
        bytes_max: of the file.

    Raises:
        DeviceStoreError: a part of the file does not hold; `salvaged` opens the rest.
    """

    def __init__(self, path: Path, *, keys: KeyStore, bytes_max: int = BYTES_MAX) -> None:
        opened = _opened(path, keys)
        if opened.lost:
            raise DeviceStoreError(f"{opened.lost} parts of the phone's store cannot be read.", lost=opened.lost)
        self._path = path
        self._keys = keys
        self._bytes_max = bytes_max
        self._history = _joined(opened)
        self.lost = 0
        """Parts that were lost when the store was salvaged."""

    @classmethod
    def salvaged(cls, path: Path, *, keys: KeyStore, bytes_max: int = BYTES_MAX) -> Self:
        """Open what holds of a store; a damaged file is set aside as ``<name>.damaged``, and the rest written anew."""
        opened = _opened(path, keys)
        if opened.lost:
            path.replace(path.with_name(f"{path.name}.damaged"))
        store = cls(path, keys=keys, bytes_max=bytes_max)
        if opened.lost:
            store._history, store.lost = _joined(opened), opened.lost
            store.save()
        return store

    def add_served(self, event: Event) -> None:
        """Remember an event that went to the region too; what never enters a history is left out."""
        if enters_history(event.type):
            record = SensitiveEvent(
                item=event.item, strength=event_strength(event.type, event.value), at_ms=event.at_ms
            )
            self._history = msgspec.structs.replace(self._history, served=_added(self._history.served, record))

    def add_sensitive(self, event: SensitiveEvent) -> None:
        """Remember an event that stays here.

        Raises:
            InvalidInputError: the strength is not one that the tower reads.
        """
        if not 0 < event.strength < STRENGTH_LEVELS:
            raise InvalidInputError(f"a strength lies between 1 and {STRENGTH_LEVELS - 1}, not {event.strength}.")
        self._history = msgspec.structs.replace(self._history, sensitive=_added(self._history.sensitive, event))

    def expire(self, *, now_ms: int, age_max_ms: int = AGE_MAX_MS) -> int:
        """Forget what is older than `age_max_ms`; returns how many events went."""
        before = len(self._history.served) + len(self._history.sensitive)
        kept = {
            kind: tuple(event for event in getattr(self._history, kind) if event.at_ms > now_ms - age_max_ms)
            for kind in ("served", "sensitive")
        }
        self._history = msgspec.structs.replace(self._history, **kept)
        return before - sum(len(events) for events in kept.values())

    def spend_steps(self, steps: int, *, now_ms: int, a_day: int = STEPS_A_DAY) -> bool:
        """Book `steps` of training for the day of `now_ms`; False, and nothing booked, when the day has too few left.

        The battery's bound: kept with the history, so that a restart does not give it back (once `save` was called).
        """
        day = now_ms // _DAY_MS
        spent = steps + (self._history.steps_spent if day == self._history.steps_day else 0)
        if spent > a_day:
            return False
        self._history = msgspec.structs.replace(self._history, steps_day=day, steps_spent=spent)
        return True

    def save(self) -> None:
        """Write the store, encrypted and readable by its owner only; beyond its bytes the oldest events go.

        Raises:
            KeyStoreError: the key cannot be used.
        """
        while len(content := sealed_parts(list(_parts(self._history)), self._keys)) > self._bytes_max:
            self._history = _without_oldest(self._history)
        write_atomically(self._path, content, mode=0o600)

    def outbox(self) -> Outbox:
        """What this phone has still to send, beside its store and under the same key."""
        return Outbox(outbox_path(self._path), keys=self._keys)

    def erase(self) -> None:
        """Forget everything, on disk and to be sent too, and the key with it: no copy can be opened any more."""
        self._history = StoredHistory()
        for unsent in (outbox_path(self._path), outbox_path(self._path).with_suffix(f"{OUTBOX_SUFFIX}.damaged")):
            unsent.unlink(missing_ok=True)
        self._keys.forget()
        for path in (self._path, self._path.with_name(f"{self._path.name}.damaged")):
            path.unlink(missing_ok=True)

    def history(self, release: DeviceRelease) -> LocalHistory:
        """Served and sensitive events together, in time, as rows of `release`; unknown items are left out.

        Events of one moment keep the order in which they were added, served ones first.
        """
        marked = [(event, False) for event in self._history.served] + [(e, True) for e in self._history.sensitive]
        known = [(event, hidden) for event, hidden in marked if event.item in release.rows]
        known.sort(key=lambda pair: pair[0].at_ms)
        return LocalHistory(
            rows=np.array([release.rows[event.item] for event, _ in known], dtype=np.int32),
            strengths=np.array([event.strength for event, _ in known], dtype=np.int32),
            times_s=np.array([event.at_ms / 1000.0 for event, _ in known], dtype=np.float64),
            sensitive=np.array([hidden for _, hidden in known], dtype=np.bool_),
        )


def _opened(path: Path, keys: KeyStore) -> Opened:
    if not os.path.lexists(path):
        return Opened((), 0)
    try:
        opened = opened_parts(path.read_bytes(), keys)
    except OSError:
        return Opened((), 1)
    return opened if opened.parts else Opened((), max(opened.lost, 1))


def _joined(opened: Opened) -> StoredHistory:
    """One history of all parts; a part that was sealed is well-formed."""
    parts = [msgspec.msgpack.decode(content, type=StoredHistory) for content in opened.parts]
    latest = max(((one.steps_day, one.steps_spent) for one in parts), default=(0, 0))
    return StoredHistory(
        served=tuple(event for one in parts for event in one.served),
        sensitive=tuple(event for one in parts for event in one.sensitive),
        steps_day=latest[0], steps_spent=latest[1],
    )  # fmt: skip


def _parts(history: StoredHistory) -> Iterator[bytes]:
    """At least one; every part says what was spent, so that damage to another does not give it back."""
    longest = max(len(history.served), len(history.sensitive), 1)
    for start in range(0, longest, _PART_EVENTS):
        part = msgspec.structs.replace(
            history, served=history.served[start : start + _PART_EVENTS],
            sensitive=history.sensitive[start : start + _PART_EVENTS],
        )  # fmt: skip
        yield msgspec.msgpack.encode(part)


def _without_oldest(history: StoredHistory) -> StoredHistory:
    """A tenth less of the kind that has more."""
    kind = "served" if len(history.served) >= len(history.sensitive) else "sensitive"
    events = getattr(history, kind)
    return msgspec.structs.replace(history, **{kind: events[max(1, len(events) // 10) :]})


def _added(events: tuple[SensitiveEvent, ...], event: SensitiveEvent) -> tuple[SensitiveEvent, ...]:
    return (*events, event)[-EVENTS_MAX:]
