"""Items that nobody has touched yet: a tenth of the catalogue is taken out of training and asked for afterwards."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt

from central.datasets.interactions import Interactions, leave_last_out
from central.training.config import RetrievalConfig
from central.training.metadata import fit_metadata
from central.training.retrieval import TwoTowerModel, encode_batches, train_retrieval
from central.training.towers import catalogue_vectors
from central.training.windows import event_table, history_batch
from infra.contracts.features import FloatArray, HistoryInput, gap_bucket
from infra.plumbing.clock import Clock
from infra.plumbing.errors import InvalidInputError
from infra.plumbing.progress import Progress

COLD_SHARE: Final = 0.1
QUERIES_MAX: Final = 5000
SHOWN: Final = 10

Mask = npt.NDArray[np.bool_]


class ColdFigures(msgspec.Struct, frozen=True, kw_only=True):
    """HR@10 among the cold items, for interactions with one of them: by the item tower's metadata alone, and rivals.

    Items that score alike (the same categories) share their places: a hit counts as the chance of being shown.
    """

    items: int
    queries: int
    hr10: float
    random_hr10: float
    popularity_by_category_hr10: float
    train_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _Queries:
    """Interactions with a cold item, seen from the warm data.

    `cold`: place of the item among the cold ones; `begins`, `at`: the user's warm history, as positions of the warm
    data; `gap_s`: from the last of it to the interaction. All `[queries]`.
    """

    cold: npt.NDArray[np.int64]
    begins: npt.NDArray[np.int64]
    at: npt.NDArray[np.int64]
    gap_s: npt.NDArray[np.float64]


def evaluate_cold_items(
    data: Interactions, config: RetrievalConfig, *, clock: Clock, progress: Progress, minutes: float | None = None
) -> ColdFigures:
    """Trains the towers without any interaction of COLD_SHARE of the items, and asks for those.

    Args:
        data: the dataset.
        config: of the towers; its seed draws the items.
        clock: measures.
        progress: told while it trains.
        minutes: wall time for the training at most.

    Raises:
        InvalidInputError: the items have no metadata to be known by.
    """
    if not data.items.categories:
        raise InvalidInputError("the items have no categories.", fix="Give items.csv a category column.")
    cold = cold_mask(data, config.seed)
    warm = without_items(data, cold)
    towers = train_retrieval(warm, leave_last_out(warm), config, clock=clock, progress=progress, minutes=minutes)
    queries = _queries(data, warm, cold, config.seed)
    weights = data.items.weights[cold]
    titles = tuple(data.items.titles[row] for row in np.flatnonzero(cold))
    vectors = _encode(towers.model, warm, queries)
    metadata = fit_metadata(warm.items, catalogue_vectors(towers.model.items))
    scores = vectors @ metadata.vectors(weights, data.items.years[cold], titles).T
    return ColdFigures(
        items=int(cold.sum()), queries=queries.at.size, hr10=chance_of_showing(scores, queries.cold),
        random_hr10=min(1.0, SHOWN / int(cold.sum())),
        popularity_by_category_hr10=chance_of_showing(
            np.broadcast_to(_by_category(warm, weights), scores.shape), queries.cold
        ),
        train_s=round(towers.train_s, 3),
    )  # fmt: skip


def cold_mask(data: Interactions, seed: int) -> Mask:
    """`[num_items]`: which items are taken out; more than SHOWN of them, so that not everything is shown."""
    count = max(round(COLD_SHARE * len(data.items)), min(2 * SHOWN, len(data.items) // 2))
    mask = np.zeros(len(data.items), dtype=np.bool_)
    mask[np.random.default_rng(seed).permutation(len(data.items))[:count]] = True
    return mask


def without_items(data: Interactions, gone: Mask) -> Interactions:
    """The dataset as if the items had never been there; users stay, some with nothing."""
    kept = ~gone[data.rows]
    row_of = np.cumsum(~gone) - 1
    left = np.flatnonzero(~gone)
    items = replace(
        data.items,
        ids=tuple(data.items.ids[row] for row in left),
        titles=tuple(data.items.titles[row] for row in left),
        labels=tuple(data.items.labels[row] for row in left),
        years=data.items.years[left],
        weights=data.items.weights[left],
    )
    users = data.users[kept]
    return replace(
        data, items=items, users=users, rows=row_of[data.rows[kept]].astype(np.int32),
        strengths=data.strengths[kept], times_s=data.times_s[kept], held_out=None, stream=None,
        starts=np.searchsorted(users, np.arange(data.num_users + 1)),
    )  # fmt: skip


def chance_of_showing(scores: FloatArray, targets: npt.NDArray[np.int64]) -> float:
    """Mean chance that the target is among the SHOWN best, items of one score in random order."""
    own = scores[np.arange(len(targets)), targets][:, None]
    better, alike = (scores > own).sum(axis=1), (scores == own).sum(axis=1)
    return float(np.clip((SHOWN - better) / alike, 0.0, 1.0).mean()) if len(targets) else 0.0


def _queries(data: Interactions, warm: Interactions, cold: Mask, seed: int) -> _Queries:
    is_cold = cold[data.rows]
    warm_before = np.concatenate([[0], np.cumsum(~is_cold)])
    asked = np.flatnonzero(is_cold)
    begins = warm.starts[data.users[asked]]
    known = warm_before[asked] > begins  # a user without a history cannot be asked for
    asked = asked[known]
    if asked.size > QUERIES_MAX:
        asked = np.sort(np.random.default_rng(seed).choice(asked, QUERIES_MAX, replace=False))
    at = warm_before[asked]
    place = np.cumsum(cold) - 1
    return _Queries(
        cold=place[data.rows[asked]], begins=warm.starts[data.users[asked]], at=at,
        gap_s=data.times_s[asked] - warm.times_s[at - 1],
    )  # fmt: skip


def _encode(model: TwoTowerModel, warm: Interactions, queries: _Queries) -> FloatArray:
    table = event_table(warm)

    def histories(which: npt.NDArray[np.int64]) -> HistoryInput:
        history = history_batch(table, queries.begins[which], queries.at[which], model.config.history_length)
        history.gaps_after[:, -1] = gap_bucket(queries.gap_s[which])  # to this interaction, not to the next warm one
        return history

    make: Callable[[npt.NDArray[np.int64]], HistoryInput] = histories
    return encode_batches(model, make, len(queries.at))


def _by_category(warm: Interactions, weights: FloatArray) -> FloatArray:
    """`[num_cold] float32`: how popular an item of these categories is on average among the warm ones."""
    counts = np.bincount(warm.rows, minlength=len(warm.items))
    of_category = counts @ warm.items.weights / np.maximum(warm.items.weights.sum(axis=0), 1e-9)
    score: FloatArray = (weights @ of_category).astype(np.float32)
    return score
