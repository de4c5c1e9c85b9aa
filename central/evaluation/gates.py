"""Gates: whether a candidate may become a release. Pure functions of figures; every verdict has its sentence."""

from collections.abc import Mapping
from typing import Final

import msgspec

FALL_MAX: Final = 0.02
"""A candidate may fall this share under the active release, no more."""
RANKER_FALL_MAX: Final = 0.02
"""The ranker may lose this share of the retrieval order's NDCG@10 on the same users (noise of the sample), no more."""

Figures = Mapping[str, float]


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """Gates by name, and a sentence for each."""

    gates: dict[str, bool]
    sentences: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether every gate is open."""
        return all(self.gates.values())


def judge(
    *,
    candidate: Figures,
    popularity: Figures,
    active: Figures | None,
    ranked: Figures | None = None,
    ranked_baseline: Figures | None = None,
) -> Verdict:
    """The gates of a candidate.

    Args:
        candidate: retrieval figures of the candidate (`hr10`, `ndcg10`, ...).
        popularity: the popularity baseline on the same users.
        active: retrieval figures of the release it would replace, or None when there is none.
        ranked: figures of the ranker's order, when it was evaluated.
        ranked_baseline: figures of the retrieval order on the same users.
    """
    gates: dict[str, bool] = {}
    sentences: list[str] = []

    def gate(name: str, found: float, least: float, against: str) -> None:
        # `not (found < least)` would let a NaN through.
        gates[name] = found >= least
        verb = "reaches" if gates[name] else "falls short of"
        sentences.append(f"{name}: NDCG@10 {found:.4f} {verb} {least:.4f}, {against}.")

    found = candidate.get("ndcg10", float("nan"))
    beaten = popularity.get("ndcg10", float("nan"))
    gates["beats_popularity"] = found > beaten
    verb = "beats" if gates["beats_popularity"] else "does not beat"
    sentences.append(f"beats_popularity: NDCG@10 {found:.4f} {verb} {beaten:.4f}, the popularity baseline.")
    if active is not None:
        least = active.get("ndcg10", float("nan")) * (1.0 - FALL_MAX)
        gate("holds_active", found, least, f"the active release less {FALL_MAX:.0%}")
    if ranked is not None and ranked_baseline is not None:
        least = ranked_baseline.get("ndcg10", float("nan")) * (1.0 - RANKER_FALL_MAX)
        against = f"the retrieval order less {RANKER_FALL_MAX:.0%}"
        gate("ranker_holds", ranked.get("ndcg10", float("nan")), least, against)
    return Verdict(gates=gates, sentences=tuple(sentences))
