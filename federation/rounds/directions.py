"""Directions in which user vectors differ, from the released tower and catalogue alone: public, so they cost nothing.

Nobody's history is needed: the tower is asked for histories that are made up, by drawing items as often as the
catalogue says that they are taken. What matters is the scale of user vectors along each direction.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from federation.device.tower import DeviceRelease

QUERIES = 300
DAMPING = 0.02
"""Of the largest direction's second moment, added to all: small directions would blow noise up."""
MADE_UP_STRENGTH = 4
"""Of every event in a made-up history."""
_STEP_S = 600.0


ITEMS_BYTES_MAX = 440_000
"""Of the items' parameters that come down to a phone and the update that goes up, in sum."""


def rank_for(rank: int, *, dim: int, rows: int) -> int:
    """How many directions a slice of `rows` items is trained in: `rank`, or what there is or fits a phone's bytes."""
    return max(2, min(rank, dim, ITEMS_BYTES_MAX // (8 * max(rows, 1))))


def made_up_histories(
    chances: npt.NDArray[np.floating], *, longest: int, count: int, rng: np.random.Generator
) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]]:
    """Rows and times, oldest first, of `count` histories of up to `longest` items, drawn by their `chances`."""
    for _ in range(count):
        length = int(rng.integers(1, longest + 1))
        rows = rng.choice(len(chances), size=length, replace=False, p=chances)
        yield rows, _STEP_S * np.arange(length, dtype=np.float64)


def made_up_queries(release: DeviceRelease, *, count: int = QUERIES) -> npt.NDArray[np.float32]:
    """Vectors of made-up histories, `[count, dim]`; the same for the same release."""
    rng = np.random.default_rng(int.from_bytes(hashlib.sha256(release.release_id.encode()).digest()[:8], "big"))
    chances = np.exp(release.log_q)
    chances /= chances.sum()
    vectors = np.zeros((count, release.tower.dim), dtype=np.float32)
    longest = min(release.tower.history_length, len(chances))
    for number, (rows, times_s) in enumerate(made_up_histories(chances, longest=longest, count=count, rng=rng)):
        strengths = np.full(len(rows), MADE_UP_STRENGTH)
        vectors[number] = release.base_vector(rows, strengths, times_s, now_s=float(times_s[-1]))
    return vectors


@dataclass(frozen=True, slots=True)
class Directions:
    """`basis [dim, rank]`: tastes, whitened, and in the last column popularity; `centre [rank - 1]`.

    A user vector `u` has the tastes ``u @ basis[:, :-1] - centre``, of mean zero and about unit size over users, and
    ``u @ basis[:, -1]`` is near 1 for everybody: an item moved along that column becomes more popular with all alike.
    """

    basis: npt.NDArray[np.float32]
    centre: npt.NDArray[np.float64]

    def weights(self, taste_norm: float | None) -> npt.NDArray[np.float64]:
        """What a plan multiplies its directions by, `[rank]`, so that the tastes of an event are `taste_norm` long.

        Tastes are whitened: as they are, those of an event are about as long as the root of their number, and an event
        is told by its popularity 1 and its mass 1. Where the norm is to bound how many events a phone may tell of, one
        that tells of popularity only must not have room for the tastes that it leaves out. None: as they are.
        """
        found = np.ones(self.basis.shape[1])
        if taste_norm is not None:
            found[:-1] = taste_norm / max(len(found) - 1, 1) ** 0.5
        return found


def directions_of(queries: npt.NDArray[np.floating], rank: int) -> Directions:
    """Popularity and the `rank - 1` largest directions of taste among these user vectors.

    Raises:
        ValueError: rank is below 2 or above dim.
    """
    dim = queries.shape[1]
    if not 2 <= rank <= dim:
        raise ValueError(f"the rank must lie between 2 and {dim}, not {rank}")
    wide = queries.astype(np.float64)
    mean = wide.mean(axis=0)
    values, vectors = np.linalg.eigh(np.cov(wide, rowvar=False))
    largest = values[::-1][: rank - 1]
    tastes = vectors[:, ::-1][:, : rank - 1] / np.sqrt(largest + DAMPING * largest[0])
    second = wide.T @ wide / len(wide)
    # What comes nearest to 1 for every user vector, in least squares.
    popularity = np.linalg.solve(second + 1e-3 * np.trace(second) / dim * np.eye(dim), mean)
    basis = np.column_stack([tastes, popularity]).astype(np.float32)
    return Directions(basis, mean @ tastes)
