"""Training windows: every prefix is covered, and each position reads what serving would compute for it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from central.datasets.interactions import Interactions, leave_last_out
from central.training.windows import cut_windows, epoch_batches, event_table, history_batch, pack_windows
from infra.contracts.features import encode_history


@pytest.mark.parametrize("length", [3, 5, 50])
def test_queries_read_exactly_what_encode_history_computes(data: Interactions, length: int) -> None:
    """MISSION C3: one feature definition. The batched form of training equals the contract's function."""
    table = event_table(data)
    at = np.flatnonzero(np.arange(data.rows.size) > data.starts[data.users])
    batch = history_batch(table, data.starts[data.users[at]], at, length)
    for line, place in enumerate(at):
        past = slice(data.starts[data.users[place]], place)
        wanted = encode_history(
            data.rows[past], data.strengths[past], data.times_s[past], now_s=data.times_s[place], length=length
        )
        for name, column in wanted._asdict().items():
            assert np.array_equal(getattr(batch, name)[line], column), (name, place)


def test_training_positions_read_what_encode_history_computes(data: Interactions) -> None:
    table = event_table(data)
    split = leave_last_out(data)
    batches = epoch_batches(
        table, data.starts[:-1], split.train_ends, length=6, rows_per_batch=4, rng=np.random.default_rng(0)
    )
    checked = 0
    place_of = {(data.users[at], data.times_s[at]): at for at in range(data.rows.size)}
    assert len(place_of) == data.rows.size
    for batch in batches:
        for row, column in np.argwhere(batch.weights > 0):
            begin = column - batch.positions[row, column]
            mine = slice(begin, column + 1)
            assert (batch.segments[row, mine] == batch.segments[row, column]).all()
            ends = np.flatnonzero((data.rows == batch.targets[row, column]) & _follows(data, batch.items[row, mine]))
            assert any(_same(data, batch, row, mine, int(end)) for end in ends)
            checked += 1
    assert checked == int((split.train_ends - data.starts[:-1] - 1).sum())


def _follows(data: Interactions, items: np.ndarray) -> np.ndarray:
    last = np.concatenate([[-1], data.rows[:-1]])
    return np.asarray(last == items[-1] - 1)


def _same(data: Interactions, batch: object, row: int, mine: slice, end: int) -> bool:
    past = slice(data.starts[data.users[end]], end)
    wanted = encode_history(
        data.rows[past],
        data.strengths[past],
        data.times_s[past],
        now_s=data.times_s[end],
        length=mine.stop - mine.start,
    )
    return all(np.array_equal(getattr(batch, name)[row, mine], column) for name, column in wanted._asdict().items())


@given(st.lists(st.integers(0, 70), min_size=1, max_size=12), st.integers(1, 20), st.integers(0, 5))
def test_windows_cover_every_sequence_once(sizes: list[int], length: int, seed: int) -> None:
    ends = np.cumsum(sizes)
    starts = ends - np.array(sizes)
    windows = cut_windows(starts, ends, length, np.random.default_rng(seed))
    covered = np.concatenate([np.arange(begin, end) for begin, end in windows]) if len(windows) else np.zeros(0)
    assert sorted(covered.tolist()) == list(range(int(ends[-1])))
    assert all(0 < end - begin <= length for begin, end in windows)
    assert all(
        np.searchsorted(ends, begin, "right") == np.searchsorted(ends, end - 1, "right") for begin, end in windows
    )


@given(st.lists(st.integers(1, 20), min_size=1, max_size=40), st.integers(0, 5))
def test_packing_keeps_every_window_and_fills_no_row_over(sizes: list[int], seed: int) -> None:
    ends = np.cumsum(sizes)
    windows = np.stack([ends - np.array(sizes), ends], axis=1)
    rows = pack_windows(windows, 20, np.random.default_rng(seed))
    assert sorted(window for row in rows for window in row) == list(range(len(sizes)))
    assert all(sum(sizes[window] for window in row) <= 20 for row in rows)
