"""What an anonymous visitor gets: only the running session is known; rivals made for sessions stand beside.

The region answers a session with the user tower over the session's events. Whether that is the right model is measured
here: against session-kNN (Jannach and Ludewig, 2017), transitions by the gap, nearest items, and EASE of the session.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final

import numpy as np
import numpy.typing as npt
import scipy.sparse

from central.datasets.interactions import Interactions, Split
from central.evaluation.metrics import NEVER, ranking_metrics, ranks_of_scores
from central.training.ranker import RankerNetwork
from central.training.ranking import ranked_places
from central.training.ranking_data import candidate_lists
from central.training.retrieval import TwoTowerModel, encode_histories
from central.training.windows import EventTable, event_table
from infra.contracts.features import (
    GAP_UNKNOWN,
    RECENT_EVENTS,
    SESSION_GAP_MS,
    FloatArray,
    ItemTables,
    gap_class,
)

Positions = npt.NDArray[np.int64]
Scorer = Callable[[], FloatArray]
NEIGHBOURS: Final = 100
"""Past sessions that session-kNN listens to."""
QUERIES_MAX: Final = 2000
GAP_S: Final = SESSION_GAP_MS / 1000.0
_TIE_BREAK: Final = 1e-6


def session_figures(
    towers: TwoTowerModel, ranker: RankerNetwork, data: Interactions, split: Split, tables: ItemTables
) -> dict[str, dict[str, float]]:  # fmt: skip
    """Figures by model, over test interactions that go on with a session; empty where there are none, or no times.

    Args:
        towers: trained.
        ranker: trained.
        data: the dataset.
        split: its split; nothing here has seen a test interaction.
        tables: of what may be known.
    """
    at, begins = session_queries(data, split)
    if not at.size or not data.card.has_times:
        return {}
    begun = _starting_at(data, at, begins)
    vectors = _tower(towers, data, at, begun)
    scorers = _scorers(vectors, data, split, tables, at, begun)
    users = float(at.size)
    mean_length = float((at - begins).mean())
    figures = {}
    for name, score in scorers.items():
        ranks = ranks_of_scores([score()], begun, at, data.rows)
        figures[name] = {**ranking_metrics(ranks), "users": users, "session_length": mean_length}
    lists = candidate_lists(begun, at, vectors, tables, insert_target=False)
    found = np.argmax(ranked_places(ranker, lists) == lists.target_at[:, None], axis=1).astype(np.int64) + 1
    ranks = np.where(lists.target_at >= 0, found, NEVER)
    ranked = {**ranking_metrics(ranks), "users": users, "session_length": mean_length}
    return {"tower_and_ranker": ranked, **figures}


def session_queries(data: Interactions, split: Split) -> tuple[Positions, Positions]:
    """Test interactions within SESSION_GAP_MS of the event before, a sample; and where their sessions begin."""
    at = split.test_at[(split.test_at > data.starts[split.users]) & _goes_on(data, split.test_at)]
    if at.size > QUERIES_MAX:
        at = np.sort(np.random.default_rng(0).choice(at, QUERIES_MAX, replace=False))
    pauses = np.flatnonzero(np.diff(data.times_s, prepend=-np.inf) > GAP_S)
    edges = np.union1d(pauses, data.starts[:-1])
    begins = edges[np.searchsorted(edges, at - 1, side="right") - 1]
    return at, begins.astype(np.int64)


def _goes_on(data: Interactions, at: Positions) -> npt.NDArray[np.bool_]:
    return data.times_s[at] - data.times_s[at - 1] <= GAP_S


def _starting_at(data: Interactions, at: Positions, begins: Positions) -> Interactions:
    """The dataset as if each asked user had begun with the session: what is before is neither read nor taken out."""
    starts = data.starts.copy()
    starts[data.users[at]] = begins
    return replace(data, starts=starts)


def _scorers(
    vectors: FloatArray, data: Interactions, split: Split, tables: ItemTables, at: Positions, begun: Interactions
) -> Mapping[str, Scorer]:  # fmt: skip
    sessions = [data.rows[begun.starts[data.users[place]] : place] for place in at]
    kinds = gap_class(data.times_s[at] - data.times_s[at - 1])
    followers, similar, ease = tables.followers, (tables.similar_rows, tables.similar_scores), tables.ease

    def of_links(take: Callable[[int], tuple[npt.NDArray[np.int32], FloatArray]]) -> FloatArray:
        scores = np.tile(_TIE_BREAK * tables.popularity, (len(at), 1))
        for line in range(len(at)):
            rows, weights = take(line)
            np.add.at(scores[line], rows[rows >= 0], weights[rows >= 0])
        return scores

    def recent(line: int) -> tuple[npt.NDArray[np.int32], FloatArray]:
        items = sessions[line][-RECENT_EVENTS:][::-1]
        fading = (1.0 / (1.0 + np.arange(items.size, dtype=np.float32)))[:, None]
        return similar[0][items], similar[1][items] * fading

    return {
        "tower": lambda: vectors @ tables.vectors.T,
        "session_knn": lambda: session_knn(data, split, sessions, tables.popularity),
        "transitions": lambda: of_links(
            lambda line: (
                followers.rows[sessions[line][-1], kinds[line]], followers.scores[sessions[line][-1], kinds[line]]
            )
        ),
        "item_knn": lambda: of_links(recent),
        "ease": lambda: of_links(lambda line: (ease.rows[sessions[line]], ease.scores[sessions[line]])),
        "popularity": lambda: np.tile(tables.popularity, (len(at), 1)),
    }  # fmt: skip


def _tower(towers: TwoTowerModel, data: Interactions, at: Positions, begun: Interactions) -> FloatArray:
    table = event_table(data)
    before = table.gaps_before.copy()
    before[begun.starts[:-1]] = GAP_UNKNOWN
    known = EventTable(table.items, table.strengths, before, table.gaps_after)
    return encode_histories(towers, known, begun.starts[:-1], at, data.users)


def session_knn(
    data: Interactions, split: Split, sessions: list[npt.NDArray[np.int32]], popularity: FloatArray
) -> FloatArray:  # fmt: skip
    """Vector multiplication session-kNN: `[queries, num_items]`, later events of the session weigh more."""
    visible = np.arange(data.rows.size) < split.known_ends[data.users]
    number = np.cumsum((np.diff(data.times_s, prepend=-np.inf) > GAP_S) | (np.diff(data.users, prepend=-1) != 0)) - 1
    past = scipy.sparse.csr_matrix(
        (np.ones(int(visible.sum()), np.float32), (number[visible], data.rows[visible])),
        shape=(int(number[-1]) + 1, len(data.items)),
    )
    past.data[:] = 1.0
    lengths = np.sqrt(np.maximum(np.asarray(past.sum(axis=1)).ravel(), 1.0))
    by_item = past.T.tocsr()
    scores = np.tile(_TIE_BREAK * popularity, (len(sessions), 1))
    for line, items in enumerate(sessions):
        weights = np.arange(1, items.size + 1, dtype=np.float32) / items.size
        alike = np.asarray(weights @ by_item[items]).ravel() / lengths
        nearest = np.argsort(-alike, kind="stable")[:NEIGHBOURS]
        scores[line] += alike[nearest] @ past[nearest]
    return scores
