"""The ranker learns what the retrieval score does not know, with every loss, and is calibrated."""

from dataclasses import replace

import numpy as np
import pytest

from central.training.calibration import calibration_error
from central.training.config import RANKER_LOSSES, RankerConfig
from central.training.ranker import HEADS, RETRIEVAL_SCORE, RankerNetwork, moments
from central.training.ranking import (
    FOUND_MIN,
    _honest,
    calibrate,
    fit_linear,
    head_counts,
    held_out_ndcg,
    linear_helps,
    ranker_logits,
    train_ranker,
)
from central.training.ranking_data import CandidateLists
from infra.contracts.features import RANKING_FEATURES
from infra.plumbing.progress import SilentProgress

WIDTH = 12
SECRET = RANKING_FEATURES.index("ease")


def lists_of(count: int, seed: int, *, secret_weight: float = 2.0) -> CandidateLists:
    """Targets drawn from a softmax over the retrieval score and one more feature."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(count, WIDTH, len(RANKING_FEATURES))).astype(np.float32)
    order = np.argsort(-features[:, :, RETRIEVAL_SCORE], axis=1)
    features = np.take_along_axis(features, order[:, :, None], axis=1)
    utility = features[:, :, RETRIEVAL_SCORE] + secret_weight * features[:, :, SECRET]
    target_at = np.argmax(utility + rng.gumbel(size=utility.shape), axis=1)
    return CandidateLists(
        rows=np.tile(np.arange(WIDTH, dtype=np.int32), (count, 1)), features=features, target_at=target_at,
        learn_at=target_at, strengths=rng.integers(1, 6, count).astype(np.int32),
    )  # fmt: skip


@pytest.mark.parametrize("loss", RANKER_LOSSES)
def test_every_loss_finds_what_retrieval_does_not_know(loss: str) -> None:
    learn, held_out, fresh = lists_of(300, 0), lists_of(100, 1), lists_of(300, 2)
    trained = train_ranker(learn, held_out, RankerConfig(loss=loss, epochs=8), progress=SilentProgress())
    assert trained.held_out_ndcg10 > 1.3 * trained.held_out_retrieval_ndcg10
    assert trained.epochs[0] >= 1
    assert held_out_ndcg(trained.network, fresh) == pytest.approx(trained.held_out_ndcg10, abs=0.08)


def test_the_linear_weights_are_brought_to_where_they_came_from() -> None:
    """Targets are drawn from a softmax over one and two times a feature: these are the weights that are found."""
    lists, config = lists_of(1500, 0), RankerConfig()
    network = RankerNetwork(config=config, **moments(lists.features))
    assert fit_linear(network, lists, config) > 1
    click = HEADS.index("click")
    level = np.zeros((3, len(RANKING_FEATURES)), dtype=np.float32)
    level[1, RETRIEVAL_SCORE], level[2, SECRET] = 1.0, 1.0
    none, score, secret = network.wide(level * network.deviation + network.mean).numpy()[:, click]
    assert score - none == pytest.approx(1.0, abs=0.15)
    assert secret - none == pytest.approx(2.0, abs=0.2)
    assert fit_linear(network, lists, config) <= 3  # there already


def test_where_there_is_nothing_to_learn_the_retrieval_order_stays() -> None:
    learn, held_out = lists_of(60, 0, secret_weight=0.0), lists_of(60, 1, secret_weight=0.0)
    trained = train_ranker(learn, held_out, RankerConfig(epochs=2), progress=SilentProgress())
    assert trained.epochs[0] == 0
    assert trained.held_out_ndcg10 >= trained.held_out_retrieval_ndcg10


def test_a_few_held_out_users_do_not_talk_the_linear_weights_away() -> None:
    """What helps by all users is taken, also where the few that are held out would have it otherwise."""
    learn, config = lists_of(400, 0), RankerConfig(epochs=1)
    odd = lists_of(40, 1, secret_weight=-2.0)
    trained = train_ranker(learn, odd, config, progress=SilentProgress())
    assert trained.epochs[0] >= 1
    fresh = lists_of(400, 2)
    untrained = RankerNetwork(config=config, **moments(fresh.features))
    assert held_out_ndcg(trained.network, fresh) > held_out_ndcg(untrained, fresh)


def test_a_handful_of_users_is_enough_to_try_and_fewer_are_not() -> None:
    assert linear_helps(lists_of(40, 0), RankerConfig())
    assert not linear_helps(lists_of(3, 0), RankerConfig())


def test_targets_that_retrieval_missed_do_not_teach_that_a_low_score_is_good() -> None:
    """Most lists end in a target that was put there: the order learned is that of the others."""
    clean, held_out, fresh = (lists_of(300, seed, secret_weight=0.5) for seed in (0, 1, 2))
    missed = lists_of(900, 3, secret_weight=0.0)
    missed = replace(missed, target_at=np.full(900, -1), learn_at=np.full(900, WIDTH - 1))
    config = RankerConfig(epochs=6)
    trained = train_ranker(clean.joined(missed), held_out, config, progress=SilentProgress())
    alone = train_ranker(clean, held_out, config, progress=SilentProgress())
    assert held_out_ndcg(trained.network, fresh) == pytest.approx(held_out_ndcg(alone.network, fresh), abs=0.02)
    few = missed.joined(clean.take(np.arange(FOUND_MIN - 1)))
    assert len(_honest(few)) == len(few)  # better than nothing to learn from


def test_every_head_says_how_often_its_kind_comes() -> None:
    fresh = lists_of(600, 3)
    trained = train_ranker(lists_of(400, 0), lists_of(800, 1), RankerConfig(epochs=4), progress=SilentProgress())
    said = trained.network.probabilities(fresh.features.reshape(-1, len(RANKING_FEATURES))).numpy()
    said = said.reshape(len(fresh), WIDTH, len(HEADS)).astype(np.float64)
    hit = np.arange(WIDTH) == fresh.target_at[:, None]
    for head in range(len(HEADS)):
        labels = hit & head_counts(fresh.strengths)[:, head, None]
        # A logistic curve over single logits cannot know the rest of the list; twelve candidates make that felt.
        assert calibration_error(said[:, :, head].ravel(), labels.ravel()) < 0.35, HEADS[head]
        assert said[:, :, head].sum() == pytest.approx(labels.sum(), rel=0.2), HEADS[head]


def test_a_head_without_examples_says_next_to_nothing() -> None:
    lists = lists_of(50, 0)
    silent = CandidateLists(
        rows=lists.rows, features=lists.features, target_at=lists.target_at, learn_at=lists.learn_at,
        strengths=np.full(50, 3, dtype=np.int32),
    )  # fmt: skip
    trained = train_ranker(silent, silent, RankerConfig(epochs=1), progress=SilentProgress())
    said = trained.network.probabilities(silent.features.reshape(-1, len(RANKING_FEATURES))).numpy()
    assert said[:, HEADS.index("dislike")].max() < 0.1


def test_calibration_leaves_out_what_was_inserted() -> None:
    lists = lists_of(80, 0)
    missed = CandidateLists(
        rows=lists.rows, features=lists.features, target_at=np.full(80, -1), learn_at=lists.learn_at,
        strengths=lists.strengths,
    )  # fmt: skip
    network = RankerNetwork(config=RankerConfig(), **moments(lists.features))
    assert ranker_logits(network, lists).shape == (80, WIDTH, len(HEADS))
    assert calibrate(network, missed)[0][1] < calibrate(network, lists)[0][1]


def test_the_calibration_error_is_zero_where_the_rate_is_said_and_one_where_nothing_is() -> None:
    labels = np.tile([True] + [False] * 9, 150)
    assert calibration_error(np.full(1500, 0.1), labels) == pytest.approx(0.0, abs=1e-9)
    assert calibration_error(np.zeros(1500), labels) == pytest.approx(1.0)
    assert calibration_error(np.zeros(10), np.zeros(10, dtype=np.bool_)) == 0.0
