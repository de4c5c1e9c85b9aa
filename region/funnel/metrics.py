"""What the funnel counts: slates, degraded parts, time per stage. Labels are words of ours, never a caller's."""

from collections.abc import Mapping, Sequence

from prometheus_client import CollectorRegistry, Counter

from infra.contracts.messages import RecommendationType
from infra.plumbing.tallies import LoopHistogram
from infra.plumbing.telemetry import DURATION_BUCKETS_S
from region.funnel.recording import Recorder


class FunnelMetrics:
    """Counters and histograms of one process."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._slates = Counter("atoll_region_slates", "Slates by type of list.", ("type",), registry=registry)
        self._degraded = Counter("atoll_region_degraded", "Answers that missed a part.", ("part",), registry=registry)
        # A list has a dozen stages; all are counted from the loop.
        self._stages = LoopHistogram(
            "atoll_region_stage_seconds", "Time per stage.", "stage", bounds=DURATION_BUCKETS_S, registry=registry
        )
        self._empty = Counter("atoll_region_empty_slates", "Slates without an item.", registry=registry)
        self._late = Counter("atoll_region_deadline_passed", "Calls whose deadline was over.", registry=registry)
        self._unknown = Counter("atoll_region_unknown_items", "History items the release lacks.", registry=registry)
        self._kept_out = Counter(
            "atoll_region_rule_kept_out", "Candidates that a hard rule kept out.", ("rule",), registry=registry
        )
        self._rule_errors = Counter(
            "atoll_region_rule_errors", "Items for which an expression of a rule failed.", ("rule",), registry=registry
        )
        self._explored = Counter(
            "atoll_region_explored", "Exploration slots filled, by what was drawn: new or known.", ("kind",),
            registry=registry,
        )  # fmt: skip
        self._exposures = Counter(
            "atoll_region_exposures", "Pages with drawn items: logged, or too many to be.", ("outcome",),
            registry=registry,
        )  # fmt: skip
        self._parts: dict[str, int] = {}

    def record(self, kind: RecommendationType, recorder: Recorder, *, items: int) -> None:
        """Count one answered call."""
        self._slates.labels(kind.value).inc()
        for stage in recorder.stages:
            self._stages.labels(stage.stage).observe(stage.took_ms / 1000)
            if stage.stage == "query":
                self._unknown.inc(max(stage.candidates_in - stage.candidates_out, 0))
        for part in recorder.degraded:
            self._degraded.labels(part).inc()
            self._parts[part] = self._parts.get(part, 0) + 1
        if not items:
            self._empty.inc()

    def kept_out(self, counts: Mapping[str, int]) -> None:
        """Count what hard rules kept out of one call."""
        for rule, count in counts.items():
            self._kept_out.labels(rule).inc(count)

    def rule_failed(self, rule: str) -> None:
        """Count an expression of a rule that failed for an item."""
        self._rule_errors.labels(rule).inc()

    def explored(self, new: Sequence[bool], *, logged: bool) -> None:
        """Count the drawn items of one page, and whether the page was logged."""
        for one in new:
            self._explored.labels("new" if one else "known").inc()
        self._exposures.labels("logged" if logged else "passed over").inc()

    def deadline_passed(self) -> None:
        """Count a call that nobody waited for any more."""
        self._late.inc()

    @property
    def degraded_counts(self) -> dict[str, int]:
        """How many answers missed each part since the start."""
        return dict(self._parts)
