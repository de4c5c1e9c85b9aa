import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.plumbing.grid.bounded_map import ENTRY_OVERHEAD_BYTES, BoundedMap

KEYS = st.sampled_from("abcde")
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), KEYS, st.integers(0, 400), st.floats(0.1, 5.0)),
        st.tuples(st.just("get"), KEYS, st.just(0), st.just(0.0)),
        st.tuples(st.just("delete"), KEYS, st.just(0), st.just(0.0)),
        st.tuples(st.just("wait"), KEYS, st.just(0), st.floats(0.0, 3.0)),
    ),
    max_size=60,
)


@given(steps=STEPS)
def test_it_holds_what_a_plain_map_holds_or_less_and_never_more_bytes(
    steps: list[tuple[str, str, int, float]],
) -> None:
    bytes_max = 1500
    bounded = BoundedMap(bytes_max=bytes_max)
    model: dict[str, tuple[bytes, float]] = {}
    now_s = 0.0
    for step, key, size, seconds in steps:
        if step == "put":
            bounded.put(key, bytes(size), ttl_s=seconds, now_s=now_s)
            model[key] = (bytes(size), now_s + seconds)
        elif step == "get":
            value, expires_s = model.get(key, (None, 0.0))
            assert bounded.get(key, now_s=now_s) in ((value, None) if expires_s > now_s else (None,))
        elif step == "delete":
            bounded.delete(key)
            model.pop(key, None)
        else:
            now_s += seconds
        assert bounded.bytes_used <= bytes_max
        assert bounded.bytes_used >= len(bounded) * ENTRY_OVERHEAD_BYTES
    for key in "abcde":
        bounded.delete(key)
    assert (bounded.bytes_used, len(bounded)) == (0, 0)


def test_it_counts_what_happens() -> None:
    bounded = BoundedMap(bytes_max=3 * (ENTRY_OVERHEAD_BYTES + 11))
    for key in "abcd":
        bounded.put(key, bytes(10), ttl_s=1.0, now_s=0.0)
    assert bounded.get("a", now_s=0.0) is None
    assert bounded.get("d", now_s=0.0) is not None
    bounded.sweep(now_s=1.0)
    counts = bounded.counts
    assert (counts.puts, counts.evictions, counts.expirations, counts.hits, counts.misses) == (4, 1, 3, 1, 1)
    assert len(bounded) == 0


def test_expired_entries_go_without_being_asked_for() -> None:
    bounded = BoundedMap(bytes_max=1 << 20)
    for number in range(20):
        bounded.put(f"k{number}", b"x", ttl_s=1.0, now_s=0.0)
    for _ in range(3):
        bounded.get("other", now_s=2.0)
    assert len(bounded) == 0


def test_a_key_put_again_lives_as_long_as_its_last_value() -> None:
    bounded = BoundedMap(bytes_max=1 << 20)
    bounded.put("k", b"1", ttl_s=1.0, now_s=0.0)
    bounded.put("k", b"2", ttl_s=10.0, now_s=0.5)
    assert bounded.get("k", now_s=5.0) == b"2"
    assert bounded.counts.expirations == 0


def test_old_expiries_do_not_pile_up() -> None:
    bounded = BoundedMap(bytes_max=1 << 20)
    for _ in range(10_000):
        bounded.put("k", b"x", ttl_s=1e9, now_s=0.0)
    assert len(bounded._expiries) <= 100


@pytest.mark.parametrize("ttl_s", [0.0, -1.0, float("nan")])
def test_what_has_no_time_to_live_is_not_kept(ttl_s: float) -> None:
    bounded = BoundedMap(bytes_max=1 << 20)
    bounded.put("k", b"old", ttl_s=10.0, now_s=0.0)
    bounded.put("k", b"new", ttl_s=ttl_s, now_s=0.0)
    assert bounded.get("k", now_s=0.0) is None


def test_what_alone_exceeds_the_bound_is_not_kept_and_evicts_nothing() -> None:
    bounded = BoundedMap(bytes_max=1000)
    bounded.put("small", b"x", ttl_s=10.0, now_s=0.0)
    bounded.put("large", bytes(1000), ttl_s=10.0, now_s=0.0)
    assert bounded.get("large", now_s=0.0) is None
    assert bounded.get("small", now_s=0.0) == b"x"
