"""The portable vector (MISSION B6): what a phone may send along, so that any region can rank for it."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from federation.device.store import LocalHistory
from federation.device.tower import DeviceRelease
from federation.device.training import LocalSettings, examples_of, reconstruct
from federation.messages import VECTOR_HEADER, VECTOR_RELEASE_HEADER
from infra.plumbing.keys import encode_base64url

Float32Array = npt.NDArray[np.float32]
Float64Array = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class PortableVector:
    """A user vector `[dim] float32` and the release whose item vectors it belongs to."""

    vector: Float32Array
    release_id: str

    def headers(self) -> dict[str, str]:
        """The two request headers: base64url of little-endian float32, and the release id."""
        raw = np.ascontiguousarray(self.vector, dtype="<f4").tobytes()
        return {VECTOR_HEADER: encode_base64url(raw), VECTOR_RELEASE_HEADER: self.release_id}


def personal_part(
    release: DeviceRelease, history: LocalHistory, *, rng: np.random.Generator, settings: LocalSettings | None = None
) -> Float64Array:
    """The phone's personal part for the released tower as it is, from its own whole history. `[dim] float64`."""
    bounds = settings or LocalSettings()
    examples = examples_of(history, release, bounds)
    if len(examples) < bounds.examples_min:
        return np.zeros(release.tower.dim)
    basis = np.zeros((release.tower.dim, 1), dtype=np.float32)
    return reconstruct(examples, release, basis=basis, core=np.zeros((1, 1)), rng=rng, settings=bounds)


def portable_vector(
    release: DeviceRelease, history: LocalHistory, *, now_s: float, personal: Float64Array | None = None
) -> PortableVector:
    """The released tower over what it can read of the phone's history (`DeviceRelease.reads`), plus the personal part.

    Without `personal` it is the vector that the home region's tower gives for the same history.
    """
    read = history.read_as(release.reads(history.rows, sensitive=history.sensitive))
    base = release.base_vector(read.rows, read.strengths, read.times_s, now_s=now_s)
    vector = base if personal is None else (base + personal).astype(np.float32)
    return PortableVector(vector, release.release_id)
