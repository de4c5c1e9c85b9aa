"""Where the time of one list goes that no stage accounts for: out of the region's own counters, between two looks.

Means of one round, in milliseconds, of what a caller waits for::

    caller     |---------------------------- total -----------------------------|
    wire       |-----|  client, loopback, HTTP of both sides               |----|
    server           |--------------------- the region -------------------|
    waits               |-| begin   |-| heard                |-| ...                 threads and the loop
    stages        |-----|   |-------|    |-----------------|                          on the way, one behind the other
    rest            what is left: understanding the call, tags, encoding, spans, counting, the collector

The sources of the tables are read while the index searches: of the two the longer one is on the way.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

ROUTE = "/v1/recommend"
BESIDE_THE_INDEX = frozenset({"similar-to-recent", "follows", "trending", "editorial", "popular", "context", "new"})
_REQUESTS, _STAGES, _WAITS = (
    "atoll_http_request_seconds", "atoll_region_stage_seconds", "atoll_region_compute_wait_seconds",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Counted:
    """Sums so far, in seconds: of requests, of each stage, of waits; and how many requests."""

    requests: int
    server_s: float
    stages_s: Mapping[str, float]
    waits_s: Mapping[str, float]


async def counted(session: aiohttp.ClientSession, base: str) -> Counted:
    """What the region at `base` has counted until now."""
    async with session.get(f"{base}/metrics") as response:
        response.raise_for_status()
        return read_counters(await response.text())


def read_counters(page: str) -> Counted:
    """Of a metrics page."""
    sums: dict[str, dict[str, float]] = {name: {} for name in (_REQUESTS, _STAGES, _WAITS)}
    requests = 0
    for family in text_string_to_metric_families(page):
        for sample in family.samples if family.name in sums else ():
            label = next((value for name, value in sample.labels.items() if name != "le"), "")
            if sample.name.endswith("_sum"):
                sums[family.name][label] = sample.value
            elif sample.name == f"{_REQUESTS}_count" and label == ROUTE:
                requests = int(sample.value)
    return Counted(requests, sums[_REQUESTS].get(ROUTE, 0.0), sums[_STAGES], sums[_WAITS])


def budget(before: Counted, after: Counted, *, total_ms: float) -> dict[str, float]:
    """Figures of the lists between two looks; `total_ms` is what a caller waited for one, on average."""
    count = max(after.requests - before.requests, 1)

    def each_ms(now_s: float, then_s: float) -> float:
        return (now_s - then_s) / count * 1000

    stages = {name: each_ms(value, before.stages_s.get(name, 0.0)) for name, value in after.stages_s.items()}
    waits = {name: each_ms(value, before.waits_s.get(name, 0.0)) for name, value in after.waits_s.items()}
    beside = sum(stages.pop(name) for name in list(stages) if name in BESIDE_THE_INDEX)
    on_the_way = sum(stages.values()) - stages.get("ann", 0.0) + max(stages.get("ann", 0.0), beside)
    server = each_ms(after.server_s, before.server_s)
    return {
        "budget_wire_ms": total_ms - server,
        "budget_stages_ms": on_the_way,
        "budget_waits_ms": sum(waits.values()),
        "budget_rest_ms": server - on_the_way - sum(waits.values()),
    }
