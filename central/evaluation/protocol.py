"""The evaluation of a trained model: rank the whole catalogue for every test interaction, baselines beside it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from central.datasets.interactions import Interactions, Split
from central.evaluation.baselines import (
    Scorer,
    ease_scorer,
    ials_scorer,
    markov_scorer,
    nearest_items_scorer,
    popularity_scorer,
)
from central.evaluation.exact import exact_ranks, exact_sample
from central.evaluation.leaks import check_leaks
from central.evaluation.metrics import (
    NEVER,
    SCORE_CHUNK,
    Ranks,
    list_metrics,
    ranking_metrics,
    ranks_of_scores,
    standard_errors,
)
from central.evaluation.results import Evaluation, Interval, protocol_sentence
from central.evaluation.sessions import session_figures
from central.evaluation.slices import intervals, sliced
from central.training.calibration import calibration_error
from central.training.popularity import item_counts
from central.training.ranker import HEADS
from central.training.ranking import head_counts, ranked_places, ranker_logits
from central.training.ranking_data import CandidateLists, candidate_lists
from central.training.retrieval import encode_histories
from central.training.saved import SavedModel
from central.training.tables import item_tables
from central.training.towers import catalogue_vectors
from central.training.windows import event_table
from infra.contracts.features import FloatArray, IntArray, ItemTables
from infra.plumbing.progress import Progress

RANKED_USERS_MAX: Final = 2000
EVALUATING: Final = "evaluating"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """An evaluation and what it was made of: `ranks` per evaluated user, and the vectors it used."""

    evaluation: Evaluation
    ranks: Ranks
    user_vectors: FloatArray
    tables: ItemTables


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """What every part of an evaluation reads."""

    model: SavedModel
    data: Interactions
    split: Split
    vectors: FloatArray
    tables: ItemTables


def evaluate_model(
    model: SavedModel, data: Interactions, split: Split, *, progress: Progress, full: bool = False
) -> Outcome:
    """Evaluates both stages and the baselines on `split`; nothing scored here has seen a test interaction.

    Args:
        model: trained.
        data: its dataset.
        split: its split.
        progress: told while it runs.
        full: all baselines, the ranker over the whole catalogue and a leak check too, which take minutes.
    """
    vectors = encode_histories(model.towers, event_table(data), data.starts[:-1], split.test_at, data.users)
    progress.advance(1, 6, EVALUATING)
    item_vectors = catalogue_vectors(model.towers.items)
    tables = item_tables(data, split.known_ends, item_vectors, ease_penalty=model.card.ease_penalty)
    asked = _Asked(model=model, data=data, split=split, vectors=vectors, tables=tables)
    retrieval, ranks = score_stage(data, split, _dot_product(asked))
    progress.advance(2, 6, EVALUATING)
    baselines, doubts = {}, {"retrieval": intervals(ranks)}
    for name, make in _scorers(asked, full=full).items():
        baselines[name], of_baseline = score_stage(data, split, make())
        doubts[name] = intervals(of_baseline)
    progress.advance(4, 6, EVALUATING)
    ranked, calibration = _ranked_stage(asked, ranks, doubts)
    progress.advance(5, 6, EVALUATING)
    exact = _exact_stage(asked) if full else {}
    counts = item_counts(data, split.known_ends)
    progress.advance(6, 6, EVALUATING)
    slices = sliced(data, split, ranks, counts)
    evaluation = Evaluation(
        dataset=data.card.name, dataset_sha256=data.card.sha256,
        protocol=protocol_sentence(model.card.protocol, has_times=data.card.has_times),
        ties=model.card.ties, users=len(split.users), items=len(data.items),
        stage={"retrieval": retrieval, **ranked, **exact}, baselines=baselines, regions=slices["region"],
        untied=_untied(data, split, ranks), standard_error=standard_errors(ranks), train_s=model.card.train_s,
        slices=slices, intervals=doubts, calibration=calibration, curve=model.card.curve,
        leaks=check_leaks(data, split, history_length=model.card.retrieval.history_length) if full else None,
        context=model.card.retrieval.context, seed=model.card.retrieval.seed,
        sessions=session_figures(model.towers, model.ranker, data, split, tables) if full else {},
    )  # fmt: skip
    return Outcome(evaluation=evaluation, ranks=ranks, user_vectors=vectors, tables=tables)


def retrieval_figures(model: SavedModel, data: Interactions, split: Split) -> dict[str, float]:
    """Figures of the retrieval stage alone: what a variant of the model is compared by."""
    vectors = encode_histories(model.towers, event_table(data), data.starts[:-1], split.test_at, data.users)
    table = catalogue_vectors(model.towers.items)
    return score_stage(data, split, lambda at: vectors[np.searchsorted(split.test_at, at)] @ table.T)[0]


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
    return {**ranking_metrics(joined), **list_metrics(lists, counts, data.items.weights)}, joined


def _dot_product(asked: _Asked) -> Scorer:
    def score(at: npt.NDArray[np.int64]) -> FloatArray:
        scores: FloatArray = asked.vectors[np.searchsorted(asked.split.test_at, at)] @ asked.tables.vectors.T
        return scores

    return score


def _scorers(asked: _Asked, *, full: bool) -> Mapping[str, Callable[[], Scorer]]:
    data, split, card = asked.data, asked.split, asked.model.card
    ends = split.known_ends
    quick: dict[str, Callable[[], Scorer]] = {
        "popularity": lambda: popularity_scorer(data, ends),
        "markov": lambda: markov_scorer(data, ends),
        "item_knn": lambda: nearest_items_scorer(data, ends, asked.tables),
    }
    slow: dict[str, Callable[[], Scorer]] = {
        "ials": lambda: ials_scorer(data, ends, valid_ends=split.train_ends, valid_at=split.valid_at),
        "ease": lambda: ease_scorer(data, ends, card.ease_penalty),
    }
    return {**quick, **slow} if full else quick


def _top_lists(scores: FloatArray, data: Interactions, at: npt.NDArray[np.int64]) -> IntArray:
    for line, place in enumerate(at):
        scores[line, data.rows[data.starts[data.users[place]] : place]] = -np.inf
    k = min(10, scores.shape[1])
    best = np.argpartition(-scores, k - 1, axis=1)[:, :k]
    order = np.argsort(-np.take_along_axis(scores, best, axis=1), axis=1, kind="stable")
    best = np.take_along_axis(best, order, axis=1)
    return np.where(np.isneginf(np.take_along_axis(scores, best, axis=1)), -1, best).astype(np.int32)


def _ranked_stage(
    asked: _Asked, ranks: Ranks, doubts: dict[str, dict[str, Interval]]
) -> tuple[dict[str, dict[str, float]], dict[str, float]]:
    """The ranker's order on a sample of users, and the retrieval order of the same users; how far its heads are off."""
    order = np.random.default_rng(0).permutation(len(asked.split.test_at))[:RANKED_USERS_MAX]
    which = np.sort(order)
    at = asked.split.test_at[which]
    lists = candidate_lists(asked.data, at, asked.vectors[which], asked.tables, insert_target=False)
    places = ranked_places(asked.model.ranker, lists)
    found = np.argmax(places == lists.target_at[:, None], axis=1).astype(np.int64) + 1
    found = np.where(lists.target_at >= 0, found, NEVER)
    doubts["ranked"] = intervals(found)
    users = float(which.size)
    stages = {
        "ranked": {**ranking_metrics(found), "users": users},
        "retrieval_same_users": {**ranking_metrics(ranks[which]), "users": users},
    }
    return stages, _calibration(asked.model, lists)


def _calibration(model: SavedModel, lists: CandidateLists) -> dict[str, float]:
    """The error of each head's probabilities over the candidates, relative to how often its kind comes at all."""
    network = model.ranker
    logits = ranker_logits(network, lists) * network.slope.numpy() + network.offset.numpy()
    said = 1.0 / (1.0 + np.exp(-logits.astype(np.float64)))
    hit = np.arange(logits.shape[1]) == lists.target_at[:, None]
    counts = head_counts(lists.strengths)
    return {
        name: calibration_error(said[:, :, head].ravel(), (hit & counts[:, head, None]).ravel())
        for head, name in enumerate(HEADS)
    }


def _exact_stage(asked: _Asked) -> dict[str, dict[str, float]]:
    """The ranker over every item, on a sample of users."""
    which = exact_sample(len(asked.split.test_at), len(asked.data.items))
    at = asked.split.test_at[which]
    ranks = exact_ranks(asked.model.ranker, asked.data, at, asked.vectors[which], asked.tables)
    return {"exact": {**ranking_metrics(ranks), "users": float(which.size)}}


def _untied(data: Interactions, split: Split, ranks: Ranks) -> dict[str, float]:
    apart = data.times_s[split.test_at] > data.times_s[split.test_at - 1]
    figures = ranking_metrics(ranks[apart])
    return {"hr10": figures["hr10"], "ndcg10": figures["ndcg10"], "users": float(apart.sum())}
