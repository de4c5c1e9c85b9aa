"""The evaluation of a trained model: leave the last one out, rank the whole catalogue, baselines beside it."""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from central.datasets.interactions import Interactions, Split
from central.evaluation.baselines import Scorer, markov_scorer, nearest_items_scorer, popularity_scorer
from central.evaluation.metrics import (
    NEVER,
    SCORE_CHUNK,
    Ranks,
    list_metrics,
    ranking_metrics,
    ranks_of_scores,
    standard_errors,
)
from central.evaluation.results import Evaluation, protocol_sentence
from central.training.popularity import item_counts
from central.training.ranking import ranked_places
from central.training.ranking_data import candidate_lists
from central.training.retrieval import encode_histories
from central.training.saved import SavedModel
from central.training.tables import item_tables
from central.training.towers import catalogue_vectors
from central.training.windows import event_table
from infra.contracts.features import FloatArray, IntArray, ItemTables
from infra.plumbing.progress import Progress

RANKED_USERS_MAX: Final = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """An evaluation and what it was made of: `ranks` per evaluated user, and the vectors it used."""

    evaluation: Evaluation
    ranks: Ranks
    user_vectors: FloatArray
    tables: ItemTables


def evaluate_model(model: SavedModel, data: Interactions, split: Split, *, progress: Progress) -> Outcome:
    """Evaluates both stages and the baselines on `split`; nothing scored here has seen a test interaction."""
    events = event_table(data)
    vectors = encode_histories(model.towers, events, data.starts[:-1], split.test_at, data.users)
    progress.advance(1, 4, "evaluating")
    item_vectors = catalogue_vectors(model.towers.items)
    tables = item_tables(data, split.known_ends, item_vectors, ease_penalty=model.card.ease_penalty)

    def dot_product(at: npt.NDArray[np.int64]) -> FloatArray:
        scores: FloatArray = vectors[np.searchsorted(split.test_at, at)] @ tables.vectors.T
        return scores

    retrieval, ranks = score_stage(data, split, dot_product)
    progress.advance(2, 4, "evaluating")
    scorers: dict[str, Scorer] = {
        "popularity": popularity_scorer(data, split.known_ends),
        "markov": markov_scorer(data, split.known_ends),
        "nearest_items": nearest_items_scorer(data, split.known_ends, tables),
    }
    baselines = {name: score_stage(data, split, scorer)[0] for name, scorer in scorers.items()}
    progress.advance(3, 4, "evaluating")
    ranked = _ranked_stage(model, data, split, vectors, tables, ranks)
    progress.advance(4, 4, "evaluating")
    evaluation = Evaluation(
        dataset=data.card.name, dataset_sha256=data.card.sha256, protocol=protocol_sentence(model.card.protocol),
        ties=model.card.ties, users=len(split.users), items=len(data.items),
        stage={"retrieval": retrieval, **ranked}, baselines=baselines, regions=_by_region(data, split, ranks),
        untied=_untied(data, split, ranks), standard_error=standard_errors(ranks), train_s=model.card.train_s,
    )  # fmt: skip
    return Outcome(evaluation=evaluation, ranks=ranks, user_vectors=vectors, tables=tables)


def score_stage(data: Interactions, split: Split, scorer: Scorer) -> tuple[dict[str, float], Ranks]:
    """All figures of one way to score, and the ranks behind them."""
    ranks: list[Ranks] = []
    tops: list[IntArray] = []
    for begin in range(0, len(split.test_at), SCORE_CHUNK):
        at = split.test_at[begin : begin + SCORE_CHUNK]
        scores = scorer(at)
        ranks.append(ranks_of_scores([scores], data, at, data.rows))
        tops.append(_top_lists(scores, data, at))
    joined = np.concatenate(ranks) if ranks else np.zeros(0, dtype=np.int64)
    counts = item_counts(data, split.known_ends)
    lists = np.concatenate(tops) if tops else np.zeros((0, 10), dtype=np.int32)
    return {**ranking_metrics(joined), **list_metrics(lists, counts)}, joined


def _top_lists(scores: FloatArray, data: Interactions, at: npt.NDArray[np.int64]) -> IntArray:
    for line, place in enumerate(at):
        scores[line, data.rows[data.starts[data.users[place]] : place]] = -np.inf
    k = min(10, scores.shape[1])
    best = np.argpartition(-scores, k - 1, axis=1)[:, :k]
    order = np.argsort(-np.take_along_axis(scores, best, axis=1), axis=1, kind="stable")
    best = np.take_along_axis(best, order, axis=1)
    return np.where(np.isneginf(np.take_along_axis(scores, best, axis=1)), -1, best).astype(np.int32)


def _ranked_stage(
    model: SavedModel, data: Interactions, split: Split, vectors: FloatArray, tables: ItemTables, ranks: Ranks
) -> dict[str, dict[str, float]]:
    """The ranker's order on a sample of users, and the retrieval order of the same users."""
    order = np.random.default_rng(0).permutation(len(split.test_at))[:RANKED_USERS_MAX]
    which = np.sort(order)
    lists = candidate_lists(data, split.test_at[which], vectors[which], tables, insert_target=False)
    places = ranked_places(model.ranker, lists)
    found = np.argmax(places == lists.target_at[:, None], axis=1).astype(np.int64) + 1
    found = np.where(lists.target_at >= 0, found, NEVER)
    return {
        "ranked": {**ranking_metrics(found), "users": float(which.size)},
        "retrieval_same_users": {**ranking_metrics(ranks[which]), "users": float(which.size)},
    }


def _by_region(data: Interactions, split: Split, ranks: Ranks) -> dict[str, dict[str, float]]:
    region = data.user_regions[split.users]
    figures = {}
    for number, name in enumerate(data.regions):
        inside = region == number
        of_region = ranking_metrics(ranks[inside])
        figures[name] = {"hr10": of_region["hr10"], "ndcg10": of_region["ndcg10"], "users": float(inside.sum())}
    return figures


def _untied(data: Interactions, split: Split, ranks: Ranks) -> dict[str, float]:
    apart = data.times_s[split.test_at] > data.times_s[split.test_at - 1]
    figures = ranking_metrics(ranks[apart])
    return {"hr10": figures["hr10"], "ndcg10": figures["ndcg10"], "users": float(apart.sum())}
