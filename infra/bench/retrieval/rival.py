"""FAISS `IVF,PQ4fs,Refine` over the same vectors, brought to a given recall as cheaply as its settings allow.

Codes are as large as ScaNN's (4 bits for every 2 dimensions, 16-bit vectors to refine by) and the partitions are
trained on as many vectors. Tried: every number of lists asked for, codes of the vectors and of their residuals (`PQ4fs`
and `PQ4fsr`), all of REFINEMENTS, and of each the fewest lists that reach the recall on the very queries that are
measured.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from central.release.tuning import first_reaching
from infra.bench.retrieval.searching import NEIGHBOURS, Search, cpu_ms_of, recall_with
from infra.contracts.features import FloatArray, IntArray
from infra.plumbing.errors import UnavailableError

BASE = "IVF{leaves},PQ{blocks}x4{kind}"
KINDS = ("fs", "fsr")
REFINEMENTS = (40.0, 20.0, 10.0, 6.0, 4.0, 3.0, 2.0, 1.5)
TRAINED_ON_MAX = 400_000
ADDED_AT_ONCE = 250_000
"""Vectors that are added by one call: what is computed of them beside is of this size."""
PROBE_STEP = 1.03
STEPS_WORTH = 24
"""Twice as many lists as at a larger refinement cost more than the smaller one saves."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rival:
    """The cheapest of the settings that reach the recall."""

    search: Search
    setting: str
    recall: float
    cpu_ms: float
    tried: int


def rival_at(
    recall: float,
    *,
    vectors: FloatArray,
    asked: FloatArray,
    exact: IntArray,
    leaves: Sequence[int],
    kinds: Sequence[str] = KINDS,
    say: Callable[[str], None],
) -> Rival:
    """The rival with at least `recall` over `asked`; `say` hears what is being done. Searches take one thread.

    Raises:
        UnavailableError: it does not reach it at all.
    """
    best: Rival | None = None
    tried = 0
    for name, index, inner in _built(vectors, leaves, kinds, say):
        for candidate in _settings(name, index, inner, recall, asked, exact):
            tried += 1
            if best is None or candidate.cpu_ms < best.cpu_ms:
                best = candidate
    if best is None:
        raise UnavailableError(f"FAISS does not reach a recall of {recall:.3f}.", fix="Ask for more lists.")
    return Rival(search=best.search, setting=best.setting, recall=best.recall, cpu_ms=best.cpu_ms, tried=tried)


def _built(
    vectors: FloatArray, leaves: Sequence[int], kinds: Sequence[str], say: Callable[[str], None]
) -> Iterator[tuple[str, Any, Any]]:
    """Every index as (name, the whole, its inverted lists). Both kinds of one number of lists share the partitions."""
    import faiss  # noqa: PLC0415 - only this suite needs it

    library: Any = faiss
    dim = vectors.shape[1]
    rng = np.random.default_rng(0)
    chosen = np.sort(rng.choice(len(vectors), size=min(len(vectors), TRAINED_ON_MAX), replace=False))
    sample = np.ascontiguousarray(vectors[chosen])
    refined = library.IndexScalarQuantizer(dim, library.ScalarQuantizer.QT_fp16, library.METRIC_INNER_PRODUCT)
    refined.train(sample[:1000])
    _add(refined, vectors)
    for count in leaves:
        partitions = None
        for kind in kinds:
            name = BASE.format(leaves=count, blocks=dim // 2, kind=kind)
            say(f"building FAISS {name}")
            library.omp_set_num_threads(len(os.sched_getaffinity(0)))
            inner = library.index_factory(dim, name, library.METRIC_INNER_PRODUCT)
            if partitions is not None:
                inner.quantizer, inner.own_fields = partitions.quantizer, False
            inner.train(sample)
            partitions = partitions or inner
            _add(inner, vectors)
            library.omp_set_num_threads(1)
            say(f"bringing FAISS {name} to the recall")
            yield name, library.IndexRefine(inner, refined), inner


def _add(index: Any, vectors: FloatArray) -> None:
    for start in range(0, len(vectors), ADDED_AT_ONCE):
        index.add(np.ascontiguousarray(vectors[start : start + ADDED_AT_ONCE]))


def _settings(
    name: str, index: Any, inner: Any, recall: float, asked: FloatArray, exact: IntArray
) -> Iterator[Rival]:  # fmt: skip
    """The fewest lists that reach `recall`, for each refinement: the largest first, as a smaller one needs no fewer."""
    steps = _probe_steps(inner.nlist)
    least, stop = 0, len(steps)
    for refinement in REFINEMENTS:
        found: dict[int, float] = {}

        def reaches(step: int, refinement: float = refinement, found: dict[int, float] = found) -> bool:
            found[step] = recall_with(_search_with(index, inner, steps[step], refinement), asked, exact)
            return found[step] >= recall

        step = first_reaching(stop, reaches, start=least)
        if step is None:
            return
        search = _search_with(index, inner, steps[step], refinement)
        yield Rival(
            search=search, setting=f"{name},Refine(SQfp16), nprobe {steps[step]}, k_factor {refinement:g}",
            recall=found[step], cpu_ms=cpu_ms_of(search, asked), tried=1,
        )  # fmt: skip
        least, stop = step, min(len(steps), step + STEPS_WORTH)


def _probe_steps(lists: int) -> list[int]:
    """Every number of lists up to 33, then each PROBE_STEP larger than the one before; all of them last."""
    steps, wanted = {lists}, 1.0
    while wanted < lists:
        steps.add(round(wanted))
        wanted = max(wanted + 1.0, wanted * PROBE_STEP)
    return sorted(steps)


def _search_with(index: Any, inner: Any, probes: int, refinement: float) -> Search:
    def search(query: FloatArray) -> IntArray:
        inner.nprobe, index.k_factor = probes, refinement
        rows: IntArray = index.search(query, NEIGHBOURS)[1].astype(np.int32)
        return rows

    return search
