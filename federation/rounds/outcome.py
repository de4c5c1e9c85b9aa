"""What a run of rounds leaves behind: a new adapter in a file and a summary; central makes a candidate of it."""

import io
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from infra.contracts.release import FEDERATED_ADAPTER, MOVED_READS, MOVED_ROWS, MOVES
from infra.contracts.residency import Global, GlobalMessage
from infra.plumbing.errors import AtollError
from infra.plumbing.files import write_atomically

OUTCOME_FILE = "outcome.json"
ITEM_MOVES_FILE = "items.npz"


@dataclass(frozen=True, slots=True)
class ItemMoves:
    """What rounds make of some items: `rows [moved]` of the catalogue, and how far they move, `moves [moved, dim]`.

    `reads [moved]`: the row that phones' towers read in place of each, -1: nothing, as they did while it was learned.
    """

    rows: npt.NDArray[np.int32]
    moves: npt.NDArray[np.float32]
    reads: npt.NDArray[np.int32]


class OutcomeError(AtollError):
    """There is no outcome where one was expected, or it does not hold."""


class RegionOutcome(GlobalMessage, frozen=True, kw_only=True):
    """One region's part of one round."""

    region: Global[str]
    phase: Global[str]
    weight: Global[int] = 0
    reason: Global[str] = ""


class RoundOutcome(GlobalMessage, frozen=True, kw_only=True):
    """One round. `update_norm` is the length of the noised mean, `step_norm` what was left of it after shrinking."""

    round_id: Global[str]
    regions: Global[tuple[RegionOutcome, ...]]
    ok: Global[bool]
    epsilon: Global[float | None]
    epsilon_released: Global[float | None]
    update_norm: Global[float] = 0.0
    step_norm: Global[float] = 0.0
    noise_norm: Global[float] = 0.0
    clipping_norm: Global[float] = 0.0
    """What one phone's update was no longer than."""
    took_s: Global[float] = 0.0
    reason: Global[str] = ""
    """Why the sums were not used, where they came and the round is void all the same."""


class RunOutcome(GlobalMessage, frozen=True, kw_only=True):
    """A run: what was trained from which release, at what price. `epsilon` is the ledger's own total."""

    release: Global[str]
    population: Global[str]
    rounds: Global[tuple[RoundOutcome, ...]]
    devices: Global[int]
    """Updates in the sums of all rounds (with Poisson sampling: the fixed weights)."""
    ok: Global[bool]
    """Whether at least one round was not void."""
    epsilon: Global[float | None]
    epsilon_released: Global[float | None]
    delta: Global[float]
    adapter_path: Global[str]
    """The new adapter, relative to the outcome's own folder."""
    items_path: Global[str] = ""
    """The items' moves (`rows`, `moves`, `reads`), likewise; empty when items were not what was trained."""
    norm: Global[str] = ""
    """The clipping norm in force and where it comes from, in words."""
    stopped: Global[str] = ""
    """Why the run ended early; empty when it did not."""


def save_outcome(
    directory: Path, outcome: RunOutcome, adapter: npt.NDArray[np.float32], *, items: ItemMoves | None = None
) -> Path:
    """Write the adapter and the items' moves, then the summary that names them. Returns the summary's path.

    Raises:
        OutcomeError: the adapter is not a square matrix of finite numbers.
    """
    _require_square(adapter)
    buffer = io.BytesIO()
    np.save(buffer, adapter.astype(np.float32), allow_pickle=False)
    write_atomically(directory / FEDERATED_ADAPTER, buffer.getvalue())
    named = msgspec.structs.replace(outcome, adapter_path=FEDERATED_ADAPTER)
    if items is not None:
        named = msgspec.structs.replace(named, items_path=ITEM_MOVES_FILE)
        moved = io.BytesIO()
        arrays = {MOVED_ROWS: items.rows, MOVES: items.moves, MOVED_READS: items.reads}
        np.savez(moved, allow_pickle=False, **arrays)
        write_atomically(directory / ITEM_MOVES_FILE, moved.getvalue())
    path = directory / OUTCOME_FILE
    write_atomically(path, msgspec.json.encode(named))
    return path


def load_outcome(directory: Path) -> RunOutcome:
    """Read what `save_outcome` wrote; its paths come back as full ones.

    Raises:
        OutcomeError: there is none, or it cannot be read.
    """
    try:
        outcome = msgspec.json.decode((directory / OUTCOME_FILE).read_bytes(), type=RunOutcome)
    except (OSError, msgspec.DecodeError) as error:
        raise OutcomeError(
            f"there is no outcome of a federated run in {directory}.", fix="Run a round first."
        ) from error
    return msgspec.structs.replace(
        outcome, adapter_path=str(directory / outcome.adapter_path),
        items_path=str(directory / outcome.items_path) if outcome.items_path else "",
    )  # fmt: skip


def load_adapter(path: Path) -> npt.NDArray[np.float32]:
    """The adapter in `path`, `[dim, dim] float32`.

    Raises:
        OutcomeError: the file is missing or does not hold a square matrix of finite numbers.
    """
    try:
        adapter = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise OutcomeError(f"the adapter {path} cannot be read: {error}.") from error
    _require_square(adapter)
    return np.asarray(adapter, dtype=np.float32)


def _require_square(adapter: npt.NDArray[np.floating]) -> None:
    if adapter.ndim != 2 or adapter.shape[0] != adapter.shape[1] or not np.isfinite(adapter).all():
        raise OutcomeError(f"an adapter must be a square matrix of finite numbers, not {adapter.shape}.")
