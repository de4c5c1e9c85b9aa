"""The phone's own store: served and sensitive history, in one file of the phone.

Everything here is of class ``device``. The file is the phone's own disk, not a wire; nothing else in this project can
encode these records.
"""

import os
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from federation.device.tower import DeviceRelease
from infra.contracts.events import STRENGTH_LEVELS, Event, SensitiveEvent, enters_history, event_strength
from infra.contracts.residency import Device, DeviceRecord
from infra.plumbing.errors import AtollError, InvalidInputError
from infra.plumbing.files import write_atomically

EVENTS_MAX = 5_000
"""Events of each kind that a phone keeps; the oldest go first."""


class DeviceStoreError(AtollError):
    """The phone's store cannot be read."""


class StoredHistory(DeviceRecord, frozen=True, kw_only=True):
    """The file's content. Both kinds are held as the phone's own records, oldest first."""

    served: Device[tuple[SensitiveEvent, ...]] = ()
    sensitive: Device[tuple[SensitiveEvent, ...]] = ()


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
        keep = ~self.sensitive
        return LocalHistory(self.rows[keep], self.strengths[keep], self.times_s[keep], self.sensitive[keep])


class DeviceStore:
    """One phone's store. Changes are kept in memory until `save`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._history = _read(path)

    def add_served(self, event: Event) -> None:
        """Remember an event that went to the region too; what never enters a history is left out."""
        if enters_history(event.type):
            record = SensitiveEvent(
                item=event.item, strength=event_strength(event.type, event.value), at_ms=event.at_ms
            )
            self._history = StoredHistory(
                served=_added(self._history.served, record), sensitive=self._history.sensitive
            )

    def add_sensitive(self, event: SensitiveEvent) -> None:
        """Remember an event that stays here.

        Raises:
            InvalidInputError: the strength is not one that the tower reads.
        """
        if not 0 < event.strength < STRENGTH_LEVELS:
            raise InvalidInputError(f"a strength lies between 1 and {STRENGTH_LEVELS - 1}, not {event.strength}.")
        self._history = StoredHistory(served=self._history.served, sensitive=_added(self._history.sensitive, event))

    def save(self) -> None:
        """Write the store, readable by its owner only."""
        write_atomically(self._path, msgspec.msgpack.encode(self._history), mode=0o600)

    def erase(self) -> None:
        """Forget everything, on disk too."""
        self._history = StoredHistory()
        self._path.unlink(missing_ok=True)

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


def _read(path: Path) -> StoredHistory:
    if not os.path.lexists(path):
        return StoredHistory()
    try:
        return msgspec.msgpack.decode(path.read_bytes(), type=StoredHistory)
    except (OSError, msgspec.DecodeError) as error:
        raise DeviceStoreError("the phone's store cannot be read.", fix="Erase it; served events come back.") from error


def _added(events: tuple[SensitiveEvent, ...], event: SensitiveEvent) -> tuple[SensitiveEvent, ...]:
    return (*events, event)[-EVENTS_MAX:]
