"""Features, defined once: training, the region and the phone all call these functions (MISSION C3).

The one module here that needs NumPy; edges never import it. Rows are catalogue rows, times are Unix seconds unless a
name says milliseconds. `region.batch` says the streaming features in Ibis; its constants come from here, and a parity
check holds the two together.
"""

import math
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int32]
FloatArray = npt.NDArray[np.float32]

GAP_BUCKETS = 32
"""0: no gap; 1 to 30: log2 of the seconds, plus one; 31: unknown (nothing before)."""
GAP_UNKNOWN = GAP_BUCKETS - 1
DAY_S = 86_400.0
YEAR_FIRST = 1900
YEAR_SLOTS = 160
"""Of the item tower: unknown, 1900 and before, one for each year, 2058 and later."""
TITLE_SLOTS = 1024
"""Of the item tower: no word, and the words of titles, hashed."""
TITLE_WORDS = 16
"""Words of a title that the item tower reads at most."""
_WORD = re.compile(r"\w+")
_YEAR = re.compile(r"(?:1[89]|20)\d\d")
AFFINITY_HALF_LIFE_S = 30 * DAY_S
RECENT_EVENTS = 10
"""How many of the last events the features of recent events look at."""
SESSION_GAP_MS = 30 * 60_000
"""A pause longer than this ends a session."""
AFFINITY_HALF_LIFE_MS = round(AFFINITY_HALF_LIFE_S * 1000)
AFFINITY_KINDS: tuple[str, ...] = ("category", "brand", "creator")
AFFINITIES_MAX = 32
"""Names kept per kind and subject; beyond it the one whose decayed value is nearest to zero is forgotten."""
TREND_BUCKET_MS = 600_000
"""Width of a bucket of the trending sketches."""
INTEREST_STRENGTH = 3
"""Below it (dislike, skip, a film left at once) an event is no sign that an item is wanted."""
ITEM_BUCKET_MS = 86_400_000
"""Width of a bucket of an item's counters (impressions, clicks, interactions, purchases)."""
EASE_EVENTS = 300
"""How many of the last events the EASE feature sums over."""
GAP_CLASSES = 4
"""Classes of the gap to the next event: at once, within a minute, within an hour, later."""
_GAP_CLASS_FROM_S = (1.0, 60.0, 3600.0)
MARKS = 1 << 14
"""By the last bits of its row a candidate is marked in so many bytes, which stay in a core's own cache."""

RANKING_FEATURES: tuple[str, ...] = (
    "retrieval_score",
    "popularity",
    "trend",
    "strength",
    "age",
    "category_affinity",
    "category_of_recent",
    "similar_to_last",
    "similar_to_recent",
    "follows_last",
    "follows_recent",
    "ease",
    "ease_of_recent",
    "history_length",
    "gap_to_request",
)
LIGHT_FEATURES: tuple[str, ...] = ("retrieval", "similar", "popularity", "trend", "strength", "follows")
"""What L1 reads: what is at hand for a pool before anything is computed for the ranker."""
LIGHT_WEIGHTS: dict[str, float] = {"retrieval": 1.0, "similar": 1.0, "popularity": 0.1}
"""Of a release that carries no weights of its own."""


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


class ItemLinks(NamedTuple):
    """From every item to a few others.

    `rows`: `[num_items, ..., length] int32`, best first, -1 behind the last. `scores`: the same shape, float32, 0
    behind the last.
    """

    rows: IntArray
    scores: FloatArray


@dataclass(frozen=True, slots=True)
class ItemTables:
    """What a release knows about every item; see `infra.contracts.release` for shapes.

    `followers`: what comes next, by the class of the gap in time, `[num_items, GAP_CLASSES, length]`. `soon`: what
    comes within a few events. `ease`: the weights of a linear autoencoder (Steck, 2019) that are furthest from zero.
    """

    vectors: FloatArray
    popularity: FloatArray
    trend: FloatArray
    strength: FloatArray
    first_seen_s: npt.NDArray[np.float64]
    categories: FloatArray
    similar_rows: IntArray
    similar_scores: FloatArray
    followers: ItemLinks
    soon: ItemLinks
    ease: ItemLinks


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


def year_slots(years: IntArray) -> IntArray:
    """Row of each year in the item tower's table: 0 for unknown (0), else one a year. Same shape, int32."""
    slots: IntArray = np.where(years > 0, np.clip(years - YEAR_FIRST + 1, 1, YEAR_SLOTS - 1), 0).astype(np.int32)
    return slots


def title_slots(title: str) -> IntArray:
    """Rows of a title's words in the item tower's table, `[TITLE_WORDS] int32`: each row once, 0 behind the last.

    Words of one letter and years say nothing that is not known otherwise. The hash is CRC-32, the same everywhere.
    """
    words = (word for word in _WORD.findall(title.casefold()) if len(word) > 1 and not _YEAR.fullmatch(word))
    found = dict.fromkeys(zlib.crc32(word.encode()) % (TITLE_SLOTS - 1) + 1 for word in words)
    slots = np.zeros(TITLE_WORDS, dtype=np.int32)
    kept = list(found)[:TITLE_WORDS]
    slots[: len(kept)] = kept
    return slots


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


def gap_class(seconds: npt.NDArray[np.float64]) -> IntArray:
    """Which of the GAP_CLASSES a gap belongs to. Same shape, int32."""
    classes: IntArray = np.searchsorted(_GAP_CLASS_FROM_S, seconds, side="right").astype(np.int32)
    return classes


class _Candidates:
    """Sums item-to-item scores at candidate size: nothing here is as large as the catalogue."""

    def __init__(self, rows: IntArray) -> None:
        self._order = np.argsort(rows, kind="stable")
        self._sorted = rows[self._order]
        # Nearly all that a history leads to is no candidate: that most of it is not is seen without a search.
        self._marked = np.zeros(MARKS, dtype=np.bool_)
        self._marked[rows & (MARKS - 1)] = True

    def reached(self, links: Sequence[ItemLinks]) -> FloatArray:
        """`[len(links), num_candidates] float32`: for each candidate the sum of the scores that lead to it.

        Every sum is taken in the order of its links.
        """
        count = self._sorted.size
        targets = np.concatenate([one.rows.ravel() for one in links])
        likely = np.flatnonzero(self._marked[targets & (MARKS - 1)])
        targets = targets[likely]
        place = np.minimum(np.searchsorted(self._sorted, targets), count - 1)
        found = self._sorted[place] == targets
        weights = np.concatenate([one.scores.ravel() for one in links])[likely[found]]
        group = np.repeat(np.arange(len(links)) * count, [one.rows.size for one in links])[likely[found]]
        summed = np.bincount(place[found] + group, weights=weights, minlength=len(links) * count)
        result = np.empty((len(links), count), dtype=np.float32)
        result[:, self._order] = summed.reshape(len(links), count)
        return result


def item_to_item_features(state: QueryState, candidates: IntArray, tables: ItemTables) -> dict[str, FloatArray]:
    """The features that follow from the history by item-to-item tables, each `[num_candidates] float32`.

    Candidates are different from each other.
    """
    recent = state.rows[-RECENT_EVENTS:][::-1]
    last, kinds = recent[:1], gap_class(np.asarray([_gap_s(state)]))
    fading = (1.0 / (1.0 + np.arange(recent.size, dtype=np.float32)))[:, None]
    similar_rows, similar_scores = tables.similar_rows[recent], tables.similar_scores[recent]
    long = state.rows[-EASE_EVENTS:]
    ease_rows, ease_scores = tables.ease.rows[long], tables.ease.scores[long]
    back = slice(-RECENT_EVENTS, None)
    links = {
        "similar_to_last": ItemLinks(similar_rows[:1], similar_scores[:1]),
        "similar_to_recent": ItemLinks(similar_rows, similar_scores * fading),
        "follows_last": ItemLinks(tables.followers.rows[last, kinds], tables.followers.scores[last, kinds]),
        "follows_recent": ItemLinks(tables.soon.rows[recent], tables.soon.scores[recent] * fading),
        "ease": ItemLinks(ease_rows, ease_scores),
        "ease_of_recent": ItemLinks(ease_rows[back][::-1], ease_scores[back][::-1]),
    }
    return dict(zip(links, _Candidates(candidates).reached(tuple(links.values())), strict=True))


def light_features(state: QueryState, candidates: IntArray, similar: FloatArray, tables: ItemTables) -> FloatArray:
    """Input of L1: `[num_candidates, len(LIGHT_FEATURES)] float32`, each column moved to 0..1 within the pool.

    Args:
        state: whose history, asked when.
        candidates: `[num_candidates]` catalogue rows, all different.
        similar: `[num_candidates]`: the score of the source "similar to recent", 0 where it did not put the item up.
        tables: of the release.
    """
    last, kinds = state.rows[-1:], gap_class(np.asarray([_gap_s(state)]))
    followers = tables.followers
    columns = {
        "retrieval": tables.vectors[candidates] @ state.vector,
        "similar": similar,
        "popularity": tables.popularity[candidates],
        "trend": tables.trend[candidates],
        "strength": tables.strength[candidates],
        "follows": _Candidates(candidates).reached(
            [ItemLinks(followers.rows[last, kinds], followers.scores[last, kinds])]
        )[0]
        if last.size and len(candidates)
        else np.zeros(len(candidates), dtype=np.float32),
    }
    return np.stack([scaled(columns[name]) for name in LIGHT_FEATURES], axis=1).astype(np.float32)


def scaled(values: FloatArray) -> FloatArray:
    """`values` moved to 0..1 by their smallest and largest; all equal gives zeros."""
    if not values.size:
        return values
    low = values.min()
    span = values.max() - low
    moved: FloatArray = (values - low) / span if span > 0.0 else np.zeros_like(values)
    return moved


def ranking_features(state: QueryState, candidates: IntArray, tables: ItemTables) -> FloatArray:
    """Input of the ranker: `[num_candidates, len(RANKING_FEATURES)] float32`.

    Args:
        state: whose history, asked when.
        candidates: `[num_candidates]` catalogue rows, all different.
        tables: of the release.
    """
    count = len(candidates)
    if not count:
        return np.zeros((0, len(RANKING_FEATURES)), dtype=np.float32)
    recent = QueryState(
        state.rows[-RECENT_EVENTS:], state.strengths[-RECENT_EVENTS:], state.times_s[-RECENT_EVENTS:], state.now_s,
        state.vector,
    )  # fmt: skip
    categories = tables.categories[candidates]
    age_s = np.maximum(state.now_s - tables.first_seen_s[candidates], 0.0)
    columns = {
        "retrieval_score": tables.vectors[candidates] @ state.vector,
        "popularity": tables.popularity[candidates],
        "trend": tables.trend[candidates],
        "strength": tables.strength[candidates],
        "age": np.log1p(age_s / DAY_S) / 8.0,
        "category_affinity": categories @ category_affinity(state, tables.categories),
        "category_of_recent": categories @ category_affinity(recent, tables.categories),
        **item_to_item_features(state, candidates, tables),
        "history_length": np.full(count, np.log1p(state.rows.size) / 6.0),
        "gap_to_request": np.full(count, np.log1p(max(_gap_s(state), 0.0)) / 20.0),
    }
    return np.stack([columns[name] for name in RANKING_FEATURES], axis=1).astype(np.float32)


def _gap_s(state: QueryState) -> float:
    return float(state.now_s - state.times_s[-1]) if state.times_s.size else 0.0


def _left_pad(values: IntArray, length: int) -> IntArray:
    padded = np.zeros(length, dtype=np.int32)
    tail = values[-length:]
    if tail.size:
        padded[-tail.size :] = tail
    return padded
