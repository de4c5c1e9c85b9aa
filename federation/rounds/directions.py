"""Directions in which user vectors differ, from the released tower and catalogue alone: public, so they cost nothing.

Nobody's history is needed: the tower is asked for histories that are made up, by drawing items as often as the
catalogue says that they are taken. What matters is the scale of user vectors along each direction.
"""

import hashlib

import numpy as np
import numpy.typing as npt

from federation.device.tower import DeviceRelease

QUERIES = 300
DAMPING = 0.02
"""Of the largest direction's second moment, added to all: small directions would blow noise up."""
_STRENGTH = 4
_STEP_S = 600.0


def made_up_queries(release: DeviceRelease, *, count: int = QUERIES) -> npt.NDArray[np.float32]:
    """Vectors of made-up histories, `[count, dim]`; the same for the same release."""
    rng = np.random.default_rng(int.from_bytes(hashlib.sha256(release.release_id.encode()).digest()[:8], "big"))
    chances = np.exp(release.log_q)
    chances /= chances.sum()
    vectors = np.zeros((count, release.tower.dim), dtype=np.float32)
    longest = min(release.tower.history_length, len(chances))
    for number in range(count):
        length = int(rng.integers(1, longest + 1))
        rows = rng.choice(len(chances), size=length, replace=False, p=chances)
        times_s = np.arange(length) * _STEP_S
        vectors[number] = release.base_vector(rows, np.full(length, _STRENGTH), times_s, now_s=float(times_s[-1]))
    return vectors


def whitened_directions(queries: npt.NDArray[np.floating], rank: int) -> npt.NDArray[np.float32]:
    """The `rank` largest directions of these vectors, scaled so that a vector's parts have unit size: `[dim, rank]`.

    Raises:
        ValueError: rank is below 1 or above dim.
    """
    dim = queries.shape[1]
    if not 1 <= rank <= dim:
        raise ValueError(f"the rank must lie between 1 and {dim}, not {rank}")
    wide = queries.astype(np.float64)
    values, vectors = np.linalg.eigh(wide.T @ wide / len(wide))
    largest = values[::-1][:rank]
    directions: npt.NDArray[np.float32] = (vectors[:, ::-1][:, :rank] / np.sqrt(largest + DAMPING * largest[0])).astype(
        np.float32
    )
    return directions
