"""What phones, gateway, SuperNode and central say to each other in a round.

Numbers travel as little-endian float32 bytes with their shape. What a single phone sends is of class ``region``: by
type it cannot be encoded towards central. Only a `RegionalSum`, which already carries the region's noise, can.
"""

import enum
import re

import numpy as np
import numpy.typing as npt

from infra.contracts.residency import Global, GlobalMessage, Regional, RegionalMessage
from infra.plumbing.errors import InvalidInputError

ROUND_ID_PATTERN = re.compile(r"[0-9a-f]{16,64}")
TICKET_HEADER = "Atoll-Round-Ticket"
VECTOR_HEADER = "Atoll-User-Vector"
VECTOR_RELEASE_HEADER = "Atoll-Vector-Release"

Float32Array = npt.NDArray[np.float32]
Float64Array = npt.NDArray[np.float64]


class Phase(enum.StrEnum):
    """Where a round stands in one region."""

    SELECTING = "selecting"
    REPORTING = "reporting"
    CLOSED = "closed"
    VOID = "void"


class RoundPlan(GlobalMessage, frozen=True, kw_only=True):
    """Central asks every region for one noised sum of updates of the core of the shared adapter.

    The adapter's step is ``I + basis @ core @ basis.T``: `basis` is `[dim, rank]` with orthonormal columns, `core` is
    `[rank, rank]` and is all that is trained, so that noise is spent on rank * rank numbers.
    """

    round_id: Global[str]
    release: Global[str]
    dim: Global[int]
    rank: Global[int]
    basis: Global[bytes]
    core: Global[bytes]
    clipping_norm: Global[float]
    noise_multiplier: Global[float]
    sampling_probability: Global[float] = 1.0
    """What the ledger was told: a region that takes its phones with a higher probability must refuse."""
    local_steps: Global[int] = 8
    local_learning_rate: Global[float] = 0.05


class CheckIn(RegionalMessage, frozen=True, kw_only=True):
    """A phone is ready. Nothing in it describes its owner; who it is says its token."""

    releases: Regional[tuple[str, ...]]
    """Releases whose towers the phone holds."""
    idle: Regional[bool] = True
    charging: Regional[bool] = True
    unmetered: Regional[bool] = True


class CheckInAnswer(RegionalMessage, frozen=True, kw_only=True):
    """A task, or when to come back and why."""

    plan: Global[RoundPlan | None] = None
    ticket: Regional[str] = ""
    """Shown once with the update, in TICKET_HEADER; the token is not shown again."""
    report_within_s: Global[float] = 0.0
    come_back_s: Global[float] = 0.0
    reason: Global[str] = ""


class DeviceUpdate(RegionalMessage, frozen=True, kw_only=True):
    """What one phone learned: the clipped change of the core, `[rank, rank]` float32. Nothing else."""

    round_id: Global[str]
    shape: Global[tuple[int, int]]
    delta: Regional[bytes]


class UpdateReceipt(RegionalMessage, frozen=True, kw_only=True):
    """The update is in the sum."""

    round_id: Global[str]


class RegionalSum(GlobalMessage, frozen=True, kw_only=True):
    """A region's part of a round: the noised sum of its phones' updates, or why there is none.

    `weight` is what the sum is to be divided by: the number of updates, or with Poisson sampling a number fixed in
    advance (then the true count stays in the region).
    """

    round_id: Global[str]
    region: Global[str]
    phase: Global[Phase]
    shape: Global[tuple[int, int]] = (0, 0)
    total: Global[bytes] = b""
    weight: Global[int] = 0
    clipping_norm: Global[float] = 0.0
    noise_multiplier: Global[float] = 0.0
    sampling_probability: Global[float] = 1.0
    reason: Global[str] = ""


def to_bytes(array: npt.NDArray[np.floating]) -> bytes:
    """Little-endian float32 bytes in C order."""
    return np.ascontiguousarray(array, dtype="<f4").tobytes()


def from_bytes(raw: bytes, shape: tuple[int, int], *, what: str) -> Float32Array:
    """The float32 array of this shape; a read-only view of `raw`.

    Raises:
        InvalidInputError: the length does not fit the shape, or a number is not finite.
    """
    rows, columns = shape
    if rows < 1 or columns < 1 or len(raw) != 4 * rows * columns:
        raise InvalidInputError(
            f"the {what} has {len(raw)} bytes where its shape needs another number.",
            fix="Send rows x columns little-endian float32 numbers.",
        )
    array = np.frombuffer(raw, dtype="<f4").reshape(rows, columns)
    if not np.isfinite(array).all():
        raise InvalidInputError(f"the {what} holds a number that is not finite.", fix="Send finite numbers only.")
    return array.astype(np.float32, copy=False)
