"""Vectors as catalogues have them: many crowded clusters of Zipf sizes, norms that grow a little with popularity."""

import numpy as np

from infra.contracts.features import FloatArray, IntArray

CLUSTERS = 2_000
SPREAD = 0.55
"""Standard deviation inside a cluster, against centres of standard deviation 1."""


def clustered(count: int, dim: int, *, seed: int, clusters: int = CLUSTERS) -> tuple[FloatArray, IntArray]:
    """`[count, dim] float32` vectors of about length one, and `[count] int32`, the cluster of each."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(clusters, dim)).astype(np.float32)
    shares = 1.0 / np.arange(1, clusters + 1) ** 0.7
    owners = rng.choice(clusters, size=count, p=shares / shares.sum()).astype(np.int32)
    vectors = np.empty((count, dim), dtype=np.float32)
    for start in range(0, count, 200_000):
        part = owners[start : start + 200_000]
        vectors[start : start + part.size] = centres[part] + SPREAD * rng.normal(size=(part.size, dim))
    vectors /= np.sqrt(np.float32(dim) * np.float32(1.0 + SPREAD**2))
    return vectors, owners


def queries(vectors: FloatArray, count: int, *, seed: int) -> FloatArray:
    """`[count, dim]` queries: means of three items of one region of the space, as a history's are, and some noise."""
    rng = np.random.default_rng(seed)
    first = rng.integers(0, len(vectors), size=count)
    noise = rng.normal(size=(count, vectors.shape[1])).astype(np.float32) / np.sqrt(np.float32(vectors.shape[1]))
    found: FloatArray = (vectors[first] + 0.4 * noise).astype(np.float32)
    return found
