"""Tuning an index to a recall: what is tried, what is taken, and the reason, written into the release.

Search settings are tried on queries near the catalogue, and the cheapest that reaches the recall wanted is taken. Cost
is counted in vectors looked at, not in time, so that the same vectors give the same release. What can be known without
trying is not tried (more partitions or more reordered find no less): at 10 M items one trial takes seconds.
"""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from infra.contracts.features import FloatArray, IntArray
from infra.contracts.release import INDEX_REPORT, REORDER_COST, IndexReport, IndexTrial

NEIGHBOURS: Final = 100
LARGE_ITEMS: Final = 2_000_000
RECALL_WANTED: Final = 0.985
"""At 10 M items half as much would cost thrice: RECALL_WANTED_LARGE from LARGE_ITEMS on. Both a little above what is
promised (0.98 and 0.95), because the queries of tomorrow are not those that were tuned on."""
RECALL_WANTED_LARGE: Final = 0.955
TUNING_QUERIES: Final = 300
_REORDERS: Final = (1000, 600, 400, 300, 200, 150)
_FEWEST_SEARCHED: Final = 1 / 128
_STEP: Final = 1.12
"""From one number of partitions to the next that is tried."""
_STEPS_WORTH: Final = 7
_EXACT_BLOCK: Final = 65_536


def write_report(report: IndexReport, release: Path) -> None:
    """Put the report where the region that searches the index looks for it."""
    (release / INDEX_REPORT).write_bytes(msgspec.json.format(msgspec.json.encode(report)))


def exact_report(num_items: int, *, items_max: int) -> IndexReport:
    """The report of an index that compares with everything."""
    reason = f"{num_items} items are at most {items_max}: exact search costs less than what surrounds it"
    return IndexReport(kind="exact", num_items=num_items, reason=reason)


def tuned(searcher: Any, vectors: FloatArray, *, leaves: int) -> IndexReport:
    """The search settings for `searcher` over `vectors`, with what was tried and the reason for the choice."""
    wanted = RECALL_WANTED if len(vectors) <= LARGE_ITEMS else RECALL_WANTED_LARGE
    queries = tuning_queries(vectors)
    exact = exact_neighbours(vectors, queries, NEIGHBOURS)
    trials = _Trials(searcher, queries, exact, leaves=leaves, count=len(vectors)).search(wanted)
    good = [trial for trial in trials if trial.recall >= wanted]
    best = min(good, key=lambda trial: trial.cost) if good else max(trials, key=lambda trial: trial.recall)
    reason = (
        f"the cheapest of {len(trials)} settings tried with recall@{NEIGHBOURS} of {wanted} or more, "
        f"on {len(queries)} queries"
        if good
        else f"no setting reached {wanted}: this one has the best recall"
    )
    return IndexReport(
        kind="tree", num_items=len(vectors), reason=reason, leaves=leaves, leaves_to_search=best.leaves_to_search,
        reorder=best.reorder, recall=best.recall, recall_wanted=wanted, queries=len(queries), trials=trials,
    )  # fmt: skip


def tuning_queries(vectors: FloatArray) -> FloatArray:
    """`[TUNING_QUERIES, dim]`: means of an item and of noise as long as items are: near the catalogue, not in it."""
    rng = np.random.default_rng(0)
    chosen = vectors[rng.integers(0, len(vectors), TUNING_QUERIES)]
    noise = rng.normal(size=chosen.shape) * float(vectors[: 10 * TUNING_QUERIES].std())
    near: FloatArray = (chosen + 0.4 * noise).astype(np.float32)
    return near


def exact_neighbours(vectors: FloatArray, queries: FloatArray, count: int) -> IntArray:
    """`[queries, count] int32`: the rows with the largest dot products, in blocks of bounded size; in no order."""
    kept = min(count, len(vectors))
    scores = np.full((len(queries), kept), -np.inf, dtype=np.float32)
    rows = np.zeros((len(queries), kept), dtype=np.int32)
    for start in range(0, len(vectors), _EXACT_BLOCK):
        block = queries @ vectors[start : start + _EXACT_BLOCK].T
        for query, found in enumerate(block):
            # Few are, after the first block: what is sorted is a hundredth of what is compared.
            above = np.flatnonzero(found > scores[query].min()).astype(np.int32)
            both = np.concatenate([scores[query], found[above]])
            best = np.argpartition(-both, kept - 1)[:kept]
            scores[query] = both[best]
            rows[query] = np.concatenate([rows[query], above + np.int32(start)])[best]
    return rows


def recall_of(found: Iterable[IntArray], exact: IntArray) -> float:
    """Share of the `exact` rows that `found` holds, over all queries."""
    hits = sum(np.intersect1d(one, other).size for one, other in zip(found, exact, strict=True))
    return float(hits / max(exact.size, 1))


def first_reaching(count: int, reaches: Callable[[int], bool], *, start: int = 0) -> int | None:
    """The smallest number from `start` on and below `count` that `reaches`, None if none does.

    `reaches` is taken to be false up to some number and true from there on; it is asked about logarithmically many.
    """
    below, at, stride = start - 1, start, 1
    while at < count and not reaches(at):
        below, at, stride = at, min(at + stride, count - 1) if at < count - 1 else count, 2 * stride
    if at >= count:
        return None
    while at - below > 1:
        middle = (at + below) // 2
        at, below = (middle, below) if reaches(middle) else (at, middle)
    return at


def searched_steps(leaves: int) -> Sequence[int]:
    """How many of `leaves` partitions may be searched: each number _STEP times the one before, all of them last."""
    steps = {leaves}
    wanted = float(leaves)
    while wanted > max(1.0, leaves * _FEWEST_SEARCHED):
        wanted /= _STEP
        steps.add(max(1, round(wanted)))
    return sorted(steps)


class _Trials:
    """Settings of one searcher, each tried once.

    Args:
        searcher: a built index over `count` vectors in `leaves` partitions.
        queries: asked one by one, as a region does: a batch finds more at the same settings (.986 for .970 at 1 M
            items).
        exact: what they should find.
    """

    def __init__(self, searcher: Any, queries: FloatArray, exact: IntArray, *, leaves: int, count: int) -> None:
        self._searcher, self._queries, self._exact = searcher, queries, exact
        self._leaves, self._count = leaves, count
        self.steps = searched_steps(leaves)
        self.tried: dict[tuple[int, int], IndexTrial] = {}

    def of(self, searched: int, reorder: int) -> IndexTrial:
        """What is found when `searched` partitions are searched and the best `reorder` are scored exactly."""
        if (searched, reorder) not in self.tried:
            kept = self._exact.shape[1]
            found = [self._searcher.search(query, kept, reorder, searched)[0] for query in self._queries]
            cost = self._count * searched / self._leaves + REORDER_COST * reorder + self._leaves
            recall = round(recall_of(found, self._exact), 4)
            self.tried[searched, reorder] = IndexTrial(
                leaves_to_search=searched, reorder=reorder, recall=recall, cost=cost
            )
        return self.tried[searched, reorder]

    def search(self, wanted: float) -> tuple[IndexTrial, ...]:
        """Try what could be the cheapest setting with a recall of `wanted`; everything that was tried."""
        least, stop = 0, len(self.steps)
        for reorder in _REORDERS:

            def reaches(step: int, reorder: int = reorder) -> bool:
                return self.of(self.steps[step], reorder).recall >= wanted

            found = first_reaching(stop, reaches, start=least)
            if found is None:
                break
            # With fewer reordered as many partitions are needed at least; twice as many would cost more than is saved.
            least, stop = found, min(len(self.steps), found + _STEPS_WORTH)
        return tuple(self.tried.values())
