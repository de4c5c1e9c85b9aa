"""FAISS `IVF,PQ4fs,Refine` over the same vectors, brought to a given recall as cheaply as its settings allow.

Codes are as large as ScaNN's (4 bits for every 2 dimensions, 16-bit vectors to refine by) and the partitions are
trained on as many vectors. Two kinds of codes: of the vectors (`PQ4fs`) and of their residuals (`PQ4fsr`). Of each kind
is tried: every number of lists asked for, all of REFINEMENTS, and of each the fewest lists that reach the recall on the
very queries that are measured.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from central.release.tuning import first_reaching
from infra.bench.retrieval.searching import NEIGHBOURS, Search, recall_with
from infra.contracts.features import FloatArray, IntArray
from infra.plumbing.errors import UnavailableError
from infra.plumbing.large_pages import exchange_all

BASE = "IVF{leaves},PQ{blocks}x4{kind}"
KINDS = ("fs", "fsr")
REFINEMENTS = (40.0, 20.0, 10.0, 6.0, 4.0, 3.0, 2.0, 1.5)
TRAINED_ON_MAX = 400_000
ADDED_AT_ONCE = 250_000
"""Vectors that are added by one call: what is computed of them beside is of this size."""
PROBE_STEP = 1.03
STEPS_WORTH = 24
"""Twice as many lists as at a larger refinement cost more than the smaller one saves."""
DEARER = 1.3


@dataclass(frozen=True, slots=True, kw_only=True)
class Rival:
    """The cheapest of the settings that reach the recall."""

    search: Search
    setting: str
    recall: float
    cpu_ms: float
    tried: int


def rivals_at(
    recall: float,
    *,
    vectors: FloatArray,
    asked: FloatArray,
    exact: IntArray,
    leaves: Sequence[int],
    kinds: Sequence[str] = KINDS,
    say: Callable[[str], None],
) -> dict[str, Rival]:
    """The rival of each kind with at least `recall` over `asked`; `say` hears what is being done.

    Searches take one thread.

    Raises:
        UnavailableError: a kind does not reach it at all.
    """
    best: dict[str, Rival] = {}
    tried = dict.fromkeys(kinds, 0)
    for built in _built(vectors, leaves, kinds, say):
        for candidate in _settings(built, recall, asked, exact):
            tried[built.kind] += 1
            if built.kind not in best or candidate.cpu_ms < best[built.kind].cpu_ms:
                best[built.kind] = candidate
    for kind in kinds:
        if kind not in best:
            raise UnavailableError(
                f"FAISS PQ4{kind} does not reach a recall of {recall:.3f}.", fix="Ask for more lists."
            )
    return {kind: replace(best[kind], tried=count) for kind, count in tried.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Built:
    """An index. `whole` refines what `inner`, its inverted lists, finds.

    `parts`: what the library's objects point to and do not own; it must live as long as they are searched.
    """

    name: str
    kind: str
    whole: Any
    inner: Any
    parts: tuple[Any, ...]


def _built(
    vectors: FloatArray, leaves: Sequence[int], kinds: Sequence[str], say: Callable[[str], None]
) -> Iterator[_Built]:
    """Every index that was asked for. Both kinds of one number of lists share the partitions."""
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
            # As a retrieval process does.
            exchange_all()
            say(f"bringing FAISS {name} to the recall")
            yield _Built(
                name=name, kind=kind, whole=library.IndexRefine(inner, refined), inner=inner,
                parts=(refined, partitions),
            )  # fmt: skip


def _add(index: Any, vectors: FloatArray) -> None:
    for start in range(0, len(vectors), ADDED_AT_ONCE):
        index.add(np.ascontiguousarray(vectors[start : start + ADDED_AT_ONCE]))


def _settings(built: _Built, recall: float, asked: FloatArray, exact: IntArray) -> Iterator[Rival]:
    """The fewest lists that reach `recall`, for each refinement: the largest first, as a smaller one needs no fewer."""
    steps = _probe_steps(built.inner.nlist)
    least, stop, cheapest_ms = 0, len(steps), float("inf")
    for refinement in REFINEMENTS:
        found: dict[int, tuple[float, float]] = {}

        def reaches(
            step: int, refinement: float = refinement, found: dict[int, tuple[float, float]] = found
        ) -> bool:  # fmt: skip
            found[step] = recall_with(_search_with(built, steps[step], refinement), asked, exact)
            return found[step][0] >= recall

        step = first_reaching(stop, reaches, start=least)
        if step is None:
            return
        reached, cpu_ms = found[step]
        yield Rival(
            search=_search_with(built, steps[step], refinement), recall=reached, cpu_ms=cpu_ms, tried=1,
            setting=f"{built.name},Refine(SQfp16), nprobe {steps[step]}, k_factor {refinement:g}",
        )  # fmt: skip
        cheapest_ms = min(cheapest_ms, cpu_ms)
        if cpu_ms > DEARER * cheapest_ms:
            # From here on the lists cost more than the refinement saves.
            return
        least, stop = step, min(len(steps), step + STEPS_WORTH)


def _probe_steps(lists: int) -> list[int]:
    """Every number of lists up to 33, then each PROBE_STEP larger than the one before; all of them last."""
    steps, wanted = {lists}, 1.0
    while wanted < lists:
        steps.add(round(wanted))
        wanted = max(wanted + 1.0, wanted * PROBE_STEP)
    return sorted(steps)


def _search_with(built: _Built, probes: int, refinement: float) -> Search:
    def search(query: FloatArray) -> IntArray:
        built.inner.nprobe, built.whole.k_factor = probes, refinement
        rows: IntArray = built.whole.search(query, NEIGHBOURS)[1].astype(np.int32)
        return rows

    return search
