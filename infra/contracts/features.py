"""Features, defined once: training, the region and the phone all call these functions (MISSION C3).

The one module here that needs NumPy; edges never import it. Rows are catalogue rows, times are Unix seconds unless a
name says milliseconds. `region.batch` says the streaming features in Ibis; its constants come from here, and a parity
check holds the two together.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int32]
FloatArray = npt.NDArray[np.float32]

GAP_BUCKETS = 32
"""0: no gap; 1 to 30: log2 of the seconds, plus one; 31: unknown (nothing before)."""
GAP_UNKNOWN = GAP_BUCKETS - 1
AFFINITY_HALF_LIFE_S = 30 * 86_400.0
RECENT_EVENTS = 10
"""How many of the last events the similar-to-recent features look at."""
SESSION_GAP_MS = 30 * 60_000
"""A pause longer than this ends a session."""
AFFINITY_HALF_LIFE_MS = round(AFFINITY_HALF_LIFE_S * 1000)
AFFINITY_KINDS: tuple[str, ...] = ("category", "brand", "creator")
AFFINITIES_MAX = 32
"""Names kept per kind and subject; beyond it the one whose decayed value is nearest to zero is forgotten."""
TREND_BUCKET_MS = 600_000
"""Width of a bucket of the trending sketches."""
ITEM_BUCKET_MS = 86_400_000
"""Width of a bucket of an item's counters (impressions, clicks, interactions, purchases)."""

RANKING_FEATURES: tuple[str, ...] = (
    "retrieval_score",
    "popularity",
    "trend",
    "category_affinity",
    "similar_to_last",
    "similar_to_recent",
    "history_length",
    "gap_to_request",
)


class DecayedValue(NamedTuple):
    """A sum whose parts fade: `value` as it stood at `at_ms`, halved every half-life after that."""

    value: float
    at_ms: int

    def at(self, now_ms: int, half_life_ms: int = AFFINITY_HALF_LIFE_MS) -> float:
        """The value at a moment; a moment before `at_ms` counts as that one."""
        return self.value * fading(now_ms - self.at_ms, half_life_ms)

    def plus(self, weight: float, at_ms: int, half_life_ms: int = AFFINITY_HALF_LIFE_MS) -> "DecayedValue":
        """With the weight of one more event; events may come in any order, up to rounding."""
        if at_ms >= self.at_ms:
            return DecayedValue(self.value * fading(at_ms - self.at_ms, half_life_ms) + weight, at_ms)
        return DecayedValue(self.value + weight * fading(self.at_ms - at_ms, half_life_ms), self.at_ms)


def fading(elapsed_ms: int, half_life_ms: int) -> float:
    """What is left of one after `elapsed_ms`."""
    return math.exp2(-max(elapsed_ms, 0) / half_life_ms)


class HistoryInput(NamedTuple):
    """Inputs of the user tower, each `[length] int32`, the latest event last, zeros in front."""

    items: IntArray
    strengths: IntArray
    gaps_before: IntArray
    gaps_after: IntArray


@dataclass(frozen=True, slots=True)
class ItemTables:
    """What a release knows about every item; see `infra.contracts.release` for shapes."""

    vectors: FloatArray
    popularity: FloatArray
    trend: FloatArray
    categories: FloatArray
    similar_rows: IntArray
    similar_scores: FloatArray


@dataclass(frozen=True, slots=True)
class QueryState:
    """One subject at one moment: history (oldest first) and the user tower's vector for it.

    `rows`, `strengths`: `[events] int32`; `times_s`: `[events] float64`; `vector`: `[dim] float32`.
    """

    rows: IntArray
    strengths: IntArray
    times_s: npt.NDArray[np.float64]
    now_s: float
    vector: FloatArray


def gap_bucket(seconds: npt.NDArray[np.float64]) -> IntArray:
    """Logarithmic bucket of non-negative gaps; negative gaps (clocks disagree) count as none. Same shape, int32."""
    whole = np.maximum(seconds, 0.0)
    bucket: IntArray = np.minimum(np.floor(np.log2(whole + 1.0)) + (whole >= 1.0), GAP_UNKNOWN - 1).astype(np.int32)
    return bucket


def encode_history(
    rows: npt.ArrayLike, strengths: npt.ArrayLike, times_s: npt.ArrayLike, *, now_s: float, length: int
) -> HistoryInput:
    """The user tower's input for a history asked at `now_s`.

    The tower is causal: position t sees item t, its strength, the gap before it and the gap after it (to the next
    event; for the last position, to the request). So one sequence trains every prefix with its own request time.

    Args:
        rows: `[events]` catalogue rows, oldest first; only the last `length` are used.
        strengths: `[events]` from `infra.contracts.events.event_strength`.
        times_s: `[events]` ascending.
        now_s: the moment of the request.
        length: the tower's history length.
    """
    # One event more than fits, so that the first position knows the gap before it.
    row = np.asarray(rows, dtype=np.int32)[-length - 1 :]
    strength = np.asarray(strengths, dtype=np.int32)[-length - 1 :]
    time = np.asarray(times_s, dtype=np.float64)[-length - 1 :]
    before = np.full(row.shape, GAP_UNKNOWN, dtype=np.int32)
    if row.size:
        before[1:] = gap_bucket(np.diff(time))
    after = gap_bucket(np.append(time[1:], now_s) - time) if row.size else before
    return HistoryInput(*(_left_pad(part, length) for part in (row + 1, strength, before, after)))


def category_affinity(state: QueryState, categories: FloatArray) -> FloatArray:
    """Share of each category in the history, decayed by age (half-life AFFINITY_HALF_LIFE_S). `[num_categories]`.

    Dislikes (strength 1) count against their categories. Sums of absolute values are at most 1.
    """
    if not state.rows.size:
        return np.zeros(categories.shape[1], dtype=np.float32)
    decay = np.exp2(-np.maximum(state.now_s - state.times_s, 0.0) / AFFINITY_HALF_LIFE_S)
    weight = decay * np.where(state.strengths == 1, -1.0, state.strengths / 5.0)
    total = max(float(np.abs(weight).sum()), 1e-9)
    affinity: FloatArray = ((weight / total) @ categories[state.rows]).astype(np.float32)
    return affinity


def similar_to_recent(state: QueryState, tables: ItemTables) -> tuple[FloatArray, FloatArray]:
    """Item-to-item score of every item from the last event, and the sum from the last RECENT_EVENTS.

    Returns two `[num_items] float32` arrays; later events weigh more in the second.
    """
    num_items = tables.popularity.shape[0]
    last = np.zeros(num_items, dtype=np.float32)
    recent = np.zeros(num_items, dtype=np.float32)
    for age, row in enumerate(state.rows[-RECENT_EVENTS:][::-1]):
        neighbours = tables.similar_rows[row]
        known = neighbours >= 0
        np.add.at(recent, neighbours[known], tables.similar_scores[row][known] / (1.0 + age))
        if age == 0:
            last[neighbours[known]] = tables.similar_scores[row][known]
    return last, recent


def ranking_features(state: QueryState, candidates: IntArray, tables: ItemTables) -> FloatArray:
    """Input of the ranker: `[num_candidates, dim + len(RANKING_FEATURES)] float32`.

    The first `dim` columns are the element-wise product of user and item vector, so that their sum is the retrieval
    score and the cross layers see its parts.
    """
    vectors = tables.vectors[candidates]
    product = vectors * state.vector
    last, recent = similar_to_recent(state, tables)
    affinity = category_affinity(state, tables.categories)
    count = len(candidates)
    gap_s = state.now_s - float(state.times_s[-1]) if state.times_s.size else 0.0
    scalars = np.stack(
        [
            product.sum(axis=1),
            tables.popularity[candidates],
            tables.trend[candidates],
            tables.categories[candidates] @ affinity,
            last[candidates],
            recent[candidates],
            np.full(count, np.log1p(state.rows.size) / 6.0, dtype=np.float32),
            np.full(count, np.log1p(max(gap_s, 0.0)) / 20.0, dtype=np.float32),
        ],
        axis=1,
    )
    return np.concatenate([product, scalars], axis=1).astype(np.float32)


def _left_pad(values: IntArray, length: int) -> IntArray:
    padded = np.zeros(length, dtype=np.int32)
    tail = values[-length:]
    if tail.size:
        padded[-tail.size :] = tail
    return padded
