"""Tuning an index to a recall: what is tried, what is taken, and the reason, written into the release.

Search settings are tried on queries near the catalogue, and the cheapest is taken that keeps what is promised: on other
queries too, so what is held against the promise is the recall seen less what chance may have given it (SURE). Cost is
counted in vectors looked at, not in time, so that the same vectors give the same release. What can be known without
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
RECALL_PROMISED: Final = 0.98
"""At 10 M items half as much would cost thrice: RECALL_PROMISED_LARGE from LARGE_ITEMS on."""
RECALL_PROMISED_LARGE: Final = 0.95
TUNING_QUERIES: Final = 1_000
TUNING_QUERIES_LARGE: Final = 300
"""Exact search at 10 M items takes a core 30 ms a query."""
SURE: Final = 2.33
"""Standard errors of the mean recall that are taken off: another sample of as many queries, whose mean errs as much,
then falls short of the promise once in twenty times (1.645 times the root of two)."""
_REORDERS: Final = (1000, 600, 400, 350, 300, 275, 250, 225, 200, 175, 150)
_FEWEST_SEARCHED: Final = 1 / 128
_STEP: Final = 1.06
"""From one number of partitions to the next that is tried."""
_STEPS_WORTH: Final = 13
_EXACT_BLOCK: Final = 65_536
_LENGTH_OF: Final = 3_000
"""Vectors by which is judged how long they are."""


def write_report(report: IndexReport, release: Path) -> None:
    """Put the report where the region that searches the index looks for it."""
    (release / INDEX_REPORT).write_bytes(msgspec.json.format(msgspec.json.encode(report)))


def exact_report(num_items: int, *, items_max: int) -> IndexReport:
    """The report of an index that compares with everything."""
    reason = f"{num_items} items are at most {items_max}: exact search costs less than what surrounds it"
    return IndexReport(kind="exact", num_items=num_items, reason=reason)


def tuned(searcher: Any, vectors: FloatArray, *, leaves: int) -> IndexReport:
    """The search settings for `searcher` over `vectors`, with what was tried and the reason for the choice."""
    large = len(vectors) > LARGE_ITEMS
    promised = RECALL_PROMISED_LARGE if large else RECALL_PROMISED
    queries = tuning_queries(vectors, TUNING_QUERIES_LARGE if large else TUNING_QUERIES)
    exact = exact_neighbours(vectors, queries, NEIGHBOURS)
    trials = _Trials(searcher, queries, exact, leaves=leaves, count=len(vectors))
    tried = trials.search(promised)
    good = [trial for trial in tried if trials.surely(trial) >= promised]
    best = min(good, key=lambda trial: trial.cost) if good else max(tried, key=lambda trial: trial.recall)
    reason = (
        f"the cheapest of {len(tried)} settings tried whose recall@{NEIGHBOURS} on {len(queries)} queries, less {SURE} "
        f"standard errors, is {promised} or more: {trials.surely(best):.4f}"
        if good
        else f"no setting reached {promised}: this one has the best recall"
    )
    return IndexReport(
        kind="tree", num_items=len(vectors), reason=reason, leaves=leaves, leaves_to_search=best.leaves_to_search,
        reorder=best.reorder, recall=best.recall, recall_wanted=promised, queries=len(queries), trials=tried,
    )  # fmt: skip


def tuning_queries(vectors: FloatArray, count: int = TUNING_QUERIES) -> FloatArray:
    """`[count, dim]`: means of an item and of noise as long as items are: near the catalogue, not in it."""
    rng = np.random.default_rng(0)
    chosen = vectors[rng.integers(0, len(vectors), count)]
    noise = rng.normal(size=chosen.shape) * float(vectors[:_LENGTH_OF].std())
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
    return float(recalls_of(found, exact).mean()) if exact.size else 0.0


def recalls_of(found: Iterable[IntArray], exact: IntArray) -> FloatArray:
    """The same of each query, `[queries] float32`."""
    hits = [np.intersect1d(one, other).size for one, other in zip(found, exact, strict=True)]
    return np.asarray(hits, dtype=np.float32) / np.float32(exact.shape[1])


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
        self._sure: dict[tuple[int, int], float] = {}

    def of(self, searched: int, reorder: int) -> IndexTrial:
        """What is found when `searched` partitions are searched and the best `reorder` are scored exactly."""
        if (searched, reorder) not in self.tried:
            kept = self._exact.shape[1]
            found = [self._searcher.search(query, kept, reorder, searched)[0] for query in self._queries]
            cost = self._count * searched / self._leaves + REORDER_COST * reorder + self._leaves
            recalls = recalls_of(found, self._exact).astype(np.float64)
            recall = float(recalls.mean())
            self._sure[searched, reorder] = recall - SURE * float(recalls.std()) / len(recalls) ** 0.5
            self.tried[searched, reorder] = IndexTrial(
                leaves_to_search=searched, reorder=reorder, recall=round(recall, 4), cost=cost
            )
        return self.tried[searched, reorder]

    def surely(self, trial: IndexTrial) -> float:
        """The recall of a trial less what chance may have given it."""
        return self._sure[trial.leaves_to_search, trial.reorder]

    def search(self, promised: float) -> tuple[IndexTrial, ...]:
        """Try what could be the cheapest setting that surely has a recall of `promised`; everything that was tried."""
        least, stop = 0, len(self.steps)
        for reorder in _REORDERS:

            def reaches(step: int, reorder: int = reorder) -> bool:
                return self.surely(self.of(self.steps[step], reorder)) >= promised

            found = first_reaching(stop, reaches, start=least)
            if found is None:
                break
            # With fewer reordered as many partitions are needed at least; twice as many would cost more than is saved.
            least, stop = found, min(len(self.steps), found + _STEPS_WORTH)
        return tuple(self.tried.values())
