"""Two releases side by side: figures with their intervals, vocabulary, drift of the vectors, lists, sizes.

The people whose lists are compared are made up: walks over what follows what in the older release. A release knows no
user, and nobody's history is needed to see what would change.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Final, TypeVar

import numpy as np
import numpy.typing as npt

from infra.contracts.features import DAY_S, GAP_CLASSES, FloatArray, IntArray
from infra.contracts.release import Manifest
from infra.plumbing.progress import Progress
from infra.plumbing.releases.contents import ContentError, ReleaseContents
from infra.plumbing.releases.messages import (
    NAMED_MAX,
    Comparison,
    Drift,
    Interval,
    Lists,
    Metric,
    Person,
    ReleaseDiff,
    Vocabulary,
)

T = TypeVar("T")
LIST_ITEMS: Final = 10
NEIGHBOURS: Final = 20
NEIGHBOURS_OF_MAX: Final = 1000
"""Items whose neighbours are compared, a sample of them."""
ALIGNED_MAX: Final = 200_000
QUANTILES: Final = (0.01, 0.05, 0.25, 0.5, 0.75)
HISTORY_ITEMS: Final = (3, 40)
_GAPS_S: Final = (0.0, 30.0, 900.0, 3 * DAY_S)
"""A gap of each class; see `infra.contracts.features.gap_class`."""


def diff_manifests(older: Manifest, newer: Manifest, *, before: str, after: str) -> ReleaseDiff:
    """What changes between two manifests."""
    both = older.files.keys() & newer.files.keys()
    same = {name for name in both if older.files[name].sha256 == newer.files[name].sha256}
    had = {entry.sha256 for entry in older.files.values()}
    needed = {entry.sha256: entry.length for entry in newer.files.values()}
    metrics = sorted(older.metrics.keys() | newer.metrics.keys())
    return ReleaseDiff(
        before=before,
        after=after,
        metrics={name: (older.metrics.get(name), newer.metrics.get(name)) for name in metrics},
        added=tuple(sorted(newer.files.keys() - both)),
        removed=tuple(sorted(older.files.keys() - both)),
        changed=tuple(sorted(both - same)),
        unchanged=tuple(sorted(same)),
        bytes_shared=sum(length for sha256, length in needed.items() if sha256 in had),
        bytes_new=sum(length for sha256, length in needed.items() if sha256 not in had),
        same_content=older.content_sha256 == newer.content_sha256,
    )


def verdicts_of_manifests(before: Manifest, after: Manifest) -> Comparison:
    """What the manifests alone say, where nobody may read the rest."""
    old, new = (ReleaseContents(one, lambda _: b"") for one in (before, after))
    return Comparison(
        metrics=_manifest_metrics(old, new), sizes=_sizes(old, new), vocabulary=None, drift=None, lists=None,
        notes=("the releases are too large to be compared here: see ./atoll release diff, at central.",),
    )  # fmt: skip


def _sizes(before: ReleaseContents, after: ReleaseContents) -> dict[str, tuple[int, int]]:
    return {part: (size, after.sizes[part]) for part, size in before.sizes.items()}


def compare(
    before: ReleaseContents, after: ReleaseContents, *, people: int, seed: int, progress: Progress
) -> Comparison:
    """Look at two releases.

    Args:
        before: the older.
        after: the newer.
        people: how many made-up histories get lists from both; 0 leaves lists out.
        seed: of histories and samples: same seed, same answer.
        progress: told while it runs.
    """
    notes: list[str] = []
    metrics = _kept(lambda: tuple(_metrics(before, after)), notes) or _manifest_metrics(before, after)
    vocabulary = _kept(lambda: _vocabulary(before, after), notes)
    progress.advance(1, 4, "comparing")
    rng = np.random.default_rng(seed)
    drift = _kept(lambda: _drift(before, after, rng), notes)
    progress.advance(2, 4, "comparing")
    lists = _kept(lambda: _lists(before, after, people, np.random.default_rng(seed)), notes) if people else None
    progress.advance(4, 4, "comparing")
    return Comparison(
        metrics=metrics, sizes=_sizes(before, after), vocabulary=vocabulary, drift=drift, lists=lists,
        notes=tuple(dict.fromkeys(notes)),
    )  # fmt: skip


def _kept(make: Callable[[], T], notes: list[str]) -> T | None:
    """What `make` makes; None, and a note, where a release does not hold what it needs."""
    try:
        return make()
    except ContentError as error:
        notes.append(error.message)
        return None


def _metrics(before: ReleaseContents, after: ReleaseContents) -> Iterator[Metric]:
    old, new = before.evaluation, after.evaluation
    for stage in dict.fromkeys((*old.stage, *new.stage)):
        for name in ("hr10", "ndcg10", "coverage10", "novelty10"):
            pair = (old.stage.get(stage, {}).get(name), new.stage.get(stage, {}).get(name))
            if pair != (None, None):
                doubts = (old.intervals.get(stage, {}).get(name), new.intervals.get(stage, {}).get(name))
                yield Metric(
                    stage=stage, name=name, before=pair[0], after=pair[1], before_interval=doubts[0],
                    after_interval=doubts[1], says=_verdict(*doubts),
                )  # fmt: skip


def _manifest_metrics(before: ReleaseContents, after: ReleaseContents) -> tuple[Metric, ...]:
    old, new = before.manifest.metrics, after.manifest.metrics
    return tuple(
        Metric(
            stage="retrieval", name=name, before=old.get(name), after=new.get(name), before_interval=None,
            after_interval=None, says="",
        )
        for name in sorted(old.keys() | new.keys())
    )  # fmt: skip


def _verdict(before: Interval | None, after: Interval | None) -> str:
    if before is None or after is None:
        return ""
    return "better" if after[0] > before[1] else "worse" if after[1] < before[0] else "within the noise"


def _vocabulary(before: ReleaseContents, after: ReleaseContents) -> Vocabulary:
    added, removed = after.rows.keys() - before.rows.keys(), before.rows.keys() - after.rows.keys()
    old, new = (frozenset(one.manifest.shape.categories) for one in (before, after))
    return Vocabulary(
        items_before=len(before.rows), items_after=len(after.rows), added=len(added), removed=len(removed),
        added_items=tuple(sorted(added)[:NAMED_MAX]), removed_items=tuple(sorted(removed)[:NAMED_MAX]),
        categories_added=tuple(sorted(new - old)), categories_removed=tuple(sorted(old - new)),
    )  # fmt: skip


def _drift(before: ReleaseContents, after: ReleaseContents, rng: np.random.Generator) -> Drift:
    common = sorted(before.rows.keys() & after.rows.keys())
    if len(common) <= NEIGHBOURS:
        raise ContentError(f"{len(common)} items are in both releases: too few to tell how they moved.")
    if len(common) > ALIGNED_MAX:
        common = [common[at] for at in np.sort(rng.choice(len(common), ALIGNED_MAX, replace=False))]
    old, new = (
        one.vectors[np.asarray([one.rows[item] for item in common])].astype(np.float32) for one in (before, after)
    )
    cosines = aligned_cosines(old, new)
    asked = np.sort(rng.permutation(len(common))[:NEIGHBOURS_OF_MAX])
    return Drift(
        items=len(common), cosine={f"p{round(100 * at):02d}": float(np.quantile(cosines, at)) for at in QUANTILES},
        cosine_mean=float(cosines.mean()), neighbours_overlap=neighbours_overlap(old, new, asked),
    )  # fmt: skip


def aligned_cosines(old: FloatArray, new: FloatArray) -> FloatArray:
    """`[items]`: cosine of each item's old and new vector, the new space turned onto the old; widths may differ."""
    width = max(old.shape[1], new.shape[1])
    left, right = (_unit(np.pad(part, ((0, 0), (0, width - part.shape[1])))) for part in (old, new))
    u, _, vt = np.linalg.svd(right.T @ left)
    cosines: FloatArray = np.sum(left * (right @ (u @ vt)), axis=1).astype(np.float32)
    return cosines


def neighbours_overlap(old: FloatArray, new: FloatArray, asked: npt.NDArray[np.int64]) -> float:
    """Mean share of the NEIGHBOURS nearest of the items `asked` that are the same in both."""
    shares = [
        np.intersect1d(one, other).size / one.size
        for one, other in zip(_nearest(old, asked), _nearest(new, asked), strict=True)
    ]
    return float(np.mean(shares))


def _nearest(vectors: FloatArray, asked: npt.NDArray[np.int64]) -> Iterator[npt.NDArray[np.int64]]:
    for row in asked:
        scores = vectors @ vectors[row]
        scores[row] = -np.inf
        yield np.argpartition(-scores, NEIGHBOURS)[:NEIGHBOURS]


def _unit(vectors: FloatArray) -> FloatArray:
    unit: FloatArray = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return unit


def _lists(before: ReleaseContents, after: ReleaseContents, people: int, rng: np.random.Generator) -> Lists:
    now_s = float(before.tables.first_seen_s.max()) + 30 * DAY_S
    found = []
    for _ in range(people):
        rows, gaps_s = made_up_history(before, after, rng)
        times_s = now_s - np.cumsum(gaps_s[::-1])[::-1]
        strengths = rng.integers(3, 6, rows.size).astype(np.int32)
        ids = tuple(before.items.ids.texts[row] for row in rows.tolist())
        elsewhere = np.asarray([after.rows[item] for item in ids], dtype=np.int32)
        shown = [
            one.recommender.ids(own, strengths, times_s, now_s=now_s, count=LIST_ITEMS)
            for one, own in ((before, rows), (after, elsewhere))
        ]
        overlap = len(set(shown[0]) & set(shown[1])) / max(len(shown[0]), 1)
        found.append(Person(history=ids, before=shown[0], after=shown[1], overlap=overlap))
    named = {item for person in found for item in (*person.history, *person.before, *person.after)}
    overlaps = [person.overlap for person in found]
    same_first = [person.before[:1] == person.after[:1] for person in found]
    return Lists(
        people=tuple(found), overlap10=float(np.mean(overlaps)), overlap10_least=min(overlaps),
        same_first=float(np.mean(same_first)), titles=dict(_titles(sorted(named), after, before)),
    )  # fmt: skip


def _titles(named: Iterable[str], *releases: ReleaseContents) -> Iterator[tuple[str, str]]:
    for item in named:
        holder = next(one for one in releases if item in one.rows)
        if title := holder.items[holder.rows[item]].title:
            yield item, title


def made_up_history(
    before: ReleaseContents, after: ReleaseContents, rng: np.random.Generator
) -> tuple[IntArray, npt.NDArray[np.float64]]:
    """A walk from a popular item along what follows what, over items of both releases: rows of `before`, oldest first.

    The second array is the gap in seconds behind each of them, to the request for the last.
    """
    tables = before.tables
    shared = np.asarray([item in after.rows for item in before.rows])
    weights = np.where(shared, np.expm1(np.minimum(tables.popularity * 6.0, 20.0)) + 1e-6, 0.0)
    length = int(rng.integers(*HISTORY_ITEMS, endpoint=True))
    rows = [int(rng.choice(weights.size, p=weights / weights.sum()))]
    gaps_s: list[float] = []
    # Half of a small catalogue stays to be recommended.
    while len(rows) < min(length, max(1, int(shared.sum()) // 2)):
        kind = int(rng.integers(0, GAP_CLASSES))
        gaps_s.append(_GAPS_S[kind])
        nexts, scores = tables.followers.rows[rows[-1], kind], tables.followers.scores[rows[-1], kind]
        chance = np.where((nexts >= 0) & shared[nexts] & ~np.isin(nexts, rows), np.maximum(scores, 0.0), 0.0)
        if chance.sum() > 0.0:
            rows.append(int(nexts[rng.choice(nexts.size, p=chance / chance.sum())]))
        else:
            left = np.where(np.isin(np.arange(weights.size), rows), 0.0, weights)
            rows.append(int(rng.choice(weights.size, p=left / left.sum())))
    return np.asarray(rows, dtype=np.int32), np.asarray([*gaps_s, DAY_S])
