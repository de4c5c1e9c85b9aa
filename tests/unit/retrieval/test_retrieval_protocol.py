"""The bytes of the retrieval protocol: what goes in comes out, and what does not fit is refused."""

import hypothesis.extra.numpy as arrays
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.contracts.features import FloatArray
from region.retrieval.errors import QueryRefusedError
from region.retrieval.protocol import (
    FRAME_BYTES_MAX,
    FrameBuffer,
    Hello,
    ProtocolError,
    Search,
    Status,
    check_query,
    decode_answer,
    decode_hello,
    decode_search,
    encode_answer,
    encode_failure,
    encode_hello,
    encode_search,
)

SHAPES = st.tuples(st.integers(1, 4), st.integers(1, 9))


@given(arrays.arrays(np.float32, SHAPES), st.integers(0, 2**32 - 1), st.integers(1, 4096))
def test_a_search_comes_out_as_it_went_in(vectors: FloatArray, request_id: int, k: int) -> None:
    (payload,) = FrameBuffer().feed(encode_search(Search(request_id, k, vectors)))
    found = decode_search(payload)
    assert (found.request_id, found.k) == (request_id, k)
    np.testing.assert_array_equal(found.vectors, vectors)


@given(SHAPES, st.integers(0, 2**32 - 1), st.randoms(use_true_random=False))
def test_an_answer_comes_out_as_it_went_in(shape: tuple[int, int], request_id: int, random: object) -> None:
    rng = np.random.default_rng(request_id)
    rows = rng.integers(-1, 1000, size=shape).astype(np.int32)
    scores = rng.normal(size=shape).astype(np.float32)
    (payload,) = FrameBuffer().feed(encode_answer(request_id, rows, scores))
    found = decode_answer(payload)
    assert (found.request_id, found.status) == (request_id, Status.OK)
    np.testing.assert_array_equal(found.rows, rows)
    np.testing.assert_array_equal(found.scores, scores)


@given(st.lists(st.binary(max_size=40), max_size=6), st.lists(st.integers(1, 7), min_size=1, max_size=5))
def test_frames_do_not_depend_on_how_the_stream_was_cut(payloads: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(len(payload).to_bytes(4, "little") + payload for payload in payloads)
    buffer, found, position, turn = FrameBuffer(), list[bytes](), 0, 0
    while position < len(stream):
        step = cuts[turn % len(cuts)]
        found += buffer.feed(stream[position : position + step])
        position, turn = position + step, turn + 1
    assert found == payloads


@given(st.binary(max_size=60))
def test_garbage_is_refused_or_read_but_never_crashes(payload: bytes) -> None:
    for decode in (decode_search, decode_answer, decode_hello):
        try:
            decode(payload)
        except ProtocolError:
            continue


def test_hello_and_failure() -> None:
    hello = Hello(64, 1682, "0123456789abcdef0123", "scann")
    (payload,) = FrameBuffer().feed(encode_hello(hello))
    assert decode_hello(payload) == hello
    with pytest.raises(ProtocolError, match="version"):
        decode_hello(b"otherone" + payload[8:])
    (payload,) = FrameBuffer().feed(encode_failure(7, Status.OVERLOADED, "too many"))
    answer = decode_answer(payload)
    assert (answer.request_id, answer.status, answer.message) == (7, Status.OVERLOADED, "too many")


def test_a_frame_above_the_bound_ends_the_stream() -> None:
    with pytest.raises(ProtocolError, match="longer than"):
        FrameBuffer().feed((FRAME_BYTES_MAX + 1).to_bytes(4, "little"))


@pytest.mark.parametrize(
    ("vectors", "k", "message"),
    [
        (np.zeros((1, 3), np.float32), 5, "does not fit"),
        (np.zeros(4, np.float32), 5, "does not fit"),
        (np.zeros((0, 4), np.float32), 5, "queries at once"),
        (np.zeros((257, 4), np.float32), 5, "queries at once"),
        (np.zeros((1, 4), np.float32), 0, "k = 0"),
        (np.zeros((1, 4), np.float32), 5000, "k = 5000"),
        (np.zeros((256, 4), np.float32), 4096, "too much"),
        (np.array([[0, np.nan, 0, 0]], np.float32), 5, "not finite"),
        (np.array([[0, 0, -np.inf, 0]], np.float32), 5, "not finite"),
    ],
)
def test_queries_that_must_not_reach_an_index(vectors: FloatArray, k: int, message: str) -> None:
    with pytest.raises(QueryRefusedError, match=message):
        check_query(vectors, k=k, dim=4)
