"""From a user's row and what the caller brought along to the state that towers, sources and features read."""

from dataclasses import dataclass
from operator import attrgetter

import numpy as np
import numpy.typing as npt

from infra.contracts.features import FloatArray, IntArray, QueryState
from region.funnel.plans import HISTORY_STRENGTH_RECENT
from region.funnel.tables import ReleaseTables
from region.store.port import HistoryEntry


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """What is known of the subject, in rows of one release, oldest first.

    `rows`, `strengths`: `[events] int32`; `times_s`: `[events] float64`, ascending. `unknown` counts the events
    whose items this release does not know.
    """

    rows: IntArray
    strengths: IntArray
    times_s: npt.NDArray[np.float64]
    unknown: int

    @property
    def size(self) -> int:
        """Number of known events."""
        return int(self.rows.size)


def read_history(
    entries: tuple[HistoryEntry, ...], recent: tuple[str, ...], *, tables: ReleaseTables, now_s: float
) -> History:
    """History of `entries`, followed by the `recent` items that the visitor brought along, as views of this moment.

    A recent item that the entries hold already is not counted twice.
    """
    held = {entry.item for entry in entries}
    brought = [
        HistoryEntry(item=item, strength=HISTORY_STRENGTH_RECENT, at_ms=round(now_s * 1000))
        for item in recent
        if item not in held
    ]
    everything, find = sorted(entries, key=attrgetter("at_ms")) + brought, tables.row_of.get
    known = [(row, entry) for entry in everything if (row := find(entry.item)) is not None]
    return History(
        rows=np.array([row for row, _ in known], dtype=np.int32),
        strengths=np.array([entry.strength for _, entry in known], dtype=np.int32),
        times_s=np.array([entry.at_ms / 1000 for _, entry in known], dtype=np.float64),
        unknown=len(everything) - len(known),
    )


def query_state(history: History, vector: FloatArray, *, now_s: float) -> QueryState:
    """The state that ranking features are computed from."""
    return QueryState(
        rows=history.rows, strengths=history.strengths, times_s=history.times_s, now_s=now_s, vector=vector
    )
