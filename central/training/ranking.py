"""Trains the ranker on candidate lists, keeps what held-out users confirm, calibrates it on them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize

from central.training.calibration import fit_platt
from central.training.config import RankerConfig
from central.training.ranker import HEADS, RankerNetwork, RankingModel, moments
from central.training.ranking_data import CandidateLists
from central.training.runtime import keras, tf
from infra.contracts.features import FloatArray
from infra.plumbing.progress import Progress

LOGITS_CHUNK: Final = 256
LINEAR_ITERATIONS_MAX: Final = 60
FOLDS: Final = 4
FOUND_MIN: Final = 64
"""Lists with a target that retrieval found; with fewer, inserted targets are better than nothing to learn from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedRanker:
    """The network, and how it did on users it had not learned from, over the same candidates, NDCG@10."""

    network: RankerNetwork
    held_out_ndcg10: float
    held_out_retrieval_ndcg10: float
    epochs: tuple[int, int]
    """Iterations of the linear weights (0: they help nobody new), and then epochs of the cross network."""


def train_ranker(
    learn: CandidateLists, held_out: CandidateLists, config: RankerConfig, *, progress: Progress
) -> TrainedRanker:
    """Trains on `learn`, counts how many epochs rank `held_out` best, and trains as long on both.

    Both have their targets inserted where retrieval missed them; figures and calibration count the targets that
    retrieval found, and only their lists are learned from, where there are enough: a target that was put at the end of
    its list teaches that a low retrieval score is a good sign, and on sparse data four of ten are. The two numbers of a
    head's calibration are fitted on all lists: the scale of the logits is the final network's own, and its few hundred
    weights, stopped by held-out users, do not know the lists by heart.
    """
    keras.utils.set_random_seed(config.seed)
    taught, everything = _honest(learn), learn.joined(held_out)
    network = RankerNetwork(config=config, **moments(taught.features))
    start = held_out_ndcg(network, held_out)
    told = _Told(progress, total=2 * (config.epochs + 1))
    epochs = _search(network, taught, held_out, config, told, linear=linear_helps(everything, config))
    found = held_out_ndcg(network, held_out)
    final = _train_as_long(_honest(everything), config, epochs, told) if any(epochs) else network
    for head, (slope, offset) in enumerate(calibrate(final, everything)):
        final.slope[head].assign(slope)
        final.offset[head].assign(offset)
    told.finish()
    return TrainedRanker(network=final, held_out_ndcg10=found, held_out_retrieval_ndcg10=start, epochs=epochs)


def _honest(lists: CandidateLists) -> CandidateLists:
    """The lists whose target stands where retrieval put it; all of them where these are fewer than FOUND_MIN."""
    found = np.flatnonzero(lists.target_at >= 0)
    return lists.take(found) if found.size >= FOUND_MIN else lists


class _Told:
    """Counts epochs for a progress bar whose end is only known as a bound."""

    def __init__(self, progress: Progress, *, total: int) -> None:
        self._progress, self._total, self._done = progress, total, 0

    def __call__(self) -> None:
        self._done += 1
        self._progress.advance(min(self._done, self._total - 1), self._total, "training the ranker")

    def finish(self) -> None:
        self._progress.advance(self._total, self._total, "training the ranker")


def linear_helps(lists: CandidateLists, config: RankerConfig) -> bool:
    """Whether the linear weights help users whom they were not learned from: cross-fitted over FOLDS parts of all.

    By more than a standard error of the mean gain in NDCG@10: what a few users gain by such weights is chance. All have
    their say: by a fifth of MovieLens 1M's users (1,208) .0085 on the test users once did not show at all.
    """
    if len(lists) < FOLDS:
        return False
    order = np.random.default_rng(config.seed).permutation(len(lists))
    gains = []
    for fold in range(FOLDS):
        apart = order[fold::FOLDS]
        taught, asked = _honest(lists.take(np.setdiff1d(order, apart))), lists.take(apart)
        network = RankerNetwork(config=config, **moments(taught.features))
        before = _ndcg(network, asked)
        fit_linear(network, taught, config)
        gains.append(_ndcg(network, asked) - before)
    gain = np.concatenate(gains)
    return bool(gain.mean() > gain.std() / np.sqrt(gain.size))


def _search(
    network: RankerNetwork, learn: CandidateLists, held_out: CandidateLists, config: RankerConfig, told: _Told, *,
    linear: bool,
) -> tuple[int, int]:  # fmt: skip
    """Trains `network`, leaves the weights in it that rank `held_out` best; returns the steps of both phases.

    The few `linear` weights first, where they help: the cross network would learn a small dataset by heart before they
    have moved.
    """
    iterations = fit_linear(network, learn, config) if linear else 0
    told()
    kept = _Best(network=network, held_out=held_out)
    best, chosen = kept.ndcg, 0
    rng = np.random.default_rng(config.seed)
    train_epoch = _deep_phase(network, config)
    for epoch in range(1, config.epochs + 1):
        train_epoch(learn, rng)
        told()
        since = kept.look()
        if kept.ndcg > best:
            best, chosen = kept.ndcg, epoch
        if since > config.patience:
            break
    kept.restore()
    return iterations, chosen


def _train_as_long(lists: CandidateLists, config: RankerConfig, epochs: tuple[int, int], told: _Told) -> RankerNetwork:
    keras.utils.set_random_seed(config.seed)
    network = RankerNetwork(config=config, **moments(lists.features))
    if epochs[0]:
        fit_linear(network, lists, config)
        told()
    rng = np.random.default_rng(config.seed)
    train_epoch = _deep_phase(network, config)
    for _ in range(epochs[1]):
        train_epoch(lists, rng)
        told()
    return network


def fit_linear(network: RankerNetwork, lists: CandidateLists, config: RankerConfig) -> int:
    """Brings the few linear weights to where the loss over all lists is least (L-BFGS); returns the iterations.

    A few dozen weights under a convex loss: what minibatches and the choice of an epoch would leave to chance, a
    thousandth or two of NDCG, is there to be had.
    """
    variables = network.wide_variables()
    model = RankingModel(network=network, loss=config.loss, variables=variables, wide_only=True)
    counts = head_counts(lists.strengths).astype(np.float32)
    whole = (lists.features, lists.learn_at, counts)
    chunks = [
        tuple(tf.constant(column[at : at + LOGITS_CHUNK]) for column in whole)
        for at in range(0, len(lists), LOGITS_CHUNK)
    ]
    shrunk = np.concatenate([np.full(int(tf.size(one)), float(one.shape.rank > 1)) for one in variables])

    @tf.function(autograph=False, reduce_retracing=True)  # type: ignore[untyped-decorator]
    def summed(*chunk: Any) -> Any:
        with tf.GradientTape() as tape:
            loss = model.compute_loss(chunk) * tf.cast(tf.shape(chunk[0])[0], tf.float32)
        return loss, tape.gradient(loss, variables)

    def objective(weights: npt.NDArray[np.float64]) -> tuple[float, npt.NDArray[np.float64]]:
        _put(variables, weights)
        value, slope = config.prior * float(shrunk @ weights**2), 2.0 * config.prior * shrunk * weights
        for chunk in chunks:
            loss, gradients = summed(*chunk)
            value += float(loss)
            slope = slope + _flat(gradients)
        return value / len(lists), slope / len(lists)

    options = {"maxiter": LINEAR_ITERATIONS_MAX}
    found: Any = minimize(objective, _flat(variables), jac=True, method="L-BFGS-B", options=options)
    _put(variables, found.x)
    return int(found.nit)


def _flat(tensors: list[Any]) -> npt.NDArray[np.float64]:
    flat: npt.NDArray[np.float64] = np.concatenate([tensor.numpy().ravel() for tensor in tensors]).astype(np.float64)
    return flat


def _put(variables: list[Any], weights: npt.NDArray[np.float64]) -> None:
    at = 0
    for variable in variables:
        size = int(tf.size(variable))
        variable.assign(weights[at : at + size].reshape(variable.shape))
        at += size


def _deep_phase(
    network: RankerNetwork, config: RankerConfig
) -> Callable[[CandidateLists, np.random.Generator], None]:  # fmt: skip
    """One epoch of the cross network, the linear weights left as they are."""
    wide = {id(variable) for variable in network.wide_variables()}
    variables = [variable for variable in network.trainable_variables if id(variable) not in wide]
    model = RankingModel(network=network, loss=config.loss, variables=variables)
    model.compile(
        optimizer=keras.optimizers.AdamW(config.learning_rate, weight_decay=config.weight_decay, jit_compile=False)
    )
    step = tf.function(model.train_step, autograph=False, reduce_retracing=True)

    def train_epoch(lists: CandidateLists, rng: np.random.Generator) -> None:
        order = rng.permutation(len(lists))
        for at in range(0, len(lists), config.batch_lists):
            part = lists.take(order[at : at + config.batch_lists])
            counts = head_counts(part.strengths).astype(np.float32)
            step((tf.constant(part.features), tf.constant(part.learn_at), tf.constant(counts)))

    return train_epoch


class _Best:
    """Keeps the weights that rank the held-out users best, the start included."""

    def __init__(self, *, network: RankerNetwork, held_out: CandidateLists) -> None:
        self._network, self._held_out = network, held_out
        self._weights = [variable.numpy() for variable in network.trainable_variables]
        self._since = 0
        self.ndcg = held_out_ndcg(network, held_out)

    def look(self) -> int:
        """Looks at the network as it is now; returns how many looks ago it was best."""
        found = held_out_ndcg(self._network, self._held_out)
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


def head_counts(strengths: npt.NDArray[np.int32]) -> npt.NDArray[np.bool_]:
    """`[lists, num_heads]`: whether a target of this strength counts for the head; see `event_strength`."""
    return np.stack([strengths > 0, strengths >= LONG_VIEW_STRENGTH_MIN, strengths == DISLIKE_STRENGTH], axis=1)


LONG_VIEW_STRENGTH_MIN: Final = 4
DISLIKE_STRENGTH: Final = 1


def ranked_places(network: RankerNetwork, lists: CandidateLists) -> npt.NDArray[np.int64]:
    """`[queries, candidates]`: places of each list in the ranker's order, best first, ties in retrieval order."""
    return np.argsort(-ranker_logits(network, lists)[:, :, 0], axis=1, kind="stable")


def held_out_ndcg(network: RankerNetwork, lists: CandidateLists) -> float:
    """NDCG@10 of the ranker's order; a target that retrieval missed counts as 0."""
    return float(_ndcg(network, lists).mean()) if len(lists) else 0.0


def _ndcg(network: RankerNetwork, lists: CandidateLists) -> npt.NDArray[np.float64]:
    """Of each list."""
    places = ranked_places(network, lists)
    found = np.argmax(places == lists.target_at[:, None], axis=1) + 1
    hit = (lists.target_at >= 0) & (found <= 10)
    return np.where(hit, 1.0 / np.log2(found + 1.0), 0.0)


def calibrate(network: RankerNetwork, lists: CandidateLists) -> list[tuple[float, float]]:
    """Platt scaling (1999) of every head over the candidates that retrieval found: slope and offset for each."""
    logits = ranker_logits(network, lists)
    hit = np.arange(logits.shape[1]) == lists.target_at[:, None]
    counts = head_counts(lists.strengths)
    return [
        fit_platt(logits[:, :, head].ravel().astype(np.float64), (hit & counts[:, head, None]).ravel())
        for head in range(len(HEADS))
    ]


def ranker_logits(network: RankerNetwork, lists: CandidateLists) -> FloatArray:
    """`[queries, candidates, num_heads] float32`."""
    width, inputs = lists.features.shape[1:]
    parts = [
        network(tf.constant(lists.features[at : at + LOGITS_CHUNK].reshape(-1, inputs)), training=False).numpy()
        for at in range(0, len(lists), LOGITS_CHUNK)
    ]
    logits: FloatArray = np.concatenate(parts).reshape(-1, width, len(HEADS))
    return logits
