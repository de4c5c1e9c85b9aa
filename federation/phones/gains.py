"""What taking part is worth to a phone's owner: ranking of the held-out event, before and after.

Full catalogue, items of the phone's own known history removed, ties by catalogue row. The figures are means over
phones; nothing about a single phone is in them.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import msgspec
import numpy as np
import numpy.typing as npt

from federation.device.store import LocalHistory
from federation.device.tower import DeviceRelease

TOP = 10
ARMS = ("served", "on_phone", "personal", "adapted", "adapted_personal")
"""served: the region's view (no sensitive events); on_phone: the whole history, as a phone reads it
(`DeviceRelease.reads`), through the released tower; personal:
with the personal part; adapted: with the federated adapter; adapted_personal: with both."""


class Quality(msgspec.Struct, frozen=True, kw_only=True):
    """Means over phones."""

    ndcg10: float
    hr10: float


@dataclass(slots=True)
class GainTable:
    """Collects the rank of the held-out item per phone and arm; `sensitive` targets are kept apart too."""

    _ranks: dict[str, list[tuple[int, bool]]] = field(default_factory=dict)

    def add(self, arm: str, rank: int, *, sensitive: bool) -> None:
        """Rank (0 is best) of one phone's held-out item."""
        self._ranks.setdefault(arm, []).append((rank, sensitive))

    def quality(self) -> dict[str, Quality]:
        """By arm, all targets."""
        return {arm: _quality([rank for rank, _ in ranks]) for arm, ranks in self._ranks.items()}

    def quality_on_sensitive(self) -> dict[str, Quality]:
        """By arm, sensitive targets only; empty when there are none."""
        picked = {arm: [rank for rank, hidden in ranks if hidden] for arm, ranks in self._ranks.items()}
        return {arm: _quality(ranks) for arm, ranks in picked.items() if ranks}


def rank_of(
    target: int, vector: npt.NDArray[np.floating], release: DeviceRelease, history: LocalHistory
) -> int:  # fmt: skip
    """Rank of catalogue row `target` by dot product with `vector`, the history's items removed."""
    scores = release.item_vectors @ vector.astype(np.float32)
    score = scores[target]
    scores[history.rows] = -np.inf
    ahead = scores > score
    ties = scores[:target] == score
    return int(ahead.sum() + ties.sum())


def step_of(adapter: npt.NDArray[np.floating], released: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """The matrix M with ``released @ M = adapter``: what a phone multiplies its base vector by. `[dim, dim]`."""
    return np.linalg.solve(released.astype(np.float64), adapter.astype(np.float64))


def changes(before: Mapping[str, Quality], arm: str, base: str) -> float:
    """NDCG@10 of `arm` less that of `base`."""
    return before[arm].ndcg10 - before[base].ndcg10


def _quality(ranks: Sequence[int]) -> Quality:
    hits = [rank for rank in ranks if rank < TOP]
    count = max(1, len(ranks))
    return Quality(ndcg10=sum(1.0 / math.log2(rank + 2.0) for rank in hits) / count, hr10=len(hits) / count)
