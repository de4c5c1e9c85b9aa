"""Where the time of a list goes, out of a region's own counters between two looks."""

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from infra.bench.miss.budget import ROUTE, budget, read_counters
from infra.plumbing.tallies import LoopHistogram

BOUNDS = (0.001, 0.01)


def test_what_is_on_the_way_counts_once_and_the_rest_is_what_is_left() -> None:
    registry = CollectorRegistry()
    requests, stages, waits = (
        LoopHistogram(name, "Text.", label, bounds=BOUNDS, registry=registry)
        for name, label in (
            ("atoll_http_request_seconds", "route"), ("atoll_region_stage_seconds", "stage"),
            ("atoll_region_compute_wait_seconds", "until"),
        )
    )  # fmt: skip

    def answer(times: int) -> str:
        for _ in range(times):
            requests.labels(ROUTE).observe(0.006)
            requests.labels("/metrics").observe(9.0)
            for stage, took_ms in (("store", 0.5), ("ann", 1.0), ("similar-to-recent", 0.3), ("popular", 0.1),
                                   ("ranker", 2.0)):  # fmt: skip
                stages.labels(stage).observe(took_ms / 1000)
            for until in ("begun", "heard", "begun", "heard"):
                waits.labels(until).observe(0.0001)
        return generate_latest(registry).decode()

    before, after = read_counters(answer(3)), read_counters(answer(5))
    assert (before.requests, after.requests) == (3, 8)
    assert budget(before, after, total_ms=7.0) == pytest.approx(
        {"budget_wire_ms": 1.0, "budget_stages_ms": 3.5, "budget_waits_ms": 0.4, "budget_rest_ms": 2.1}
    )


def test_before_the_first_list_nothing_is_known() -> None:
    nothing = read_counters(generate_latest(CollectorRegistry()).decode())
    assert budget(nothing, nothing, total_ms=0.0) == dict.fromkeys(
        ("budget_wire_ms", "budget_stages_ms", "budget_waits_ms", "budget_rest_ms"), 0.0
    )
