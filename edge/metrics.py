"""What an edge counts. Labels name things (step, type, outcome), never anybody."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge

from infra.plumbing.tallies import LoopCounter


class EdgeMetrics:
    """All counters and gauges of one edge."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"atoll_edge_{name}", text, labels, registry=registry)

        self.answers = LoopCounter(
            "atoll_edge_answers", "Answered calls by step of the ladder.", ("step", "type"), registry=registry
        )
        self.hot = LoopCounter(
            "atoll_edge_hot", "Reads by what the hot path did with them.", ("outcome",), registry=registry
        )
        self.hot_spared = LoopCounter(
            "atoll_edge_hot_spared", "Sampled answers of the hot path beyond its bound a second: not kept, by what.",
            ("what",), registry=registry,
        )  # fmt: skip
        self.unanswered = counter("unanswered", "Valid calls that no rung could answer.")
        self.fills = counter("fills", "Fills of the cache by outcome.", "outcome")
        self.coalesced = counter("coalesced", "Misses that joined a fill under way.")
        self.not_modified = LoopCounter(
            "atoll_edge_not_modified", "Answers without a body: the caller had it.", (), registry=registry
        ).labels()
        self.filled_items = counter("filled_items", "Items taken from the release's lists to keep pages full.")
        self.grid = counter("grid", "Calls to the grid by outcome.", "outcome")
        self.region_calls = counter("region_calls", "Calls behind the edge by path and outcome.", "path", "outcome")
        self.routing = counter(
            "routing", "Calls behind the edge: first, retried, refused by the budget, hedged, hedge-won, shed.", "kind"
        )
        self.invalidations = counter("invalidations", "Messages from the grid by kind.", "kind")
        self.notices = counter("notices", "Times the region was asked what was missed, by outcome.", "outcome")
        self.shared_limits = counter("shared_limits", "Notices of what heavy callers took, by outcome.", "outcome")
        self.limited = counter("limited", "Calls refused because their caller makes too many.")
        self.events = counter("events", "Event batches by outcome.", "outcome")
        self.unknown_fields = counter(
            "unknown_event_fields", "Fields of events that only a newer schema knows; they were left out."
        )
        self.dropped_work = counter("dropped_work", "Background work that was dropped because there was too much.")
        self.lists = counter("lists", "Tries to load a release's lists by outcome.", "outcome")
        self._registry = registry

    def watch(self, name: str, text: str, value: Callable[[], float]) -> None:
        """Show `value()` as the gauge atoll_edge_<name>, read when somebody scrapes."""
        Gauge(f"atoll_edge_{name}", text, registry=self._registry).set_function(value)
