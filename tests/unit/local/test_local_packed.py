"""MessagePack in the middle of other bytes: events and features are found by their shape, other things are not."""

import random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.local.residency.contract_fields import resident_names
from infra.local.residency.packed import HITS_MAX, embedded_packed, is_event
from infra.local.residency.scan import Searcher
from infra.local.residency.structure import EVENT_SHAPE

SEARCHER = Searcher({"user_id": ["nobody"]})
EVENT = {"event_id": "e-1", "type": "click", "item": "i-1", "at_ms": 1_700_000_000_000}
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=20) | st.dictionaries(st.text(), inner, max_size=20), max_leaves=30,
)  # fmt: skip


def noise(seed: int, size: int) -> bytes:
    return random.Random(seed).randbytes(size)


def told(body: bytes, *, leaving: bool = True) -> set[str]:
    return {kind for kind, _ in SEARCHER.search_body(body, leaving=leaving)}


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ({"events": [EVENT], "subject_version": 3}, "field event_id"),
        (["e-1", "purchase", "i-1", 1_700_000_000_001], EVENT_SHAPE),
        ([["a", "view", 1_700_000_000_001, "i"] for _ in range(40)], EVENT_SHAPE),
        ({"e": "e-1", "k": "follow", "w": 1_700_000_000_001}, EVENT_SHAPE),
        ({"affinities": {"brand": [["acme", 0.5, 1]]}, "last_event_ms": 5}, "field affinities"),
        ({"x": {"y": {"history": [["i", 3, 1]], "received_ms": 4}}}, "field history"),
    ],
)
def test_what_is_in_the_middle_is_found_by_its_shape(value: object, kind: str) -> None:
    packed = msgspec.msgpack.encode(value)
    for seed in range(20):
        assert kind in told(noise(seed, 200 + seed) + packed + noise(seed + 1, 300))
    assert EVENT_SHAPE not in told(packed, leaving=False)


@pytest.mark.parametrize(
    "value",
    [
        {"popular": [["i-1", 12], ["i-2", 7]], "made_ms": 1_700_000_000_000},
        {"click": {"strength": 4}, "view": {"strength": 3}},
        ["click", "view", "purchase"],
        ["view", 1_700_000_000_000, 3],
    ],
)
def test_what_speaks_of_nobody_is_not(value: object) -> None:
    assert not told(noise(1, 100) + msgspec.msgpack.encode(value) + noise(2, 100))


def test_noise_and_words_in_it_say_nothing() -> None:
    words = [b"\xa5click", b"\xa7subject", b"\xa8event_id", b"\xa7history"]
    body = b"".join(noise(seed, 997) + words[seed % 4] for seed in range(200))
    assert not told(b"\x00" + body)


@given(st.binary(max_size=64), VALUES, st.binary(max_size=64))
def test_whatever_stands_there_is_read_as_it_was_written(before: bytes, value: object, after: bytes) -> None:
    written = ["subject", value]
    body = b"\x01" + before + msgspec.msgpack.encode(written) + after
    assert written in list(embedded_packed(body, frozenset({"subject"})))


def test_a_body_full_of_hits_is_given_up_on_not_waited_for() -> None:
    body = b"\x00" + b"\x92\xa7subject\x01" * (3 * HITS_MAX)
    assert sum(1 for _ in embedded_packed(body, resident_names())) < 3 * HITS_MAX


def test_shapes() -> None:
    assert is_event(EVENT)
    assert is_event(list(EVENT.values()))
    assert not is_event({**EVENT, "at_ms": 5})
    assert not is_event({**EVENT, "type": "tap"})
    assert not is_event(["click", "i-1", 1_700_000_000_000] + ["x"] * 20)
