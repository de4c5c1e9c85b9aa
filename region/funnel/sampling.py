"""From an answered call to a sample of the features that answered it."""

import numpy as np

from infra.contracts.features import AFFINITY_KINDS, category_affinity
from infra.contracts.messages import RecommendationType
from region.funnel.query import query_state, read_history
from region.funnel.understanding import Call
from region.sampling.served import ServedSample, ServedSamples
from region.store.port import UserRow
from region.store.subjects import is_session


class Sampler:
    """Notes a call now and then; only personal lists of users who have not opted out."""

    def __init__(self, samples: ServedSamples) -> None:
        self._samples = samples
        self._count = 0

    def __call__(self, call: Call, *, monotonic_s: float) -> None:
        """Note `call` if a sample is due and it can serve as one."""
        row = call.row
        if row is None or row.opted_out or is_session(row.subject):
            return
        if call.request.type is not RecommendationType.PERSONAL or call.request.recent:
            return
        if self._samples.wants(monotonic_s):
            self._count += 1
            self._samples.note(sample_of(call, row, name=f"{round(call.now_s * 1000)}-{self._count}"))


def sample_of(call: Call, row: UserRow, *, name: str) -> ServedSample:
    """The row's features as this call read them."""
    now_ms = round(call.now_s * 1000)
    return ServedSample(
        sample=name,
        subject=row.subject,
        offset=row.offset,
        now_ms=now_ms,
        release=call.release.release_id,
        imported=row.imported,
        items=row.history.items,
        strengths=row.history.strengths,
        times_ms=row.history.times_ms,
        impressions=row.impressions,
        counters=row.counters,
        session=row.session,
        affinities={kind: leaned for kind in AFFINITY_KINDS if (leaned := row.leanings(kind, now_ms))},
        leanings=_ranker_leanings(call, row),
    )


def _ranker_leanings(call: Call, row: UserRow) -> dict[str, float] | None:
    tables = call.release.tables
    history = read_history(row.history, (), tables=tables, now_s=call.now_s)
    # What came after the release stands in no catalogue that a batch job could compare with.
    if history.unknown or (history.rows >= tables.shape.num_items).any():
        return None
    state = query_state(history, np.zeros(tables.shape.dim, dtype=np.float32), now_s=call.now_s)
    affinity = category_affinity(state, tables.arrays.categories)
    return {name: float(value) for name, value in zip(tables.shape.categories, affinity, strict=True) if value}
