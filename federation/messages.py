"""What phones, gateway, SuperNode and central say to each other in a round.

Numbers travel as little-endian float32 bytes with their shape. A phone's update travels under the masks of
`federation.secure_aggregation`; whatever a single phone sends is of class ``region``: by type it cannot be encoded
towards central. Only a `RegionalSum`, which already carries the region's noise, can.
"""

import enum
import hashlib
import re

import msgspec
import numpy as np
import numpy.typing as npt

from federation.secure_aggregation.messages import Advert, Gathering, Roster
from infra.contracts.residency import Global, GlobalMessage, Regional, RegionalMessage
from infra.plumbing.errors import InvalidInputError

ROUND_ID_PATTERN = re.compile(r"[0-9a-f]{16,64}")
PROTOCOL = 5
"""Version of what phones and gateway say to each other; a phone of another version is told to update. Masks and
signatures cover the plan: a new field of `RoundPlan` is a new version."""
PACKED = "atoll-visit-packed"
"""Subprotocol of a visit (RFC 6455) whose bodies are MessagePack; without it they are JSON."""
TICKET_HEADER = "Atoll-Round-Ticket"
VECTOR_HEADER = "Atoll-User-Vector"
VECTOR_RELEASE_HEADER = "Atoll-Vector-Release"

Float32Array = npt.NDArray[np.float32]
Float64Array = npt.NDArray[np.float64]


class Phase(enum.StrEnum):
    """Where a round stands in one region."""

    SELECTING = "selecting"
    SEATING = "seating"
    SHARING = "sharing"
    REPORTING = "reporting"
    CHECKING = "checking"
    UNMASKING = "unmasking"
    CLOSED = "closed"
    VOID = "void"


class Part(enum.StrEnum):
    """What a round trains."""

    CORE = "core"
    ITEMS = "items"


class RoundPlan(GlobalMessage, frozen=True, kw_only=True):
    """Central asks every region for one noised sum of updates of a shared part.

    ``core``: the adapter's step is ``I + basis @ core @ basis.T``; `core` is `[rank, rank]` and its change is summed.

    ``items``: `rows` (little-endian int32) is a slice of the catalogue that the server chose, the same for every phone
    whatever is in its history; `core` is `[rows, rank]`, and the vector of each item of the slice moves by
    ``basis @ core[item]``. What is summed is `[rows, rank + 1]`: each item's gradient in the basis, and its mass.
    """

    round_id: Global[str]
    release: Global[str]
    part: Global[Part] = Part.CORE
    dim: Global[int]
    rank: Global[int]
    basis: Global[bytes]
    """`[dim, rank]` float32."""
    core: Global[bytes]
    rows: Global[bytes] = b""
    reads: Global[bytes] = b""
    """``items``: for each of `rows` the catalogue row that a phone's tower reads in its place (little-endian int32):
    itself, another item whose taste it has, or -1: not read at all."""
    clipping_norm: Global[float]
    noise_multiplier: Global[float]
    sampling_probability: Global[float] = 1.0
    """What the ledger was told: a region that takes its phones with a higher probability must refuse."""
    local_steps: Global[int] = 8
    local_learning_rate: Global[float] = 0.05

    @property
    def core_shape(self) -> tuple[int, int]:
        """Shape of `core`."""
        return (self.rank if self.part is Part.CORE else len(self.rows) // 4, self.rank)

    @property
    def shape(self) -> tuple[int, int]:
        """Shape of what is summed."""
        rows, columns = self.core_shape
        return (rows, columns if self.part is Part.CORE else columns + 1)

    @property
    def length(self) -> int:
        """Numbers in what is summed."""
        return self.shape[0] * self.shape[1]

    def digest(self) -> bytes:
        """SHA-256 over all of it: whoever has the same digest was asked for the same."""
        return hashlib.sha256(msgspec.json.encode(self)).digest()


class CheckIn(RegionalMessage, frozen=True, kw_only=True):
    """A phone is ready. Nothing in it describes its owner; who it is says its token.

    `session` is what the gateway announced, `advert` the phone's public keys for it. A phone that has not heard of the
    session yet leaves both out and is told.
    """

    releases: Regional[tuple[str, ...]]
    """Releases whose towers the phone holds."""
    protocol: Global[int] = PROTOCOL
    idle: Regional[bool] = True
    charging: Regional[bool] = True
    unmetered: Regional[bool] = True
    session: Regional[str] = ""
    advert: Regional[Advert | None] = None


class CheckInAnswer(RegionalMessage, frozen=True, kw_only=True):
    """A task with a place in the round, or when to come back and why."""

    plan: Global[RoundPlan | None] = None
    ticket: Regional[str] = ""
    """Shown with every later message of this round, in TICKET_HEADER; the token is not shown again."""
    roster: Regional[Roster | None] = None
    gathering: Regional[Gathering | None] = None
    """In place of the roster, where its seats are drawn first."""
    session: Regional[str] = ""
    """What the next advert must be made for."""
    report_within_s: Global[float] = 0.0
    come_back_s: Global[float] = 0.0
    reason: Global[str] = ""


class UpdateReceipt(RegionalMessage, frozen=True, kw_only=True):
    """The phone has done its part; the update is in the sum."""

    round_id: Global[str]


class CohortSum(GlobalMessage, frozen=True, kw_only=True):
    """The noised sum of one cohort of a region, and what it is to be divided by."""

    total: Global[bytes]
    weight: Global[int]


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
    cohorts: Global[tuple[CohortSum, ...]] = ()
    """Where the region keeps its cohorts apart, so that central can trim: then `total` is empty."""
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


def reads_of(plan: RoundPlan) -> npt.NDArray[np.int32]:
    """What the tower reads in place of each of the plan's rows, `[rows] int32`; the rows themselves if it says nothing.

    Raises:
        InvalidInputError: not one for each row, or below -1.
    """
    rows = rows_of(plan)
    if not plan.reads:
        return rows
    reads = np.frombuffer(plan.reads, dtype="<i4") if len(plan.reads) == len(plan.rows) else np.array([-2])
    if reads.min(initial=0) < -1:
        raise InvalidInputError("what is read does not fit the plan's rows.", fix="Name one row, or -1, for each.")
    return reads.astype(np.int32, copy=False)


def rows_of(plan: RoundPlan) -> npt.NDArray[np.int32]:
    """The slice of an ``items`` plan, `[rows] int32`; empty for the core.

    Raises:
        InvalidInputError: the rows are not distinct non-negative numbers, or there are none where some are needed.
    """
    if len(plan.rows) % 4:
        raise InvalidInputError("the plan's rows are not whole numbers of four bytes.")
    rows = np.frombuffer(plan.rows, dtype="<i4")
    distinct = len(set(rows.tolist()))  # np.unique would bring masked arrays in, while phones wait
    if (plan.part is Part.ITEMS) != bool(len(rows)) or distinct != len(rows) or rows.min(initial=0) < 0:
        raise InvalidInputError("the plan's rows do not fit what it trains.", fix="Name each item of the slice once.")
    return rows.astype(np.int32, copy=False)
