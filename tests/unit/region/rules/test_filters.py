"""Hard filters over rows."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from region.rules.facets import first_of
from region.rules.filters import first_outside, outside, row_set, union, without

rows_lists = st.lists(st.integers(0, 60), max_size=50)


@given(rows_lists, rows_lists)
def test_outside_is_not_in(rows: list[int], blocked: list[int]) -> None:
    mask = outside(np.asarray(rows, dtype=np.int32), row_set(blocked))
    assert mask.tolist() == [row not in blocked for row in rows]


@given(rows_lists, rows_lists, st.integers(0, 70), st.integers(1, 7))
def test_the_first_outside_are_the_first_in_order(rows: list[int], blocked: list[int], limit: int, chunk: int) -> None:
    found = first_outside(np.asarray(rows, dtype=np.int32), row_set(blocked), limit, chunk=chunk)
    assert found.tolist() == [row for row in rows if row not in blocked][:limit]


def test_groups_are_joined_ascending_without_repeats() -> None:
    assert row_set([5, 1], (), {3, 1}).tolist() == [1, 3, 5]


@given(rows_lists, rows_lists)
def test_arrays_are_joined_and_left_out_as_sets_are(rows: list[int], others: list[int]) -> None:
    mine, theirs = np.asarray(rows, dtype=np.int32), np.asarray(others, dtype=np.int32)
    assert union(mine, theirs).tolist() == sorted({*rows, *others})
    assert without(mine, theirs).tolist() == [row for row in rows if row not in others]


@given(st.lists(st.booleans(), max_size=300), st.integers(0, 20))
def test_the_first_that_pass_are_found_however_far_they_lie_apart(passing: list[bool], limit: int) -> None:
    rows, mask = np.arange(len(passing), dtype=np.int32)[::-1], np.asarray(passing, dtype=np.bool_)
    expected = [row for row in rows.tolist() if passing[row]]
    assert first_of(rows, mask.__getitem__, limit, there_are=len(expected)).tolist() == expected[:limit]
