"""Deltas between arrays: the same bytes come out, few go over the wire, and nothing else is accepted."""

import io
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.plumbing.deltas import MAGIC, DeltaError, apply_delta, make_delta


def npy(array: "np.ndarray[tuple[int, ...], np.dtype[np.generic]]") -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=False)
    return file.getvalue()


def vectors(rows: int, seed: int = 0) -> bytes:
    return npy(np.random.default_rng(seed).normal(size=(rows, 64)).astype(np.float32))


def test_two_per_cent_changed_rows_cost_little_more_than_two_per_cent():
    rng = np.random.default_rng(3)
    old = rng.normal(size=(20_000, 64)).astype(np.float32)
    new = old.copy()
    changed = rng.choice(len(old), len(old) // 50, replace=False)
    new[changed] = rng.normal(size=(len(changed), 64))
    delta = make_delta(npy(old), npy(new))
    assert delta is not None
    assert len(delta) < 0.022 * new.nbytes
    assert apply_delta(npy(old), delta, length=len(npy(new))) == npy(new)


@given(st.lists(st.integers(0, 9), min_size=1, max_size=30), st.lists(st.integers(0, 12), min_size=1, max_size=30))
def test_rows_may_move_go_come_and_repeat(old: list[int], new: list[int]):
    before, after = (npy(np.array(rows, dtype=np.int32)[:, None].repeat(3, axis=1)) for rows in (old, new))
    delta = make_delta(before, after)
    assert delta is not None
    assert apply_delta(before, delta, length=len(after)) == after


def test_rows_that_moved_are_not_sent_again():
    old = np.random.default_rng(1).normal(size=(5_000, 64)).astype(np.float32)
    new = np.concatenate([old[3_000:], old[:10] + 1, old[:3_000]])
    delta = make_delta(npy(old), npy(new))
    assert delta is not None
    assert len(delta) < 4_000


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"not an array", vectors(5)),
        (vectors(5), b""),
        (vectors(5), npy(np.zeros((5, 63), dtype=np.float32))),
        (vectors(5), npy(np.asfortranarray(np.zeros((5, 64), dtype=np.float32)))),
        (vectors(5), npy(np.zeros((0, 64), dtype=np.float32))),
        (vectors(5), npy(np.zeros((), dtype=np.float32))),
    ],
)
def test_what_is_not_rows_of_the_same_size_gets_no_delta(old: bytes, new: bytes):
    assert make_delta(old, new) is None


def test_a_delta_that_does_not_fit_is_refused():
    old, new = vectors(50), vectors(60, seed=1)
    delta = make_delta(old, new)
    assert delta is not None
    length = len(new)
    for base, content, wanted in (
        (vectors(50), delta, length + 1),
        (b"nothing", delta, length),
        (old, b"nothing", length),
        (old, delta[:-5], length),
        (old, MAGIC, length),
        (npy(np.zeros((50, 32), dtype=np.float32)), delta, length),
        (old, delta[:16] + b"\x00" * 40, length),
    ):
        with pytest.raises(DeltaError):
            apply_delta(base, content, length=wanted)


def test_rows_that_the_old_file_lacks_are_refused():
    old = npy(np.arange(40, dtype=np.int32).reshape(20, 2))
    shorter = npy(np.arange(20, dtype=np.int32).reshape(10, 2))
    delta = make_delta(old, old)
    assert delta is not None
    with pytest.raises(DeltaError, match="has not"):
        apply_delta(shorter, delta, length=len(old))


def test_a_bomb_is_refused_before_it_is_large():
    bomb = MAGIC + b"\x80\x00\x00\x00\x00\x01\x00\x00" + zlib.compress(b"\0" * 50_000_000)
    with pytest.raises(DeltaError, match="larger than"):
        apply_delta(vectors(5), bomb, length=1000)
