"""Training windows: histories cut at random offsets and packed, many to a row, without padding in between."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from central.datasets.importing import SEQUENCE_MIN
from central.datasets.interactions import Interactions
from central.datasets.streaming import Shard, Stream
from infra.contracts.features import GAP_UNKNOWN, HistoryInput, IntArray, gap_bucket


class WindowBatch(NamedTuple):
    """Rows of packed windows, each array `[rows, length]`.

    `segments` tells the windows of one row apart (0: nothing there), `positions` count from the window's start,
    `targets` are catalogue rows, `weights` 0 where nothing is to be predicted.
    """

    items: IntArray
    strengths: IntArray
    gaps_before: IntArray
    gaps_after: IntArray
    positions: IntArray
    segments: IntArray
    targets: IntArray
    weights: npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class EventTable:
    """Each interaction as the tower reads it, `[n] int32` each, in the dataset's order.

    Equal, column by column, to what `infra.contracts.features.encode_history` makes of the same history asked at the
    moment of the next interaction (a test holds the two together).
    """

    items: IntArray
    strengths: IntArray
    gaps_before: IntArray
    gaps_after: IntArray


def event_table(data: Interactions | Shard) -> EventTable:
    """The features of every interaction; `gaps_after` of a user's last one is 0 (nobody asks after it)."""
    gap = gap_bucket(np.diff(data.times_s, append=data.times_s[-1:]))
    before = np.concatenate([[GAP_UNKNOWN], gap[:-1]]).astype(np.int32)
    before[data.starts[:-1]] = GAP_UNKNOWN
    after = gap.copy()
    after[data.starts[1:] - 1] = 0
    return EventTable(data.rows + 1, data.strengths, before, after)


def streamed_batches(
    stream: Stream, *, length: int, rows_per_batch: int, rng: np.random.Generator
) -> Iterator[WindowBatch]:  # fmt: skip
    """One epoch over everybody on disk, a shard in memory at a time; everybody's last two interactions stay unseen."""
    for shard in stream.shards(rng):
        starts, ends = shard.starts[:-1], shard.starts[1:].copy()
        ends[np.diff(shard.starts) >= SEQUENCE_MIN] -= 2
        yield from epoch_batches(
            event_table(shard), starts, ends, length=length, rows_per_batch=rows_per_batch, rng=rng
        )  # fmt: skip


def cut_windows(
    starts: npt.NDArray[np.int64], ends: npt.NDArray[np.int64], length: int, rng: np.random.Generator
) -> npt.NDArray[np.int64]:
    """Windows `[num_windows, 2]` (begin, end) that cover every sequence once, each `length` at most.

    Sequences longer than `length` are cut at a random offset, anew each time, so that no position is always first.
    """
    sizes = ends - starts
    short = sizes <= length
    windows = [np.stack([starts[short], ends[short]], axis=1)]
    for start, end in zip(starts[~short], ends[~short], strict=True):
        cuts = np.arange(start + rng.integers(1, length + 1), end, length)
        edges = np.concatenate([[start], cuts, [end]])
        windows.append(np.stack([edges[:-1], edges[1:]], axis=1))
    joined = np.concatenate(windows)
    return joined[joined[:, 1] > joined[:, 0]]


def pack_windows(windows: npt.NDArray[np.int64], length: int, rng: np.random.Generator) -> list[list[int]]:
    """Rows of window numbers whose sizes fit `length` (best fit, longest first, ties and rows shuffled)."""
    sizes = windows[:, 1] - windows[:, 0]
    order = rng.permutation(len(windows))
    order = order[np.argsort(-sizes[order], kind="stable")]
    rows: list[list[int]] = []
    open_rows: list[list[int]] = [[] for _ in range(length + 1)]  # row numbers by the space left
    for window in order.tolist():
        size = int(sizes[window])
        space = next((left for left in range(size, length + 1) if open_rows[left]), None)
        if space is None:
            rows.append([window])
            open_rows[length - size].append(len(rows) - 1)
        else:
            row = open_rows[space].pop()
            rows[row].append(window)
            open_rows[space - size].append(row)
    rng.shuffle(rows)
    return rows


def epoch_batches(
    table: EventTable,
    starts: npt.NDArray[np.int64],
    train_ends: npt.NDArray[np.int64],
    *,
    length: int,
    rows_per_batch: int,
    rng: np.random.Generator,
) -> list[WindowBatch]:
    """One epoch: every training interaction but the last of each user, as input, predicts the next one."""
    windows = cut_windows(starts, np.maximum(train_ends - 1, starts), length, rng)
    rows = pack_windows(windows, length, rng)
    return [
        _batch(table, windows, rows[at : at + rows_per_batch], length, rows_per_batch)
        for at in range(0, len(rows), rows_per_batch)
    ]


def _batch(
    table: EventTable, windows: npt.NDArray[np.int64], rows: list[list[int]], length: int, num_rows: int
) -> WindowBatch:
    index = np.full((num_rows, length), -1, dtype=np.int64)
    positions, segments = (np.zeros((num_rows, length), dtype=np.int32) for _ in range(2))
    for row, members in enumerate(rows):
        at = 0
        for segment, window in enumerate(members, start=1):
            begin, end = windows[window]
            till = at + end - begin
            index[row, at:till] = np.arange(begin, end)
            positions[row, at:till] = np.arange(end - begin)
            segments[row, at:till] = segment
            at = till
    known = index >= 0
    items, strengths, before, after = (np.where(known, column[index], 0) for column in _columns(table))
    targets = np.where(known, table.items[index + 1] - 1, 0)
    return WindowBatch(items, strengths, before, after, positions, segments, targets, known.astype(np.float32))


def history_batch(
    table: EventTable, starts: npt.NDArray[np.int64], at: npt.NDArray[np.int64], length: int
) -> HistoryInput:
    """Tower inputs `[queries, length]` for histories that end before position `at`, asked at the moment of `at`."""
    index = at[:, None] - length + np.arange(length)
    known = index >= starts[:, None]
    index = np.where(known, index, 0)
    return HistoryInput(*(np.where(known, column[index], 0).astype(np.int32) for column in _columns(table)))


def _columns(table: EventTable) -> tuple[IntArray, IntArray, IntArray, IntArray]:
    return table.items, table.strengths, table.gaps_before, table.gaps_after
