"""What stands beside an index is found as if it stood in it, and is said again to a process that was started anew."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.contracts.features import IntArray
from region.retrieval.client import RetrievalClient
from region.retrieval.errors import QueryRefusedError
from region.retrieval.index import ExactIndex
from region.retrieval.protocol import (
    SIDE_ROWS_MAX,
    FrameBuffer,
    Kind,
    ProtocolError,
    Side,
    decode_side,
    encode_side,
    kind_of,
)
from region.retrieval.side import WithSide
from tests.unit.retrieval.test_retrieval_serving import DIM, QUERY, VECTORS, serving

BESIDE = np.asarray([30, 41], dtype=np.int32)
LARGE = np.full((2, DIM), 9.0, dtype=np.float32) * np.asarray([[1.0], [2.0]], dtype=np.float32)


@given(seed=st.integers(0, 1000), beside=st.integers(0, 12), k=st.integers(1, 50))
def test_an_index_and_its_side_are_searched_as_one(seed: int, beside: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(20 + beside, DIM)).astype(np.float32)
    index = WithSide(ExactIndex(vectors[:20]))
    index.replace(np.arange(20, 20 + beside, dtype=np.int32), vectors[20:])
    queries = rng.normal(size=(3, DIM)).astype(np.float32)
    rows, scores = index.search(queries, k)
    wanted, best = ExactIndex(vectors).search(queries, k)
    np.testing.assert_array_equal(rows, wanted)
    np.testing.assert_allclose(scores, best, rtol=1e-5)


def test_a_side_crosses_the_wire() -> None:
    (payload,) = FrameBuffer().feed(encode_side(Side(7, BESIDE, LARGE)))
    assert kind_of(payload) is Kind.SIDE
    found = decode_side(payload)
    assert found.request_id == 7
    np.testing.assert_array_equal(found.rows, BESIDE)
    np.testing.assert_array_equal(found.vectors, LARGE)
    for broken in (payload[:-1], payload[:5]):
        with pytest.raises(ProtocolError):
            decode_side(broken)
    for unknown in (b"", b"\x09" + payload[1:]):
        with pytest.raises(ProtocolError):
            kind_of(unknown)


async def test_a_side_is_found_replaced_and_outlives_the_process(tmp_path: Path) -> None:
    client = RetrievalClient(socket=tmp_path / "r.sock")
    async with serving(ExactIndex(VECTORS), tmp_path / "r.sock"):
        await client.put_side(BESIDE, LARGE)
        assert (await client.search(QUERY, 2, 1.0))[0].tolist() == [41, 30]
        await client.put_side(BESIDE[:1], LARGE[:1])
        assert (await client.search(QUERY, 2, 1.0))[0][0] == 30
    async with serving(ExactIndex(VECTORS), tmp_path / "r.sock"):
        rows, _ = await client.search(QUERY, 31, 1.0)
        assert rows[0] == 30
        assert sorted(rows.tolist()) == list(range(31))
        await client.put_side(BESIDE[:0], LARGE[:0])
        assert 30 not in (await client.search(QUERY, 31, 1.0))[0]
        await client.close()


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        (np.asarray([29, 41], np.int32), "own"),
        (np.asarray([41, 41], np.int32), "twice"),
        (np.arange(100, 102 + SIDE_ROWS_MAX, dtype=np.int32), "more than"),
        (np.asarray([30], np.int32), "do not fit"),
    ],
)
async def test_a_side_that_cannot_stand_is_refused_and_the_one_before_goes_on(
    tmp_path: Path, rows: IntArray, told: str
) -> None:
    async with serving(ExactIndex(VECTORS), tmp_path / "r.sock"):
        client = RetrievalClient(socket=tmp_path / "r.sock")
        await client.put_side(BESIDE, LARGE)
        with pytest.raises(QueryRefusedError, match=told):
            await client.put_side(rows, LARGE)
        with pytest.raises(QueryRefusedError, match="not finite"):
            await client.put_side(BESIDE, LARGE * np.nan)
        # What a client of another making might send.
        link = await client._connected()
        with pytest.raises(QueryRefusedError):
            await link.send(99, encode_side(Side(99, rows, LARGE[:1].repeat(len(rows), axis=0)[:, :3])))
        assert (await client.search(QUERY, 1, 1.0))[0].tolist() == [41]
        await client.close()
