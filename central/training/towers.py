"""The two towers: a causal transformer over the history, and an item tower over id and metadata.

The user tower follows SASRec (Kang and McAuley, 2018) with the gaps in time as further inputs, and with a learned bias
of attention by the distance between two events (Raffel et al., 2020, "T5", 2.1; here each block has its own). Both
towers share the item vectors. Its last operation is `vector = hidden @ adapter`, and nothing behind it: federated
rounds train the adapter alone, and a release with another adapter is the same tower otherwise.
"""

from typing import Any, Final, NamedTuple

import msgspec
import numpy as np

from central.datasets.interactions import Items
from central.training.config import RetrievalConfig
from central.training.runtime import tf
from infra.contracts.events import STRENGTH_LEVELS
from infra.contracts.features import GAP_BUCKETS, FloatArray

YEAR_BUCKETS: Final = 32
_FIRST_YEAR: Final = 1900
_YEARS_PER_BUCKET: Final = 5
DISTANCE_BUCKETS: Final = 32
_DISTANCES_EXACT: Final = 16
_BUCKETS_PER_DOUBLING: Final = 4
_MASKED: Final = -1e9
_INIT_STDDEV: Final = 0.02

Tensor = Any
"""A TensorFlow tensor; TensorFlow ships no types."""


class PackedInput(NamedTuple):
    """What the user tower reads, each `[rows, length] int32`; see `WindowBatch`."""

    items: Tensor
    strengths: Tensor
    gaps_before: Tensor
    gaps_after: Tensor
    positions: Tensor
    segments: Tensor


def year_buckets(years: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Five years to a bucket, 0 for unknown. Same shape, int32."""
    bucket = np.clip((years - _FIRST_YEAR) // _YEARS_PER_BUCKET + 1, 1, YEAR_BUCKETS - 1)
    return np.where(years > 0, bucket, 0).astype(np.int32)


def distance_buckets(length: int) -> np.ndarray[Any, Any]:
    """`[length, length] int32`: in which bucket lies how far column's event is before the row's; 0 for none and later.

    One for each of the nearest, then four to a doubling: 16 to 19, 20 to 22, ..., 216 and further.
    """
    places = np.arange(length)
    back = np.maximum(places[:, None] - places[None, :], 0)
    far = _DISTANCES_EXACT + _BUCKETS_PER_DOUBLING * np.log2(np.maximum(back, _DISTANCES_EXACT) / _DISTANCES_EXACT)
    bucket = np.where(back < _DISTANCES_EXACT, back, np.floor(far))
    capped: np.ndarray[Any, Any] = np.minimum(bucket, DISTANCE_BUCKETS - 1).astype(np.int32)
    return capped


class ItemTower(tf.Module):  # type: ignore[misc]
    """Vector of an item: its own row plus a linear map of its categories and its year."""

    def __init__(self, *, items: Items, dim: int) -> None:
        super().__init__(name="item_tower")
        self._weights = tf.constant(items.weights)
        self._years = tf.constant(year_buckets(items.years))
        self.ids = _normal("ids", (len(items), dim))
        self.categories = _normal("categories", (max(len(items.categories), 1), dim))
        self.years = _normal("years", (YEAR_BUCKETS, dim))

    def table(self, *, item_dropout: float = 0.0) -> Tensor:
        """Vectors of the whole catalogue, `[num_items, dim] float32`.

        `item_dropout` is the share of items that are known by their metadata only in this step; their years are left
        out too, because an item that is new to a region brings categories only.
        """
        own = self.ids
        years = tf.gather(self.years, self._years)
        if item_dropout > 0.0:
            kept = tf.cast(tf.random.uniform([tf.shape(own)[0], 1]) >= item_dropout, tf.float32)
            own, years = own * kept, years * kept
        return own + years + self.from_metadata(self._weights)

    def from_metadata(self, weights: Tensor) -> Tensor:
        """Vectors `[n, dim]` of items that are known by their category weights `[n, num_categories]` only."""
        if weights.shape[-1] == 0:
            return tf.zeros([tf.shape(weights)[0], self.ids.shape[1]])
        return tf.matmul(weights, self.categories)


class UserTower(tf.Module):  # type: ignore[misc]
    """Causal transformer over packed histories; `[rows, length]` in, one vector for every position out."""

    def __init__(self, *, config: RetrievalConfig) -> None:
        super().__init__(name="user_tower")
        self.config = config
        dim = config.dim
        self.strengths = _normal("strengths", (STRENGTH_LEVELS, dim))
        self.gaps_before = _normal("gaps_before", (GAP_BUCKETS, dim))
        self.gaps_after = _normal("gaps_after", (GAP_BUCKETS, dim))
        self.positions = _normal("positions", (config.history_length, dim))
        self.blocks = [_Block(config=config, number=number) for number in range(config.layers)]
        self.norm = _Norm(dim=dim, name="final_norm")
        self.adapter = tf.Variable(tf.eye(dim), name="adapter")

    def __call__(self, inputs: PackedInput, table: Tensor, *, training: bool, last_only: bool = False) -> Tensor:
        """Vectors `[rows, length, dim]`, or with `last_only` those of the last position, `[rows, 1, dim]`."""
        return tf.matmul(self.hidden(inputs, table, training=training, last_only=last_only), self.adapter)

    def hidden(self, inputs: PackedInput, table: Tensor, *, training: bool, last_only: bool = False) -> Tensor:
        """What the adapter is applied to; same shapes."""
        hidden = self._embed(inputs, table, training=training)
        mask = _attention_mask(inputs.segments)
        for number, block in enumerate(self.blocks):
            only_last = last_only and number == len(self.blocks) - 1
            hidden = block(hidden, mask, training=training, last_only=only_last)
        return self.norm(hidden)

    def _embed(self, inputs: PackedInput, table: Tensor, *, training: bool) -> Tensor:
        # Item 0 is padding, a zero vector. Putting that in front of the table would copy the whole table in every
        # request of an exported tower, once it is too large to be folded into a constant (55 ms at 1 M items).
        known = tf.cast(inputs.items > 0, tf.float32)[:, :, None]
        hidden = tf.gather(table, tf.maximum(inputs.items - 1, 0)) * known * float(np.sqrt(self.config.dim))
        if self.config.positions:
            hidden += tf.gather(self.positions, inputs.positions)
        if self.config.context:
            hidden += tf.gather(self.strengths, inputs.strengths)
            hidden += tf.gather(self.gaps_before, inputs.gaps_before)
            hidden += tf.gather(self.gaps_after, inputs.gaps_after)
        return _dropout(hidden, self.config.dropout, training=training)


class SeveralUserTowers(tf.Module):  # type: ignore[misc]
    """User towers that were trained beside each other on the same batches, from different beginnings.

    Each reads its own columns of the item table and has a loss of its own; their vectors stand side by side, so that
    the dot product with an item is the sum of their scores: an ensemble in one index. The adapter behind them stays
    the identity in training (each tower has one inside): it is what federated rounds move.
    """

    def __init__(self, *, config: RetrievalConfig) -> None:
        super().__init__(name="user_towers")
        self.config = config
        of_one = msgspec.structs.replace(config, dim=config.dim // config.towers, towers=1)
        self.towers = [UserTower(config=of_one) for _ in range(config.towers)]
        self.adapter = tf.Variable(tf.eye(config.dim), trainable=False, name="adapter")

    def __call__(self, inputs: PackedInput, table: Tensor, *, training: bool, last_only: bool = False) -> Tensor:
        """As `UserTower`; in training the towers' own vectors, side by side."""
        hidden = self.hidden(inputs, table, training=training, last_only=last_only)
        return hidden if training else tf.matmul(hidden, self.adapter)

    def hidden(self, inputs: PackedInput, table: Tensor, *, training: bool, last_only: bool = False) -> Tensor:
        """What the adapter is applied to; same shapes."""
        parts = tf.split(table, len(self.towers), axis=-1)
        vectors = [
            tower(inputs, part, training=training, last_only=last_only)
            for tower, part in zip(self.towers, parts, strict=True)
        ]
        return tf.concat(vectors, axis=-1)


def user_tower(config: RetrievalConfig) -> UserTower | SeveralUserTowers:
    """As many towers as the settings say, called as one."""
    return UserTower(config=config) if config.towers == 1 else SeveralUserTowers(config=config)


class _Block(tf.Module):  # type: ignore[misc]
    """Self-attention and a feed-forward net, each behind a layer norm, each added to what came in."""

    def __init__(self, *, config: RetrievalConfig, number: int) -> None:
        super().__init__(name=f"block_{number}")
        dim = config.dim
        self.config = config
        self.norm_attention = _Norm(dim=dim, name="norm_attention")
        self.norm_feed = _Norm(dim=dim, name="norm_feed")
        self.query = _glorot("query", (dim, dim))
        self.key = _glorot("key", (dim, dim))
        self.value = _glorot("value", (dim, dim))
        self.out = _glorot("out", (dim, dim))
        self.widen = _glorot("widen", (dim, 4 * dim))
        self.widen_bias = tf.Variable(tf.zeros([4 * dim]), name="widen_bias")
        self.narrow = _glorot("narrow", (4 * dim, dim))
        self.narrow_bias = tf.Variable(tf.zeros([dim]), name="narrow_bias")
        self.nearness: Tensor = None
        if config.distances:
            self.nearness = tf.Variable(tf.zeros([DISTANCE_BUCKETS, config.heads]), name="nearness")
            self._distances = distance_buckets(config.history_length)

    def __call__(self, hidden: Tensor, mask: Tensor, *, training: bool, last_only: bool) -> Tensor:
        normed = self.norm_attention(hidden)
        asking = normed
        if self.nearness is not None:
            mask += self._by_distance()
        if last_only:
            hidden, asking, mask = hidden[:, -1:], normed[:, -1:], mask[:, :, -1:]
        attended = self._attend(asking, normed, mask, training=training)
        hidden += _dropout(attended, self.config.dropout, training=training)
        wide = self._multiply(self.norm_feed(hidden), self.widen, training=training) + self.widen_bias
        wide = tf.nn.gelu(wide, approximate=True)
        narrow = self._multiply(wide, self.narrow, training=training) + self.narrow_bias
        return hidden + _dropout(narrow, self.config.dropout, training=training)

    def _by_distance(self) -> Tensor:
        """`[1, heads, length, length] float32`: what is added to the scores of attention."""
        # A product with ones and zeros, whose gradient is one too: a gather's adds up row by row.
        length = len(self._distances)
        places = tf.one_hot(self._distances.ravel(), DISTANCE_BUCKETS)
        bias = tf.matmul(self.nearness, places, transpose_a=True, transpose_b=True)
        return tf.reshape(bias, [1, self.config.heads, length, length])

    def _attend(self, asking: Tensor, normed: Tensor, mask: Tensor, *, training: bool) -> Tensor:
        query = self._split(self._multiply(asking, self.query, training=training))
        key = self._split(self._multiply(normed, self.key, training=training))
        value = self._split(self._multiply(normed, self.value, training=training))
        scale = float(np.sqrt(self.config.dim // self.config.heads))
        scores = self._matmul(query, key, training=training, transpose_b=True) / scale + mask
        weights = tf.nn.softmax(scores)  # no dropout here: its random numbers cost 10 % of a step
        mixed = tf.transpose(self._matmul(weights, value, training=training), [0, 2, 1, 3])
        return self._multiply(tf.reshape(mixed, [-1, asking.shape[1], self.config.dim]), self.out, training=training)

    def _split(self, tensor: Tensor) -> Tensor:
        """`[rows, length, dim]` to `[rows, heads, length, dim / heads]`."""
        heads = self.config.heads
        apart = tf.reshape(tensor, [-1, tensor.shape[1], heads, self.config.dim // heads])
        return tf.transpose(apart, [0, 2, 1, 3])

    def _multiply(self, tensor: Tensor, weights: Tensor, *, training: bool) -> Tensor:
        # As one flat matrix: a batched product would make one gradient of the weights for every row, and add them up.
        flat = self._matmul(tf.reshape(tensor, [-1, weights.shape[0]]), weights, training=training)
        return tf.reshape(flat, [-1, tensor.shape[1], weights.shape[1]])

    def _matmul(self, left: Tensor, right: Tensor, *, training: bool, transpose_b: bool = False) -> Tensor:
        # Only training is done in bfloat16: what is evaluated is what is exported.
        if not (self.config.bfloat16 and training):
            return tf.matmul(left, right, transpose_b=transpose_b)
        product = tf.matmul(tf.cast(left, tf.bfloat16), tf.cast(right, tf.bfloat16), transpose_b=transpose_b)
        return tf.cast(product, tf.float32)


class _Norm(tf.Module):  # type: ignore[misc]
    """Layer normalisation over the last axis."""

    def __init__(self, *, dim: int, name: str) -> None:
        super().__init__(name=name)
        self.scale = tf.Variable(tf.ones([dim]), name="scale")
        self.shift = tf.Variable(tf.zeros([dim]), name="shift")

    def __call__(self, tensor: Tensor) -> Tensor:
        mean = tf.reduce_mean(tensor, axis=-1, keepdims=True)
        centred = tensor - mean
        variance = tf.reduce_mean(tf.square(centred), axis=-1, keepdims=True)
        return centred * tf.math.rsqrt(variance + 1e-6) * self.scale + self.shift


def packed_from_history(items: Tensor, strengths: Tensor, gaps_before: Tensor, gaps_after: Tensor) -> PackedInput:
    """One left-padded history to a row: positions count the events, not the slots, as in the training windows."""
    known = tf.cast(items > 0, tf.int32)
    positions = tf.maximum(tf.cumsum(known, axis=1) - 1, 0)
    return PackedInput(items, strengths, gaps_before, gaps_after, positions, known)


def catalogue_vectors(tower: ItemTower) -> FloatArray:
    """`[num_items, dim] float32` as NumPy."""
    vectors: FloatArray = tower.table().numpy()
    return vectors


def _attention_mask(segments: Tensor) -> Tensor:
    """`[rows, 1, length, length] float32`: 0 where a position may look, very negative elsewhere."""
    length = segments.shape[1]
    same = tf.equal(segments[:, :, None], segments[:, None, :])
    earlier = tf.constant(np.tril(np.ones((1, length, length), dtype=np.bool_)))
    return tf.where(same & earlier, 0.0, _MASKED)[:, None]


def _dropout(tensor: Tensor, rate: float, *, training: bool) -> Tensor:
    return tf.nn.dropout(tensor, rate) if training and rate > 0.0 else tensor


def _normal(name: str, shape: tuple[int, ...]) -> Tensor:
    return tf.Variable(tf.random.normal(shape, stddev=_INIT_STDDEV), name=name)


def _glorot(name: str, shape: tuple[int, int]) -> Tensor:
    limit = float(np.sqrt(6.0 / sum(shape)))
    return tf.Variable(tf.random.uniform(shape, -limit, limit), name=name)
