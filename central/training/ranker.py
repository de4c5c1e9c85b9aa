"""The ranker: DCN-v2 (Wang et al., 2021) over the features of `infra.contracts.features.ranking_features`.

It starts as the retrieval order and leaves it only as far as held-out users confirm: the retrieval score goes around
the cross network, whose head starts at zero, and the epoch that ranks held-out users best is kept, the start included.
"""

from typing import Any, Final

import numpy as np

from central.training.config import LISTWISE, PAIRWISE, RankerConfig
from central.training.runtime import keras, tf, tfrs
from infra.contracts.features import RANKING_FEATURES, FloatArray

HEADS: Final = ("click", "long_view", "dislike")
"""What follows the impression: anything; something liked, bought or watched to the end; a dislike. The first ranks."""
HEAD_WEIGHTS: Final = (1.0, 0.3, 0.1)
"""Shares of the heads in the loss: the order comes from the first."""
CLIP: Final = 5.0
RETRIEVAL_SCORE: Final = RANKING_FEATURES.index("retrieval_score")


class RankerNetwork(tf.Module):  # type: ignore[misc]
    """Standardised features -> crosses -> one hidden layer -> a logit for every head, beside the retrieval score."""

    def __init__(self, *, config: RankerConfig, mean: FloatArray, deviation: FloatArray) -> None:
        super().__init__(name="ranker")
        self._dropout = config.dropout
        self.mean = tf.Variable(mean, trainable=False, name="mean")
        self.deviation = tf.Variable(deviation, trainable=False, name="deviation")
        # Keras numbers layers through the process, and an export carries the numbers: begin anew, or it would depend on
        # what was built before.
        keras.backend.reset_uids()
        self.crosses = [tfrs.layers.dcn.Cross(name=f"cross_{number}") for number in range(config.crosses)]
        self.hidden = keras.layers.Dense(config.hidden, activation="relu", name="hidden")
        self.head = keras.layers.Dense(len(HEADS), kernel_initializer="zeros", name="head")
        self.linear = keras.layers.Dense(len(HEADS), kernel_initializer="zeros", use_bias=False, name="linear")
        self.score_weight = tf.Variable(tf.ones([len(HEADS)]), name="score_weight")
        self.slope = tf.Variable(tf.ones([len(HEADS)]), trainable=False, name="slope")
        self.offset = tf.Variable(tf.zeros([len(HEADS)]), trainable=False, name="offset")
        self(tf.zeros([1, mean.size]), training=False)  # makes the layers' weights

    def __call__(self, features: Any, *, training: bool) -> Any:
        """Logits `[n, num_heads]` of features `[n, num_inputs]`."""
        level = start = self._clipped(features)
        for cross in self.crosses:
            level = cross(start, level)
        hidden = self.hidden(level)
        if training:
            hidden = tf.nn.dropout(hidden, self._dropout)
        return self.wide(features) + self.head(hidden)

    def wide(self, features: Any) -> Any:
        """The part of the logits that is linear in the features, `[n, num_heads]`: all there is at the start."""
        score = ((features - self.mean) / self.deviation)[:, RETRIEVAL_SCORE : RETRIEVAL_SCORE + 1]
        return score * tf.nn.softplus(self.score_weight) + self.linear(self._clipped(features))

    def _clipped(self, features: Any) -> Any:
        # What lies far outside of what was learned from must not be squared by every cross.
        return tf.clip_by_value((features - self.mean) / self.deviation, -CLIP, CLIP)

    def probabilities(self, features: Any) -> Any:
        """Calibrated probabilities `[n, num_heads]`; head 0 is the one to rank by."""
        return tf.sigmoid(self(features, training=False) * self.slope + self.offset)

    def wide_variables(self) -> list[Any]:
        """The few linear weights, which are trained first."""
        return [*self.linear.trainable_variables, self.score_weight]


class RankingModel(tfrs.Model):  # type: ignore[misc]
    """The network under one loss over the candidates of a query, for each head; trains `variables` only.

    `wide_only`: the linear part alone is asked, as long as the cross network says nothing.
    """

    def __init__(
        self, *, network: RankerNetwork, loss: str, variables: list[Any], wide_only: bool = False
    ) -> None:  # fmt: skip
        super().__init__()
        self._wide_only = wide_only
        self.network = network
        self._variables_trained = variables
        self._loss = {LISTWISE: _listwise, PAIRWISE: _pairwise}.get(loss, _pointwise)
        self._task = tfrs.tasks.Ranking(loss=_Sum())

    @property
    def trainable_variables(self) -> list[Any]:
        """What this phase trains."""
        return self._variables_trained

    def compute_loss(self, inputs: Any, training: bool = False) -> Any:  # noqa: FBT001, FBT002 (of tfrs.Model)
        """Mean over lists, heads weighted; a head learns from the lists whose target is of its kind.

        `inputs`: features `[lists, width, num_inputs]`, place of the target `[lists]`, and `[lists, num_heads]`, 1
        where the target counts for the head.
        """
        features, target_at, counts = inputs
        lists, width = tf.shape(features)[0], features.shape[1]
        flat = tf.reshape(features, [-1, features.shape[2]])
        logits = self.network.wide(flat) if self._wide_only else self.network(flat, training=training)
        logits = tf.reshape(logits, [-1, width, len(HEADS)])
        labels = tf.one_hot(target_at, width)
        total = 0.0
        for head, share in enumerate(HEAD_WEIGHTS):
            each = self._loss(labels, logits[:, :, head], counts[:, head])
            total += share * self._task(tf.zeros_like(each), each, compute_metrics=False)
        return total / tf.cast(lists, tf.float32)


class _Sum(keras.losses.Loss):  # type: ignore[misc]
    """Sums losses that were computed already: the one place where a list's loss is more than a label's."""

    def __init__(self) -> None:
        super().__init__(reduction=keras.losses.Reduction.SUM)

    def call(self, _zeros: Any, losses: Any) -> Any:
        return losses


def _listwise(labels: Any, logits: Any, counts: Any) -> Any:
    """Softmax over the list (Cao et al., 2007): `[lists]`."""
    return counts * tf.nn.softmax_cross_entropy_with_logits(labels, logits)


def _pairwise(labels: Any, logits: Any, counts: Any) -> Any:
    """Logistic over (target, other) pairs (Burges et al., 2005; Rendle et al., 2009): `[lists]`."""
    target = tf.reduce_sum(labels * logits, axis=1, keepdims=True)
    return counts * tf.reduce_mean((1.0 - labels) * tf.nn.softplus(logits - target), axis=1)


def _pointwise(labels: Any, logits: Any, counts: Any) -> Any:
    """Each candidate for itself, shown or taken; a list whose target does not count has no positive: `[lists]`."""
    goal = labels * counts[:, None]
    # A softmax is blind to a shift of the whole list, a sigmoid is not: the list's length is the bias to start from.
    bias = tf.math.log(tf.cast(tf.shape(logits)[1], tf.float32))
    return tf.reduce_sum(tf.nn.sigmoid_cross_entropy_with_logits(goal, logits - bias), axis=1)


def moments(features: FloatArray) -> dict[str, FloatArray]:
    """Mean and deviation of every feature over all candidates of all lists."""
    flat = features.reshape(-1, features.shape[-1])
    deviation = flat.std(axis=0)
    return {"mean": flat.mean(axis=0), "deviation": np.where(deviation > 1e-6, deviation, 1.0).astype(np.float32)}
