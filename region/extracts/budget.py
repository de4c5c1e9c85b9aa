"""What extracts of aggregates have cost in the last 365 days, in a file of the node: booked before anybody is counted.

An extract that was booked and broke off stays booked: whether anybody saw some of it is not known. Basic composition:
epsilons and deltas add up. Several nodes of one region have a book each, so make a region's extracts on one of them.
"""

from pathlib import Path

import msgspec

from infra.contracts.residency import Global, RegionalMessage
from infra.plumbing.errors import ConflictError, SettingsError
from infra.plumbing.files import write_atomically
from infra.plumbing.locking import locked

FILE = "extracts.json"
YEAR_MS = 365 * 86_400_000
ENTRIES_MAX = 10_000


class ExtractBudgetError(ConflictError):
    """Another extract would reveal more about one user in a year than the region allows."""


class Spent(RegionalMessage, frozen=True, kw_only=True):
    """One extract of aggregates."""

    at_ms: Global[int]
    epsilon: Global[float]


class ExtractBudget:
    """The book. Blocks: it is for the command line.

    Args:
        directory: the node's state directory.
        epsilon_a_year_max: what all extracts of 365 days may reveal.
    """

    def __init__(self, directory: Path, *, epsilon_a_year_max: float) -> None:
        self._path = directory / FILE
        self._epsilon_max = epsilon_a_year_max

    def book(self, epsilon: float, *, now_ms: int) -> float:
        """Book an extract; returns what the year's have cost with it.

        Raises:
            ExtractBudgetError: it would be too much.
            SettingsError: the book cannot be read: what was spent is not known then.
        """
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with locked(self._path.with_suffix(".lock")):
            kept = [one for one in self._read() if now_ms - one.at_ms < YEAR_MS]
            spent = sum(one.epsilon for one in kept) + epsilon
            if spent > self._epsilon_max + 1e-9 or len(kept) >= ENTRIES_MAX:
                raise ExtractBudgetError(
                    f"with this extract a year's aggregates would cost epsilon {spent:.3f}, above the region's"
                    f" {self._epsilon_max:.3f}.",
                    fix="Wait until an earlier one is a year old, or have extracts.epsilon_a_year_max raised.",
                )
            entries = [*kept, Spent(at_ms=now_ms, epsilon=epsilon)]
            write_atomically(self._path, msgspec.json.encode(entries), mode=0o640)
        return spent

    def _read(self) -> list[Spent]:
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=list[Spent])
        except FileNotFoundError:
            return []
        except (OSError, msgspec.DecodeError) as error:
            raise SettingsError(
                f"the book of extracts {self._path} cannot be read: {error}.", fix="Restore it from a copy."
            ) from error
