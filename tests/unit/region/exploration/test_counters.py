"""Decayed counts out of windows that hold one another, and what the bandit knows of an item that is in none."""

import threading
from collections.abc import Iterable, Sequence
from typing import ClassVar

import pytest

from infra.plumbing.clock import ManualClock
from region.exploration.counters import LONG_EVERY_S, RATE_DEFAULT, WINDOWS, LiveCounters, Tally, decayed
from region.store.memory import MemoryStore
from region.store.port import ItemCounters


def one(clicks: int, impressions: int) -> list[ItemCounters]:
    return [ItemCounters(item="a", clicks=clicks, impressions=impressions)]


def test_what_is_older_weighs_less() -> None:
    tally = decayed([one(1, 100), one(3, 200), one(3, 200), one(7, 600)])
    clicks, impressions = tally.by_item["a"]
    assert clicks == pytest.approx(1 + 0.7 * 2 + 0.25 * 4)
    assert impressions == pytest.approx(100 + 0.7 * 100 + 0.25 * 400)
    assert tally.rate == pytest.approx(clicks / impressions)


def test_an_item_that_fell_out_of_a_longer_window_counts_once() -> None:
    assert decayed([one(2, 10), [], one(2, 10), []]).by_item["a"] == (2.0, 10.0)


def test_of_an_unknown_item_nothing_is_known() -> None:
    clicks, impressions = Tally({"a": (1.0, 2.0)}).of(["b", "a"])
    assert (clicks.tolist(), impressions.tolist()) == ([0.0, 1.0], [0.0, 2.0])
    assert Tally().of([])[0].size == 0


async def test_long_windows_are_read_now_and_then_and_summed_beside_the_requests(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock, threads = ManualClock(), set[int]()

    def summed(windows: Sequence[Iterable[ItemCounters]]) -> Tally:
        threads.add(threading.get_ident())
        return decayed(windows)

    class Counting(MemoryStore):
        since: ClassVar[list[int]] = []

        async def item_counters(self, *, since_ms: int, limit: int) -> list[ItemCounters]:
            self.since.append(since_ms)
            return one(len(self.since), 10 * len(self.since))

    monkeypatch.setattr("region.exploration.counters.decayed", summed)
    counters = LiveCounters(clock=clock, store=Counting(clock=clock))
    await counters.refresh()
    assert len(Counting.since) == len(WINDOWS)
    clock.advance(LONG_EVERY_S / 2)
    await counters.refresh()
    assert len(Counting.since) == len(WINDOWS) + 1
    assert counters.tally.by_item["a"] == (5.0, 50.0), "what the shortest window says now"
    clock.advance(LONG_EVERY_S / 2)
    await counters.refresh()
    assert len(Counting.since) == 2 * len(WINDOWS) + 1
    assert threading.get_ident() not in threads


async def test_a_store_is_read_and_without_one_there_is_nothing() -> None:
    clock = ManualClock()
    counters = LiveCounters(clock=clock, store=MemoryStore(clock=clock))
    await counters.refresh()
    await LiveCounters(clock=clock).refresh()
    assert counters.tally == Tally(rate=RATE_DEFAULT)
