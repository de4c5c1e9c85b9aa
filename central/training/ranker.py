"""The ranker: DCN-v2 (Wang et al., 2021) over the features of `infra.contracts.features.ranking_features`.

It starts as the retrieval order and leaves it only as far as held-out users confirm: the retrieval score goes around
the cross network, whose head starts at zero, and the epoch that ranks held-out users best is kept, the start included.
"""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from central.training.config import RankerConfig
from central.training.ranking_data import CandidateLists
from central.training.runtime import keras, tf, tfrs
from infra.contracts.features import RANKING_FEATURES, FloatArray
from infra.plumbing.progress import Progress

HEADS: Final = ("click", "like")
HELD_OUT_SHARE: Final = 0.2
CLIP: Final = 5.0
RETRIEVAL_SCORE: Final = RANKING_FEATURES.index("retrieval_score")


class RankerNetwork(tf.Module):  # type: ignore[misc]
    """Standardised features -> crosses -> one hidden layer -> a logit for every head, beside the retrieval score."""

    def __init__(self, *, config: RankerConfig, mean: FloatArray, deviation: FloatArray) -> None:
        super().__init__(name="ranker")
        inputs = mean.size
        self._dropout = config.dropout
        self._score_at = inputs - len(RANKING_FEATURES) + RETRIEVAL_SCORE
        self.mean = tf.Variable(mean, trainable=False, name="mean")
        self.deviation = tf.Variable(deviation, trainable=False, name="deviation")
        self.crosses = [tfrs.layers.dcn.Cross() for _ in range(config.crosses)]
        self.hidden = keras.layers.Dense(config.hidden, activation="relu")
        self.head = keras.layers.Dense(len(HEADS), kernel_initializer="zeros")
        self.linear = keras.layers.Dense(len(HEADS), kernel_initializer="zeros", use_bias=False)
        self.score_weight = tf.Variable(tf.ones([len(HEADS)]), name="score_weight")
        self.slope = tf.Variable(tf.ones([len(HEADS)]), trainable=False, name="slope")
        self.offset = tf.Variable(tf.zeros([len(HEADS)]), trainable=False, name="offset")
        self(tf.zeros([1, inputs]), training=False)  # makes the layers' weights

    def __call__(self, features: Any, *, training: bool) -> Any:
        """Logits `[n, num_heads]` of features `[n, num_inputs]`."""
        level = (features - self.mean) / self.deviation
        score = level[:, self._score_at : self._score_at + 1]
        # What lies far outside of what was learned from must not be squared by every cross.
        level = start = tf.clip_by_value(level, -CLIP, CLIP)
        wide = self.linear(start[:, -len(RANKING_FEATURES) :])
        for cross in self.crosses:
            level = cross(start, level)
        hidden = self.hidden(level)
        if training:
            hidden = tf.nn.dropout(hidden, self._dropout)
        return score * tf.nn.softplus(self.score_weight) + wide + self.head(hidden)

    def probabilities(self, features: Any) -> Any:
        """Calibrated probabilities `[n, num_heads]`; head 0 is the one to rank by."""
        return tf.sigmoid(self(features, training=False) * self.slope + self.offset)


class RankingModel(tfrs.Model):  # type: ignore[misc]
    """Listwise softmax over the candidates of one query, for each head (Cao et al., 2007)."""

    def __init__(self, *, network: RankerNetwork, frozen: list[Any]) -> None:
        super().__init__()
        self.network = network
        self._frozen = {id(variable) for variable in frozen}
        self._task = tfrs.tasks.Ranking(
            loss=keras.losses.CategoricalCrossentropy(from_logits=True, reduction=keras.losses.Reduction.SUM)
        )

    @property
    def trainable_variables(self) -> list[Any]:
        """What this phase trains."""
        return [variable for variable in self.network.trainable_variables if id(variable) not in self._frozen]

    def compute_loss(self, inputs: Any, training: bool = False) -> Any:  # noqa: FBT001, FBT002 (of tfrs.Model)
        """Mean over lists and heads; the like head learns from liked targets only."""
        features, target_at, liked = inputs
        lists, width = tf.shape(features)[0], features.shape[1]
        logits = self.network(tf.reshape(features, [-1, features.shape[2]]), training=training)
        logits = tf.reshape(logits, [-1, width, len(HEADS)])
        labels = tf.one_hot(target_at, width)
        click = self._task(labels, logits[:, :, 0], compute_metrics=False)
        like = self._task(labels, logits[:, :, 1], sample_weight=liked, compute_metrics=False)
        return (click + 0.5 * like) / tf.cast(lists, tf.float32)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedRanker:
    """The network and how it does on users it has not learned from, over the same candidates, NDCG@10."""

    network: RankerNetwork
    held_out_ndcg10: float
    held_out_retrieval_ndcg10: float
    epochs: int


def train_ranker(
    learn: CandidateLists, held_out: CandidateLists, config: RankerConfig, *, progress: Progress
) -> TrainedRanker:
    """Trains on `learn` (targets inserted), keeps what ranks `held_out` best and calibrates on it."""
    keras.utils.set_random_seed(config.seed)
    network = RankerNetwork(config=config, **_moments(learn.features))
    kept = _Best(network=network, held_out=held_out)
    start = kept.ndcg
    rng = np.random.default_rng(config.seed)
    # The few linear weights first: the cross network would learn a small dataset by heart before they have moved.
    linear = {id(variable) for variable in (*network.linear.trainable_variables, network.score_weight)}
    wide = [variable for variable in network.trainable_variables if id(variable) in linear]
    deep = [variable for variable in network.trainable_variables if id(variable) not in linear]
    epochs = 0
    for rate, frozen in ((config.linear_rate, deep), (config.learning_rate, wide)):
        step = _step(network, config, rate, frozen)
        for _ in range(config.epochs):
            for which in _batches(len(learn), config.batch_lists, rng):
                part = learn.take(which)
                step((tf.constant(part.features), tf.constant(part.target_at), tf.constant(part.liked, tf.float32)))
            epochs += 1
            progress.advance(epochs, 2 * config.epochs, "training the ranker")
            if kept.look() > config.patience:
                break
        kept.restore()
        epochs = config.epochs * (1 + (frozen is wide))
        progress.advance(epochs, 2 * config.epochs, "training the ranker")
    calibrate(network, held_out)
    return TrainedRanker(network=network, held_out_ndcg10=kept.ndcg, held_out_retrieval_ndcg10=start, epochs=kept.looks)


class _Best:
    """Keeps the weights that rank the held-out users best, the start included."""

    def __init__(self, *, network: RankerNetwork, held_out: CandidateLists) -> None:
        self._network, self._held_out = network, held_out
        self._weights = [variable.numpy() for variable in network.trainable_variables]
        self._since = 0
        self.ndcg = held_out_ndcg(network, held_out)
        self.looks = 0

    def look(self) -> int:
        """Looks at the network as it is now; returns how many looks ago it was best."""
        found = held_out_ndcg(self._network, self._held_out)
        self.looks += 1
        self._since += 1
        if found > self.ndcg:
            self.ndcg, self._since = found, 0
            self._weights = [variable.numpy() for variable in self._network.trainable_variables]
        return self._since

    def restore(self) -> None:
        """Puts the best weights back."""
        self._since = 0
        for variable, value in zip(self._network.trainable_variables, self._weights, strict=True):
            variable.assign(value)


def _step(network: RankerNetwork, config: RankerConfig, rate: float, frozen: list[Any]) -> Any:
    """A training step that leaves `frozen` alone."""
    model = RankingModel(network=network, frozen=frozen)
    model.compile(optimizer=keras.optimizers.AdamW(rate, weight_decay=config.weight_decay, jit_compile=False))
    return tf.function(model.train_step, autograph=False, reduce_retracing=True)


def ranked_places(network: RankerNetwork, lists: CandidateLists) -> npt.NDArray[np.int64]:
    """`[queries, candidates]`: places of each list in the ranker's order, best first, ties in retrieval order."""
    logits = _logits(network, lists)[:, :, 0]
    return np.argsort(-logits, axis=1, kind="stable")


def held_out_ndcg(network: RankerNetwork, lists: CandidateLists) -> float:
    """NDCG@10 of the ranker's order; a target that retrieval missed counts as 0."""
    places = ranked_places(network, lists)
    found = np.argmax(places == lists.target_at[:, None], axis=1) + 1
    hit = (lists.target_at >= 0) & (found <= 10)
    return float(np.where(hit, 1.0 / np.log2(found + 1.0), 0.0).mean()) if len(lists) else 0.0


def calibrate(network: RankerNetwork, lists: CandidateLists) -> None:
    """Platt scaling (1999) of every head on candidates as they come from retrieval, without inserted targets."""
    logits = _logits(network, lists)
    hit = np.arange(logits.shape[1]) == lists.target_at[:, None]
    labels = np.stack([hit, hit & lists.liked[:, None]], axis=2)
    for head in range(len(HEADS)):
        slope, offset = fit_platt(logits[:, :, head].ravel().astype(np.float64), labels[:, :, head].ravel())
        network.slope[head].assign(slope)
        network.offset[head].assign(offset)


def fit_platt(logits: npt.NDArray[np.float64], labels: npt.NDArray[np.bool_]) -> tuple[float, float]:
    """Slope (positive) and offset that make sigmoid(slope * logit + offset) a probability; Newton's method."""
    positives = int(labels.sum())
    rate = (positives + 1.0) / (labels.size + 2.0)  # Platt's smoothed targets: no certainty from few examples
    goal = np.where(labels, (positives + 1.0) / (positives + 2.0), 1.0 / (labels.size - positives + 2.0))
    weights = np.array([1.0, np.log(rate / (1.0 - rate)) - float(logits.mean())])
    design = np.stack([logits, np.ones_like(logits)], axis=1)
    for _ in range(50):
        probability = 1.0 / (1.0 + np.exp(-np.clip(design @ weights, -30.0, 30.0)))
        curvature = (design * (probability * (1.0 - probability))[:, None]).T @ design + 1e-6 * np.eye(2)
        change = np.linalg.solve(curvature, design.T @ (probability - goal))
        weights -= np.clip(change, -2.0, 2.0)
        if np.abs(change).max() < 1e-8:
            break
    # The order must survive calibration, whatever little the examples say.
    return max(float(weights[0]), 1e-3), float(weights[1])


def _logits(network: RankerNetwork, lists: CandidateLists, chunk: int = 256) -> FloatArray:
    width, inputs = lists.features.shape[1:]
    parts = [
        network(tf.constant(lists.features[at : at + chunk].reshape(-1, inputs)), training=False).numpy()
        for at in range(0, len(lists), chunk)
    ]
    logits: FloatArray = np.concatenate(parts).reshape(-1, width, len(HEADS))
    return logits


def _moments(features: FloatArray) -> dict[str, FloatArray]:
    flat = features.reshape(-1, features.shape[-1])
    deviation = flat.std(axis=0)
    return {"mean": flat.mean(axis=0), "deviation": np.where(deviation > 1e-6, deviation, 1.0).astype(np.float32)}


def _batches(total: int, size: int, rng: np.random.Generator) -> list[npt.NDArray[np.int64]]:
    order = rng.permutation(total)
    return [order[at : at + size] for at in range(0, total, size)]
