"""The retrieval model: two towers under one TensorFlow Recommenders model, and the loop that trains it."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from central.datasets.interactions import Interactions, Split
from central.evaluation.metrics import ranks_of_targets
from central.training.checkpoint import Checkpoint, TrainingState, Weights
from central.training.config import RetrievalConfig
from central.training.losses import full_softmax_loss
from central.training.runtime import keras, seed_everything, tf, tfrs
from central.training.team import Team, part_of, scope_of
from central.training.towers import ItemTower, PackedInput, packed_from_history, user_tower
from central.training.windows import (
    EventTable,
    WindowBatch,
    epoch_batches,
    event_table,
    history_batch,
    streamed_batches,
)
from infra.contracts.features import FloatArray, HistoryInput
from infra.plumbing.clock import Clock
from infra.plumbing.progress import Progress

ENCODE_BATCH: Final = 64
VALIDATION_USERS_MAX: Final = 2000
PROGRESS_STEPS: Final = 1000
STREAMED_FILL: Final = 1.02
"""Batches of a streamed epoch by its interactions: each shard ends in one that is not full."""
Watch = Callable[[int, float], bool]
_SLOTS: Final = ("m", "v")
"""What Adam keeps of every variable, by its own names."""


class TwoTowerModel(tfrs.Model):  # type: ignore[misc]
    """User tower and item tower, dot product, softmax over the catalogue (or the batch, log-Q corrected)."""

    def __init__(self, *, config: RetrievalConfig, data: Interactions, item_shares: FloatArray) -> None:
        super().__init__()
        self.config = config
        self.items = ItemTower(items=data.items, dim=config.dim)
        self.users = user_tower(config)
        self.loss_share = 1.0
        """Of this process, where several share a step."""
        self._item_shares = tf.constant(item_shares)
        # The log-Q correction of Yi et al. (2019): in-batch negatives come as often as items are popular.
        self._in_batch = tfrs.tasks.Retrieval(
            loss=keras.losses.CategoricalCrossentropy(from_logits=True, reduction=keras.losses.Reduction.SUM),
            remove_accidental_hits=True,
        )

    def compute_loss(self, inputs: WindowBatch, training: bool = False) -> Any:  # noqa: FBT001, FBT002 (of tfrs.Model)
        """Mean cross entropy of the next item over the positions of a packed batch, summed over the towers."""
        table = self.items.table(item_dropout=self.config.item_dropout if training else 0.0)
        vectors = self.users(PackedInput(*inputs[:6]), table, training=training)
        targets, weights = tf.reshape(inputs.targets, [-1]), tf.reshape(inputs.weights, [-1])
        hidden = tf.reshape(vectors, [-1, self.config.dim])
        seen = seen_before(inputs, len(self._item_shares)) if self.config.full_softmax else None
        parts = (tf.split(tensor, self.config.towers, axis=-1) for tensor in (hidden, table))
        losses = [self._loss_of_one(own, items, targets, weights, seen) for own, items in zip(*parts, strict=True)]
        return tf.add_n(losses) * self.loss_share

    def _loss_of_one(self, hidden: Any, table: Any, targets: Any, weights: Any, seen: Any) -> Any:
        if self.config.full_softmax:
            return full_softmax_loss(
                hidden, table, targets, weights, bfloat16=self.config.bfloat16, excluded=seen
            )  # fmt: skip
        return self._in_batch_loss(hidden, table, targets, weights)

    def _in_batch_loss(self, hidden: Any, table: Any, targets: Any, weights: Any) -> Any:
        known = tf.where(weights > 0.0)[:, 0]
        rows = tf.gather(targets, known)
        total = self._in_batch(
            tf.gather(hidden, known),
            tf.gather(table, rows),
            candidate_sampling_probability=tf.gather(self._item_shares, rows),
            candidate_ids=rows,
            compute_metrics=False,
        )
        return total / tf.maximum(tf.cast(tf.size(known), tf.float32), 1.0)


def seen_before(inputs: WindowBatch, num_items: int) -> Any:
    """`[n] int32` places in the flattened `[positions, num_items]`: what the window has shown by a position.

    A list leaves out what its reader has had, so such an item is never what comes next: with it in the softmax the
    towers spend what they can on pushing it down. Where one does come again it is a target, and not among these.
    """
    length = inputs.segments.shape[1]
    rows = inputs.items[:, None, :] - 1
    earlier = tf.constant(np.tril(np.ones((1, length, length), dtype=np.bool_)))
    same = tf.equal(inputs.segments[:, :, None], inputs.segments[:, None, :]) & (rows >= 0)
    shown = same & earlier & tf.not_equal(rows, inputs.targets[:, :, None])
    of_position = tf.reshape(tf.range(tf.size(inputs.items)) * num_items, [-1, length, 1])
    return tf.boolean_mask(tf.reshape(of_position + rows, [-1]), tf.reshape(shown, [-1]))


@dataclass(slots=True, kw_only=True)
class TrainedRetrieval:
    """The towers with their averaged weights, and how training went. `curve`: validation NDCG@10 by epoch."""

    model: TwoTowerModel
    curve: list[float]
    epochs: int
    train_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _Corpus:
    data: Interactions
    table: EventTable
    starts: npt.NDArray[np.int64]
    ends: npt.NDArray[np.int64]
    validation: npt.NDArray[np.int64]
    """Positions of validation interactions, a sample of users."""


def train_retrieval(
    data: Interactions,
    split: Split,
    config: RetrievalConfig,
    *,
    clock: Clock,
    progress: Progress,
    minutes: float | None = None,
    checkpoint: Checkpoint | None = None,
    watch: Watch | None = None,
    team: Team | None = None,
) -> TrainedRetrieval:
    """Trains both towers on everything before `split.train_ends`; keeps the epoch that validates best.

    Args:
        data: the dataset.
        split: what may be seen.
        config: sizes and schedule.
        clock: measures; nothing else depends on it unless `minutes` is given.
        progress: told after every few steps.
        minutes: wall time for the towers at most (`config.epochs` stay the upper bound), or None.
        checkpoint: where a killed run of the same settings is gone on from; None keeps nothing.
        watch: told the validation NDCG@10 of every epoch; ends the training by answering False.
        team: the workers that share every step, this process among them; all must be given the same.
    """
    seed_everything(config.seed)
    corpus, shares = _corpus(data, split, config), _item_shares(data, split)
    with scope_of(team):
        model = TwoTowerModel(config=config, data=data, item_shares=shares)
        trainer = _Trainer(
            model=model, corpus=corpus, clock=clock, progress=progress, checkpoint=checkpoint, watch=watch, team=team
        )  # fmt: skip
        epochs = trainer.fit(budget_s=None if minutes is None else minutes * 60.0)
    if team is not None:
        model = _of_its_own(model, TwoTowerModel(config=config, data=data, item_shares=shares))
    return TrainedRetrieval(model=model, curve=trainer.curve, epochs=epochs, train_s=trainer.spent_s)


def _of_its_own(shared: TwoTowerModel, own: TwoTowerModel) -> TwoTowerModel:
    """`own` with the weights of `shared`: a model that needs no other worker any more."""
    for part in ("items", "users"):
        for variable, trained in zip(getattr(own, part).variables, getattr(shared, part).variables, strict=True):
            variable.assign(trained.numpy())
    return own


class _Trainer:
    """One training run: schedule, averaged weights, validation, the best epoch."""

    def __init__(
        self, *, model: TwoTowerModel, corpus: _Corpus, clock: Clock, progress: Progress,
        checkpoint: Checkpoint | None, watch: Watch | None = None, team: Team | None = None,
    ) -> None:  # fmt: skip
        self._model, self._corpus, self._clock, self._progress = model, corpus, clock, progress
        self._checkpoint, self._watch, self._team = checkpoint, watch, team
        # Gradients are summed over the workers, each of which takes the mean over its own part of a batch.
        model.loss_share = 1.0 if team is None else 1.0 / team.size
        self._config = model.config
        self._rng = np.random.default_rng(self._config.seed)
        model.compile(
            # The fused kernel: one operation for each variable instead of a dozen. Decay is decoupled, below (AdamW).
            optimizer=keras.optimizers.legacy.Adam(self._config.learning_rate, global_clipnorm=1.0)
        )
        self._variables = [*model.items.trainable_variables, *model.users.trainable_variables]
        self._averages = [tf.Variable(variable, trainable=False) for variable in self._variables]
        self._decay = tf.Variable(0.0, trainable=False, dtype=tf.float32)
        self._step = tf.function(self._train_step, autograph=False)
        self._steps = self._done = 0
        self._best, self._best_weights = -1.0, [average.numpy() for average in self._averages]
        self._finished = False
        self.curve: list[float] = []
        self.spent_s = 0.0

    def fit(self, *, budget_s: float | None) -> int:
        """Trains, leaves the best averaged weights in the model, and returns the number of epochs begun.

        Goes on from the checkpoint of this run, if there is one, and writes one after every epoch.
        """
        self._go_on()
        if not self._finished:
            self._fit(budget_s)
        self._progress.advance(PROGRESS_STEPS, PROGRESS_STEPS, "training the towers")
        for variable, value in zip(self._variables, self._best_weights, strict=True):
            variable.assign(value)
        return len(self.curve)

    def _fit(self, budget_s: float | None) -> None:
        begun = self._clock.monotonic_s() - self.spent_s

        def share_of_schedule(total: int) -> float:
            # With a budget the schedule follows the clock, so that it ends in time however busy the machine is.
            spent = 0.0 if budget_s is None else (self._clock.monotonic_s() - begun) / budget_s
            return max(self._done / total, spent)

        for epoch in range(len(self.curve), self._config.epochs):
            count, batches = self._batches()
            total = self._config.epochs * count
            for batch in batches:
                share = share_of_schedule(total)
                if share >= 1.0:
                    break
                self._run(batch, share, total)
                self._done += 1
                self._progress.advance(round(PROGRESS_STEPS * share), PROGRESS_STEPS, "training the towers")
            self.curve.append(self._validate())
            if self.curve[-1] > self._best:
                self._best, self._best_weights = self.curve[-1], [average.numpy() for average in self._averages]
            stale = epoch - int(np.argmax(self.curve)) > self._config.patience
            stale = stale or (self._watch is not None and not self._watch(epoch, self.curve[-1]))
            self._finished = share_of_schedule(total) >= 1.0 or stale or epoch + 1 == self._config.epochs
            self.spent_s = self._clock.monotonic_s() - begun
            self._keep()
            if self._finished:
                break

    def _keep(self) -> None:
        """Writes the checkpoint; of a team, the first worker does."""
        if self._checkpoint is None or (self._team is not None and self._team.index > 0):
            return
        state = TrainingState(
            run=self._checkpoint.run, done=self._done, steps=self._steps, spent_s=self.spent_s, best=self._best,
            curve=tuple(self.curve), rng=dict(self._rng.bit_generator.state), finished=self._finished,
        )  # fmt: skip
        weights = Weights(
            variables=[variable.numpy() for variable in self._variables],
            averages=[average.numpy() for average in self._averages],
            best=self._best_weights, optimizer=self._moments(),
        )  # fmt: skip
        self._checkpoint.save(state, weights)

    def _go_on(self) -> None:
        """Takes up where the checkpoint of this run stands, if there is one."""
        kept = self._checkpoint.load() if self._checkpoint is not None else None
        if kept is None:
            return
        state, weights = kept
        self._done, self._steps, self.spent_s = state.done, state.steps, state.spent_s
        self._best, self.curve, self._finished = state.best, list(state.curve), state.finished
        self._best_weights = weights.best
        self._rng.bit_generator.state = state.rng
        for held, values in ((self._variables, weights.variables), (self._averages, weights.averages)):
            for variable, value in zip(held, values, strict=True):
                variable.assign(value)
        self._set_moments(weights.optimizer)

    def _moments(self) -> list[npt.NDArray[Any]]:
        """The optimiser's step count, and its two moments of every variable; zeros for one that has no gradient."""
        optimizer = self._model.optimizer
        kept = [optimizer.iterations.numpy()]
        for variable in self._variables:
            for slot in _SLOTS:
                try:
                    kept.append(optimizer.get_slot(variable, slot).numpy())
                except KeyError:
                    kept.append(np.zeros(variable.shape, dtype=np.float32))
        return kept

    def _set_moments(self, kept: list[npt.NDArray[Any]]) -> None:
        optimizer = self._model.optimizer
        optimizer.iterations.assign(int(kept[0]))
        values = iter(kept[1:])
        for variable in self._variables:
            for slot in _SLOTS:
                optimizer.add_slot(variable, slot).assign(next(values))

    def _batches(self) -> tuple[int, Iterable[WindowBatch]]:
        """One epoch, and how many batches it has (about as many, where it is streamed)."""
        length, stream = self._config.history_length, self._corpus.data.stream
        size = 1 if self._team is None else self._team.size
        rows = max(1, self._config.batch_tokens // length // size) * size
        if stream is not None:
            about = max(1, round(stream.card.interactions * STREAMED_FILL / (rows * length)))
            return about, streamed_batches(stream, length=length, rows_per_batch=rows, rng=self._rng)
        batches = epoch_batches(
            self._corpus.table, self._corpus.starts, self._corpus.ends, length=length, rows_per_batch=rows,
            rng=self._rng,
        )  # fmt: skip
        return len(batches), batches

    def _run(self, batch: WindowBatch, share: float, total: int) -> None:
        """One step at `share` of the schedule: linear warm-up, then a cosine down to zero."""
        rising = min(1.0, (share + 1.0 / total) / self._config.warmup_share)
        falling = 0.5 * (1.0 + np.cos(np.pi * share))
        self._model.optimizer.learning_rate.assign(self._config.learning_rate * rising * falling)
        # A young average follows quickly, so that the random start is forgotten even in a short run.
        self._decay.assign(
            min(self._config.ema, (1.0 + self._steps) / (10.0 + self._steps), 1.0 - 20.0 / max(total, 40))
        )
        self._steps += 1
        self._step(batch if self._team is None else part_of(batch, self._team))

    def _train_step(self, batch: WindowBatch) -> None:
        if self._team is None:
            self._model.train_step(batch)
        else:
            self._team.strategy.run(self._model.train_step, args=(batch,))
        # Every worker does the same from here on: nothing is left to be summed.
        shrink = 1.0 - self._model.optimizer.learning_rate * self._config.weight_decay
        for variable in self._variables:
            if variable.shape.rank > 1:
                variable.assign(variable * shrink)
        for average, variable in zip(self._averages, self._variables, strict=True):
            average.assign(self._decay * average + (1.0 - self._decay) * variable)

    def _validate(self) -> float:
        kept = [variable.numpy() for variable in self._variables]
        for variable, average in zip(self._variables, self._averages, strict=True):
            variable.assign(average)
        corpus = self._corpus
        vectors = encode_histories(self._model, corpus.table, corpus.starts, corpus.validation, corpus.data.users)
        ranks = ranks_of_targets(
            vectors, self._model.items.table().numpy(), corpus.data, corpus.validation, corpus.data.rows
        )
        for variable, value in zip(self._variables, kept, strict=True):
            variable.assign(value)
        return float(np.mean(np.where(ranks <= 10, 1.0 / np.log2(ranks + 1.0), 0.0)))


def encode_histories(
    model: TwoTowerModel,
    table: EventTable,
    starts: npt.NDArray[np.int64],
    at: npt.NDArray[np.int64],
    users: npt.NDArray[np.int32],
) -> FloatArray:
    """User vectors `[len(at), dim]` for the histories that end before each position of `at`."""

    def histories(which: npt.NDArray[np.int64]) -> HistoryInput:
        return history_batch(table, starts[users[at[which]]], at[which], model.config.history_length)

    return encode_batches(model, histories, len(at))


def encode_batches(
    model: TwoTowerModel, histories: Callable[[npt.NDArray[np.int64]], HistoryInput], count: int
) -> FloatArray:
    """User vectors `[count, dim]`; `histories` makes the tower's inputs of the queries with the given numbers."""
    items = model.items.table()

    @tf.function(autograph=False)  # type: ignore[untyped-decorator]
    def encode(*history: Any) -> Any:
        return model.users(packed_from_history(*history), items, training=False, last_only=True)[:, 0]

    parts = []
    for chunk in _chunks(np.arange(count), ENCODE_BATCH):
        padded = np.concatenate([chunk, np.repeat(chunk[-1:], ENCODE_BATCH - len(chunk))])
        parts.append(encode(*(tf.constant(part) for part in histories(padded))).numpy()[: len(chunk)])
    vectors: FloatArray = np.concatenate(parts)
    return vectors


def _chunks(values: npt.NDArray[np.int64], size: int) -> Iterator[npt.NDArray[np.int64]]:
    for begin in range(0, len(values), size):
        yield values[begin : begin + size]


def _corpus(data: Interactions, split: Split, config: RetrievalConfig) -> _Corpus:
    valid = split.valid_at
    if valid.size > VALIDATION_USERS_MAX:
        chosen = np.random.default_rng(config.seed).choice(valid.size, VALIDATION_USERS_MAX, replace=False)
        valid = valid[np.sort(chosen)]
    return _Corpus(data=data, table=event_table(data), starts=data.starts[:-1], ends=split.train_ends, validation=valid)


def _item_shares(data: Interactions, split: Split) -> FloatArray:
    """`[num_items] float32`: how often each item is a training target; what the log-Q correction needs."""
    seen = np.arange(data.rows.size) < split.train_ends[data.users]
    counts = np.bincount(data.rows[seen], minlength=len(data.items)) + 1.0
    shares: FloatArray = (counts / counts.sum()).astype(np.float32)
    return shares
