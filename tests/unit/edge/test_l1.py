"""The in-process cache: bounded whatever happens, scan resistant, and it forgets."""

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from edge.cache.l1 import FrequencySketch, L1Cache


@dataclass
class Blob:
    size: int

    def size_bytes(self) -> int:
        return self.size


actions = st.lists(st.tuples(st.sampled_from("gpd"), st.integers(0, 12), st.integers(0, 60)), max_size=200)


@given(actions)
def test_bytes_stay_bounded_and_add_up(steps: list[tuple[str, int, int]]) -> None:
    cache: L1Cache[Blob] = L1Cache(bytes_max=100)
    for what, key, size in steps:
        if what == "g":
            cache.get(key)
        elif what == "d":
            cache.discard(key)
        else:
            kept = cache.put(key, Blob(size))
            assert (cache.get(key) is not None) == kept
        held = [*cache._probation.values(), *cache._protected.values()]
        assert cache.size_bytes == sum(size for _, size in held) <= 100
        assert all(size == blob.size for blob, size in held)
        assert cache._protected_bytes <= 80


def test_a_scan_does_not_push_out_what_is_asked_for() -> None:
    cache: L1Cache[Blob] = L1Cache(bytes_max=1000)
    for _ in range(3):
        for key in range(80):
            if cache.get(("hot", key)) is None:
                cache.put(("hot", key), Blob(10))
    for key in range(5000):
        cache.get(("scan", key))
        cache.put(("scan", key), Blob(10))
    assert sum(cache.get(("hot", key)) is not None for key in range(80)) >= 78


def test_a_key_that_becomes_popular_gets_in() -> None:
    cache: L1Cache[Blob] = L1Cache(bytes_max=100)
    for key in range(10):
        cache.put(key, Blob(10))
    for _ in range(3):
        if cache.get("new") is None:
            cache.put("new", Blob(10))
    assert cache.get("new") is not None
    assert cache.counts.evicted == 1
    assert "bytes" in repr(cache)


def test_too_large_is_not_admitted_and_a_held_key_is_replaced() -> None:
    cache: L1Cache[Blob] = L1Cache(bytes_max=100)
    assert not cache.put("huge", Blob(101))
    cache.put("a", Blob(50))
    cache.put("b", Blob(40))
    assert cache.put("a", Blob(55))
    held = cache.get("a")
    assert held is not None
    assert held.size == 55
    assert cache.counts.not_admitted == 1


def test_frequencies_fade() -> None:
    sketch = FrequencySketch()
    for _ in range(15):
        sketch.add("old")
    before = sketch.estimate("old")
    for number in range(170_000):
        sketch.add(number % 50_000)
    assert before == 15
    assert sketch.estimate("old") < 15 + 5
    sketch._halve()
    assert sketch.estimate("old") <= 10
