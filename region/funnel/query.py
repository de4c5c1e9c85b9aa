"""From a user's row and what the caller brought along to the state that towers, sources and features read."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from infra.contracts.features import FloatArray, IntArray, QueryState
from region.funnel.plans import HISTORY_STRENGTH_RECENT
from region.funnel.tables import ReleaseTables
from region.store.port import Interactions

_UNKNOWN = -1


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


def read_history(past: Interactions, recent: tuple[str, ...], *, tables: ReleaseTables, now_s: float) -> History:
    """History of what is `past`, followed by the `recent` items that the visitor brought along, as views of now.

    A recent item that the past holds already is not counted twice.
    """
    held = set(past.items) if recent else frozenset[str]()
    brought = tuple(item for item in recent if item not in held)
    find = tables.row_of.get
    rows = np.array([find(item, _UNKNOWN) for item in past.items + brought], dtype=np.int32)
    strengths = np.array(past.strengths + (HISTORY_STRENGTH_RECENT,) * len(brought), dtype=np.int32)
    times_s = np.array(past.times_ms + (round(now_s * 1000),) * len(brought), dtype=np.float64) / 1000
    known = rows != _UNKNOWN
    # What was brought along comes last, whatever the clock says that told of the past.
    own_s = times_s[: len(past)]
    if (own_s[1:] < own_s[:-1]).any():
        order = np.concatenate([np.argsort(own_s, kind="stable"), np.arange(len(past), rows.size)])
        rows, strengths, times_s, known = rows[order], strengths[order], times_s[order], known[order]
    if not known.all():
        rows, strengths, times_s = rows[known], strengths[known], times_s[known]
    return History(rows=rows, strengths=strengths, times_s=times_s, unknown=int(known.size - rows.size))


def query_state(history: History, vector: FloatArray, *, now_s: float) -> QueryState:
    """The state that ranking features are computed from."""
    return QueryState(
        rows=history.rows, strengths=history.strengths, times_s=history.times_s, now_s=now_s, vector=vector
    )
