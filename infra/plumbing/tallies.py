"""Counters and histograms of one event loop: a plain addition each, read when somebody scrapes.

`prometheus_client`'s own take a lock and several calls per event, which is most of what a cached answer costs. These
are written by one thread only; a scrape that reads them from the same loop sees whole numbers.
"""

from bisect import bisect_left
from collections.abc import Iterator, Sequence

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector


class Tally:
    """One series of a `LoopCounter`. `parts` are counted elsewhere and belong to it as well: summed when read."""

    __slots__ = ("count", "parts")

    def __init__(self) -> None:
        self.count = 0
        self.parts: list[Tally] = []

    @property
    def total(self) -> int:
        """Its own events and those of its parts."""
        return self.count + sum(part.total for part in self.parts)

    def inc(self, amount: int = 1) -> None:
        """Count `amount` events."""
        self.count += amount


class LoopCounter(Collector):
    """The series `<name>_total`, by label values. `labels(...)` may be kept: it is the same object every time."""

    def __init__(self, name: str, text: str, labels: Sequence[str], *, registry: CollectorRegistry) -> None:
        self._name, self._text, self._labels = name, text, tuple(labels)
        self._series: dict[tuple[str, ...], Tally] = {}
        registry.register(self)

    def labels(self, *values: str) -> Tally:
        """The series of these label values, in the order of the names."""
        series = self._series.get(values)
        if series is None:
            if len(values) != len(self._labels):
                raise ValueError(f"{self._name} has the labels {self._labels}.")
            series = self._series[values] = Tally()
        return series

    def inc(self, amount: int = 1) -> None:
        """Count `amount` events of a counter without labels."""
        self.labels().count += amount

    def describe(self) -> Iterator[CounterMetricFamily]:
        """What the registry checks for names that are taken."""
        yield CounterMetricFamily(self._name, self._text, labels=self._labels)

    def collect(self) -> Iterator[CounterMetricFamily]:
        """What a scrape shows."""
        family = CounterMetricFamily(self._name, self._text, labels=self._labels)
        for values, series in self._series.items():
            family.add_metric(values, series.total)
        yield family


class Bins:
    """One series of a `LoopHistogram`: how many values fell below each bound, and their sum."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        """Count one value, which stands for `times` events."""
        self.counts[bisect_left(self.bounds, value)] += times
        self.total += times * value


class LoopHistogram(Collector):
    """A histogram by one label; `bounds` are upper bounds, rising."""

    def __init__(
        self, name: str, text: str, label: str, *, bounds: Sequence[float], registry: CollectorRegistry
    ) -> None:
        self._name, self._text, self._label, self._bounds = name, text, label, tuple(bounds)
        self._series: dict[str, Bins] = {}
        registry.register(self)

    def labels(self, value: str) -> Bins:
        """The series of this label value; the same object every time."""
        series = self._series.get(value)
        if series is None:
            series = self._series[value] = Bins(self._bounds)
        return series

    def describe(self) -> Iterator[HistogramMetricFamily]:
        """What the registry checks for names that are taken."""
        yield HistogramMetricFamily(self._name, self._text, labels=(self._label,))

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """What a scrape shows: counts up to each bound, as Prometheus wants them."""
        family = HistogramMetricFamily(self._name, self._text, labels=(self._label,))
        for value, series in self._series.items():
            below, buckets = 0, []
            for bound, count in zip((*map(str, self._bounds), "+Inf"), series.counts, strict=True):
                below += count
                buckets.append((bound, float(below)))
            family.add_metric((value,), buckets=buckets, sum_value=series.total)
        yield family
