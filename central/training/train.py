"""One training run: towers, then the ranker on what the towers retrieve."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from central.datasets.interactions import Interactions, Split
from central.training.checkpoint import Checkpoint
from central.training.config import ModelCard, RankerConfig, RetrievalConfig, SearchReport
from central.training.ease import choose_penalty
from central.training.light import LIGHT_USERS_MAX, LIGHT_USERS_MIN, distil, pool_for, ranker_scores
from central.training.ranking import TrainedRanker, train_ranker
from central.training.ranking_data import LISTS_MAX, candidate_lists, list_width
from central.training.retrieval import TrainedRetrieval, encode_histories, train_retrieval
from central.training.saved import SavedModel, save_model
from central.training.tables import item_tables
from central.training.team import Team
from central.training.towers import catalogue_vectors
from central.training.windows import event_table
from infra.contracts.features import ItemTables
from infra.contracts.release import LightRanker
from infra.plumbing.clock import Clock
from infra.plumbing.progress import Progress

HELD_OUT_SHARE: Final = 0.2
"""Of the validation interactions: what the ranker is checked and calibrated on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What to train: sizes of both stages, the split and the wall time of the towers."""

    retrieval: RetrievalConfig
    ranker: RankerConfig
    protocol: str
    ties: str = "file"
    minutes: float | None = None
    search: SearchReport | None = None


def train_model(
    data: Interactions, split: Split, recipe: Recipe, out: Path, *, clock: Clock, progress: Progress,
    team: Team | None = None,
) -> ModelCard:  # fmt: skip
    """Trains both stages and writes the model folder to `out`, whole or not at all.

    A run that was killed goes on from its last epoch when it is begun again with the same arguments.

    Nothing in it has seen a test interaction; the ranker alone has seen the validation interactions.
    """
    checkpoint = checkpoint_of(data, recipe, out)
    towers = train_retrieval(
        data, split, recipe.retrieval, clock=clock, progress=progress, minutes=recipe.minutes, checkpoint=checkpoint,
        team=team,
    )  # fmt: skip
    begun = clock.monotonic_s()
    penalty = choose_penalty(data, split.train_ends, split.valid_at, seed=recipe.retrieval.seed)
    tables = item_tables(data, split.train_ends, catalogue_vectors(towers.model.items), ease_penalty=penalty)
    ranker = _train_ranker(data, split, towers, tables, recipe.ranker, progress)
    card = ModelCard(
        dataset=data.card.name, dataset_sha256=data.card.sha256, ties=recipe.ties, protocol=recipe.protocol,
        retrieval=recipe.retrieval, ranker=recipe.ranker, epochs=towers.epochs, curve=tuple(towers.curve),
        train_s=round(towers.train_s + clock.monotonic_s() - begun, 3), retrieval_train_s=round(towers.train_s, 3),
        ease_penalty=penalty, ranker_epochs=ranker.epochs,
        search=recipe.search, light=_light(data, split, towers, tables, ranker),
        ranker_held_out_ndcg10=ranker.held_out_ndcg10, retrieval_held_out_ndcg10=ranker.held_out_retrieval_ndcg10,
    )  # fmt: skip
    save_model(SavedModel(card=card, towers=towers.model, ranker=ranker.network), out)
    checkpoint.remove()
    return card


def checkpoint_of(data: Interactions, recipe: Recipe, out: Path) -> Checkpoint:
    """Where the run of `recipe` for the model folder `out` keeps what a killed one goes on from."""
    return Checkpoint.beside(out, data.card.sha256, recipe.retrieval, recipe.protocol, recipe.ties, recipe.minutes)


def help_training(
    data: Interactions, split: Split, recipe: Recipe, out: Path, *, team: Team, clock: Clock, progress: Progress
) -> int:  # fmt: skip
    """What a worker of a team does that is not the first: its part of every step of the towers; returns the epochs."""
    checkpoint = checkpoint_of(data, recipe, out)
    return train_retrieval(
        data, split, recipe.retrieval, clock=clock, progress=progress, checkpoint=checkpoint, team=team
    ).epochs  # fmt: skip


def _train_ranker(
    data: Interactions, split: Split, towers: TrainedRetrieval, tables: ItemTables, config: RankerConfig,
    progress: Progress,
) -> TrainedRanker:  # fmt: skip
    events = event_table(data)
    width = list_width(data, split.valid_at)
    lists = []
    for at in _two_parts(split.valid_at, config.seed):
        vectors = encode_histories(towers.model, events, data.starts[:-1], at, data.users)
        lists.append(candidate_lists(data, at, vectors, tables, insert_target=True, width=width))
    return train_ranker(lists[0], lists[1], config, progress=progress)


def _light(
    data: Interactions, split: Split, towers: TrainedRetrieval, tables: ItemTables, ranker: TrainedRanker
) -> LightRanker | None:  # fmt: skip
    """L1, distilled from the ranker on other validation users than it is then tried on."""
    at = np.random.default_rng(0).permutation(split.valid_at)[:LIGHT_USERS_MAX]
    if at.size < LIGHT_USERS_MIN:
        return None
    vectors = encode_histories(towers.model, event_table(data), data.starts[:-1], at, data.users)
    pools = [pool_for(data, int(place), vectors[line], tables) for line, place in enumerate(at)]
    scores = [ranker_scores(ranker.network, pool, tables) for pool in pools]
    return distil(pools, scores, tables)


def _two_parts(at: npt.NDArray[np.int64], seed: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Interactions to learn from and interactions of other users to check on, LISTS_MAX together at most."""
    order = np.random.default_rng(seed).permutation(at)[:LISTS_MAX]
    held_out = max(1, round(order.size * HELD_OUT_SHARE))
    return np.sort(order[held_out:]), np.sort(order[:held_out])
