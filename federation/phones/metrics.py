"""What Prometheus reads of the simulated phones: counts over all of them."""

from collections.abc import Callable, Iterator, Mapping

from prometheus_client import CollectorRegistry, Metric, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector


class PhoneCounts(Collector):
    """Reads the counts when somebody looks.

    Args:
        phones: how many there are.
        counts: how often phones did what, by name.
    """

    def __init__(self, *, phones: int, counts: Callable[[], Mapping[str, int]]) -> None:
        self._phones = phones
        self._counts = counts

    def collect(self) -> Iterator[Metric]:
        """The number of phones, and what they did."""
        yield GaugeMetricFamily("atoll_phones", "Simulated phones in this process.", value=self._phones)
        done = CounterMetricFamily("atoll_phone_tasks", "What became of tasks of rounds.", labels=("outcome",))
        for name, count in self._counts().items():
            done.add_metric((name,), count)
        yield done


def phones_registry(*, phones: int, counts: Callable[[], Mapping[str, int]]) -> CollectorRegistry:
    """A registry with the phones' counts and this process's own figures."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    registry.register(PhoneCounts(phones=phones, counts=counts))
    return registry
