"""The released user tower in NumPy, over whole histories at once: every prefix of a history in one pass.

A phone runs the tower in LiteRT, one history at a time; for thousands of simulated phones that takes hours. The
computation is the same (central.training.towers), and the measurement compares it with TensorFlow's own vectors.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from infra.contracts.features import GAP_UNKNOWN, gap_bucket

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.integer]
_MASKED = np.float32(-1e9)
_ROWS = 64


@dataclass(frozen=True, slots=True)
class Sequences:
    """Events sorted by user and time: `[n]` each; `starts [num_users + 1]`."""

    rows: IntArray
    strengths: IntArray
    times_s: npt.NDArray[np.float64]
    starts: IntArray

    def kept(self, mask: npt.NDArray[np.bool_]) -> "Sequences":
        """The events under `mask`; users keep their numbers, some may have no events left."""
        users = np.repeat(np.arange(len(self.starts) - 1), np.diff(self.starts))[mask]
        starts = np.searchsorted(users, np.arange(len(self.starts)))
        return Sequences(self.rows[mask], self.strengths[mask], self.times_s[mask], starts)


@dataclass(frozen=True, slots=True)
class Vectors:
    """`last [users, dim]`: asked at each user's last event; `along [examples, dim]` with `along_at [examples]`.

    `along` holds, for the newest events of every user but the last, the vector of what came before them.
    """

    last: FloatArray
    along: FloatArray
    along_at: npt.NDArray[np.int64]


class NumpyTower:
    """A trained user tower; the item table is given at each call, because federated rounds change it."""

    def __init__(self, path: Path) -> None:
        with np.load(path, allow_pickle=False) as arrays:
            self._weights = {name[7:]: arrays[name] for name in arrays.files if name.startswith("weight_")}
            self.history_length, self._heads = int(arrays["history_length"]), int(arrays["heads"])
            self.table: FloatArray = arrays["table"]
            self.check: FloatArray = arrays["check"]
            # Of a tower whose attention weighs events by distance: the bucket of each two places.
            self._distances: IntArray | None = arrays["distances"] if "distances" in arrays.files else None
        self._blocks = sum(name.endswith("_query") for name in self._weights)

    def last(self, events: Sequences, users: IntArray, table: FloatArray) -> FloatArray:
        """`encode(...).last`, without what comes before it: the last block is computed for one place of each user."""
        found = np.empty((len(users), table.shape[1]), dtype=np.float32)
        for places, inputs, known, _ in self._chunks(events, users):
            found[places] = self._forward(inputs, known, table, only_last=True)[:, -1]
        return found

    def encode(self, events: Sequences, users: IntArray, table: FloatArray) -> Vectors:
        """Vectors of `users`, each with at least one event; the last event is what is asked for, not read."""
        last = np.empty((len(users), table.shape[1]), dtype=np.float32)
        along: list[FloatArray] = [np.empty((0, table.shape[1]), dtype=np.float32)] * len(users)
        along_at: list[npt.NDArray[np.int64]] = [np.empty(0, dtype=np.int64)] * len(users)
        for places, inputs, known, index in self._chunks(events, users):
            vectors = self._forward(inputs, known, table)
            last[places] = vectors[:, -1]
            for line, place in enumerate(places):
                predicts = known[line, :-1]
                along[place] = vectors[line, :-1][predicts]
                along_at[place] = index[line, :-1][predicts] + 1
        return Vectors(last, np.concatenate(along), np.concatenate(along_at))

    def _chunks(
        self, events: Sequences, users: IntArray
    ) -> Iterator[tuple[IntArray, tuple[IntArray, ...], npt.NDArray[np.bool_], npt.NDArray[np.int64]]]:
        """Users of about one length together: their places, inputs, which of these are there, and events' numbers."""
        length, columns = self.history_length, _columns(events)
        order = np.argsort(events.starts[1:][users] - events.starts[users], kind="stable")
        for begin in range(0, len(users), _ROWS):
            places = order[begin : begin + _ROWS]
            chunk = users[places]
            ends = events.starts[1:][chunk] - 1
            # Short histories need no padding up to the longest possible one.
            width = int(np.clip((ends - events.starts[chunk]).max(initial=1), 1, length))
            index = ends[:, None] - width + np.arange(width)
            known = index >= events.starts[chunk][:, None]
            yield places, tuple(np.where(known, c[np.where(known, index, 0)], 0) for c in columns), known, index

    def _forward(
        self, inputs: tuple[IntArray, ...], known: npt.NDArray[np.bool_], table: FloatArray, *, only_last: bool = False
    ) -> FloatArray:  # fmt: skip
        w = self._weights
        items, strengths, before, after = inputs
        dim = table.shape[1]
        padded = np.vstack([np.zeros((1, dim), dtype=np.float32), table])
        positions = np.maximum(np.cumsum(known, axis=1) - 1, 0)
        hidden = padded[items] * np.float32(np.sqrt(dim)) + w["positions"][positions] + w["strengths"][strengths]
        hidden = hidden + w["gaps_before"][before] + w["gaps_after"][after]
        causal = np.tril(np.ones((known.shape[1], known.shape[1]), dtype=np.bool_))
        mask = np.where((known[:, :, None] == known[:, None, :]) & causal, np.float32(0.0), _MASKED)[:, None]
        for number in range(self._blocks):
            asked = slice(-1, None) if only_last and number == self._blocks - 1 else slice(None)
            hidden = self._block(hidden, mask[:, :, asked], f"block{number}_", asked)
        vectors: FloatArray = _norm(hidden, w["norm_scale"], w["norm_shift"]) @ w["adapter"]
        return vectors

    def _block(self, hidden: FloatArray, mask: FloatArray, at: str, asked: slice) -> FloatArray:
        w = self._weights
        normed = _norm(hidden, w[at + "norm_attention_scale"], w[at + "norm_attention_shift"])
        key, value = (self._split(normed @ w[at + name]) for name in ("key", "value"))
        hidden, query = hidden[:, asked], self._split(normed[:, asked] @ w[at + "query"])
        scores = query @ key.transpose(0, 1, 3, 2) / np.float32(np.sqrt(query.shape[-1])) + mask
        if self._distances is not None:
            length = key.shape[2]
            scores += w[at + "nearness"].T[:, self._distances[:length, :length][asked]]
        scores -= scores.max(axis=-1, keepdims=True)
        np.exp(scores, out=scores)
        scores /= scores.sum(axis=-1, keepdims=True)
        mixed = (scores @ value).transpose(0, 2, 1, 3).reshape(hidden.shape)
        hidden = hidden + mixed @ w[at + "out"]
        wide = _norm(hidden, w[at + "norm_feed_scale"], w[at + "norm_feed_shift"]) @ w[at + "widen"]
        wide += w[at + "widen_bias"]
        added: FloatArray = hidden + _gelu(wide) @ w[at + "narrow"] + w[at + "narrow_bias"]
        return added

    def _split(self, tensor: FloatArray) -> FloatArray:
        rows, length, dim = tensor.shape
        return tensor.reshape(rows, length, self._heads, dim // self._heads).transpose(0, 2, 1, 3)


def _columns(events: Sequences) -> tuple[IntArray, ...]:
    """As `central.training.windows.event_table`: item input, strength, gap before, gap after, `[n]` each."""
    gap = gap_bucket(np.diff(events.times_s, append=events.times_s[-1:]))
    before = np.concatenate([[GAP_UNKNOWN], gap[:-1]])
    filled = np.diff(events.starts) > 0
    before[events.starts[:-1][filled]] = GAP_UNKNOWN
    after = gap.copy()
    after[events.starts[1:][filled] - 1] = 0
    return events.rows + 1, events.strengths, before, after


def _norm(tensor: FloatArray, scale: FloatArray, shift: FloatArray) -> FloatArray:
    centred = tensor - tensor.mean(axis=-1, keepdims=True)
    variance = np.mean(np.square(centred), axis=-1, keepdims=True)
    normed: FloatArray = centred / np.sqrt(variance + np.float32(1e-6)) * scale + shift
    return normed


def _gelu(tensor: FloatArray) -> FloatArray:
    inner = np.float32(0.7978845608) * (tensor + np.float32(0.044715) * tensor * tensor * tensor)
    return np.asarray(np.float32(0.5) * tensor * (np.float32(1.0) + np.tanh(inner)), dtype=np.float32)
