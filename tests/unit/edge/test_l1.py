"""The in-process cache: bounded whatever happens, scan resistant, and it forgets."""

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from edge.cache.l1 import L1Cache


@dataclass
class Blob:
    size: int
    hits: int = 0
    spare: int = 0

    def size_bytes(self) -> int:
        return self.size + self.spare

    def spare_bytes(self) -> int:
        return self.spare

    def give_up_spare(self) -> None:
        self.spare = 0


actions = st.lists(
    st.tuples(st.sampled_from("gpd"), st.integers(0, 12), st.integers(0, 60), st.integers(0, 30)), max_size=200
)


@given(actions)
def test_bytes_stay_bounded_and_add_up(steps: list[tuple[str, int, int, int]]) -> None:
    cache: L1Cache[Blob] = L1Cache(bytes_max=100)
    for what, key, size, spare in steps:
        if what == "g":
            cache.get(key)
        elif what == "d":
            cache.discard(key)
        else:
            kept = cache.put(key, Blob(size, spare=spare))
            assert (cache.get(key) is not None) == kept
        held = cache._held.values()
        assert cache.size_bytes == sum(place.size for place in held) <= 100
        assert all(place.size == place.value.size_bytes() for place in held)
        assert cache.spare_bytes == sum(place.value.spare for place in held) <= 25
        assert sorted(map(id, cache._ring)) == sorted(map(id, held))
        assert all(cache._ring[place.place] is place for place in held)
        assert len(cache._ghosts) <= 12
        assert not set(cache._ghosts) & set(cache._held)


def test_what_values_can_do_without_never_pushes_out_more_than_a_quarter() -> None:
    cache: L1Cache[Blob] = L1Cache(bytes_max=1000)
    for key in range(100):
        cache.put(key, Blob(10))
    for key in range(100):  # a release switch: every list is made anew, in the order of demand
        cache.put(key, Blob(10, spare=10))
    assert cache.spare_bytes == 250
    assert cache.size_bytes == 1000
    assert len(cache) == 75
    assert cache.counts.spares_given_up > 0
    kept = [key for key, value in cache.items() if value.spare]
    assert len(kept) == 25
    for again in kept:  # the next time they are made anew, long after the switch
        cache.put(again, Blob(10))
    assert cache.spare_bytes == 0


def test_keys_that_match_are_forgotten_and_counted_out() -> None:
    cache: L1Cache[Blob] = L1Cache(bytes_max=1000)
    for number in range(30):
        cache.put(number, Blob(100))
    held = {key for key, _ in cache.items()}
    assert set(cache.discard_where(lambda key: isinstance(key, int) and key % 2 == 0)) == {
        key for key in held if isinstance(key, int) and key % 2 == 0
    }
    assert {key for key, _ in cache.items()} == {key for key in held if isinstance(key, int) and key % 2}
    assert cache.size_bytes == 100 * len(cache)


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
    for key in range(100, 130):
        cache.put(key, Blob(10))
    assert cache.get("new") is not None
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


def test_a_hit_past_the_cache_counts_like_any_other() -> None:
    cache: L1Cache[Blob] = L1Cache(bytes_max=100)
    served = Blob(10)
    cache.put("served", served)
    served.hits += 1
    for key in range(50):
        cache.put(key, Blob(10))
    assert cache.get("served") is served


def test_what_left_early_and_is_asked_for_again_stays() -> None:
    cache: L1Cache[Blob] = L1Cache(bytes_max=100)
    cache.put("again", Blob(10))
    for key in range(10):
        cache.put(key, Blob(10))
    assert cache.get("again") is None
    cache.put("again", Blob(10))
    for key in range(10, 18):
        cache.put(key, Blob(10))
    assert cache.get("again") is not None


def test_what_was_popular_once_does_not_stay_for_ever() -> None:
    cache: L1Cache[Blob] = L1Cache(bytes_max=100)
    old = Blob(10)
    cache.put("old", old)
    old.hits = 1_000
    for round_ in range(40):
        for key in range(8):
            if cache.get((round_, key)) is None:
                cache.put((round_, key), Blob(10))
            cache.get((round_, key))
    assert cache.get("old") is None


def test_every_value_that_leaves_is_told_once() -> None:
    left: list[int] = []
    cache: L1Cache[Blob] = L1Cache(bytes_max=100, left=lambda blob: left.append(id(blob)))
    blobs = [Blob(10) for _ in range(40)]
    for number, blob in enumerate(blobs):
        cache.put(number % 15, blob)
    cache.discard(14)
    held = {id(place.value) for place in cache._held.values()}
    assert sorted([*left, *held]) == sorted(id(blob) for blob in blobs)
