"""Who is silent, what is sensitive: the two scenes, as masks over a dataset. NumPy only."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

SILENT_SHARE = 0.3
"""Users of the first scene that upload nothing."""
SENSITIVE_SHARE = 0.2
"""Share of all events that the second scene's genres aim at."""
GENRES_MAX = 3
SILENT, SENSITIVE, CEILING = "silent", "sensitive", "ceiling"

IntArray = npt.NDArray[np.integer]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Scenes:
    """Masks: `silent [num_users]`, `sensitive_items [num_items]`, and the genres that are sensitive."""

    silent: BoolArray
    sensitive_items: BoolArray
    genres: tuple[str, ...]

    def visible(self, scene: str, users: IntArray, rows: IntArray) -> BoolArray:
        """Which events central may see, by scene; all of them for the ceiling."""
        if scene == SILENT:
            return ~self.silent[users]
        if scene == SENSITIVE:
            return ~self.sensitive_items[rows]
        return np.ones(len(users), dtype=np.bool_)


def draw_scenes(*, labels: Sequence[Sequence[str]], counts: IntArray, num_users: int, seed: int) -> Scenes:
    """The scenes of one seed.

    Args:
        labels: genres of every item.
        counts: `[num_items]`, events of every item.
        num_users: of whom SILENT_SHARE are silent, drawn by `seed`.
        seed: of that draw; the genres are the same for every seed.
    """
    genres = sensitive_genres(labels, counts)
    items = np.array([not set(genres).isdisjoint(one) for one in labels], dtype=np.bool_)
    silent = np.zeros(num_users, dtype=np.bool_)
    drawn = np.random.default_rng(seed).choice(num_users, size=round(SILENT_SHARE * num_users), replace=False)
    silent[drawn] = True
    return Scenes(silent, items, genres)


def sensitive_genres(labels: Sequence[Sequence[str]], counts: IntArray) -> tuple[str, ...]:
    """At most GENRES_MAX genres whose films together have nearest to SENSITIVE_SHARE of all events."""
    names = sorted({label for one in labels for label in one})
    member = {name: np.array([name in one for one in labels], dtype=np.bool_) for name in names}
    total = max(1, int(counts.sum()))

    def miss(chosen: tuple[str, ...]) -> float:
        together = np.logical_or.reduce([member[name] for name in chosen])
        return abs(float(counts[together].sum()) / total - SENSITIVE_SHARE)

    sets = (chosen for size in range(1, GENRES_MAX + 1) for chosen in itertools.combinations(names, size))
    # The fewest genres among those that come within a hundredth, so that they are a taste and not a mixture.
    return min(sets, key=lambda chosen: (round(miss(chosen), 2), len(chosen), chosen), default=())
