"""What the command line calls: run rounds, read the ledger, say how things stand; results are global structs."""

from collections.abc import Mapping
from pathlib import Path

from federation.flower.deployment import RunOptions, run_rounds
from federation.flower.plan import PrivacyPlan, RegionLink, TrainingPlan
from federation.privacy.ledger import LedgerEntry, read_ledger, spent_rounds
from federation.rounds.outcome import OUTCOME_FILE, RunOutcome, load_outcome
from infra.contracts.residency import Global, GlobalMessage


class LedgerReport(GlobalMessage, frozen=True, kw_only=True):
    """A ledger that verified. `epsilon` None stands for infinite."""

    population: Global[str]
    rounds: Global[int]
    """Rounds that count against the budget."""
    epsilon: Global[float | None]
    epsilon_released: Global[float | None]
    delta: Global[float]
    epsilon_max: Global[float]
    entries: Global[tuple[LedgerEntry, ...]]


class FederationStatus(GlobalMessage, frozen=True, kw_only=True):
    """How the federation stands: the last outcome, if any, and what the ledger says."""

    last: Global[RunOutcome | None]
    ledger: Global[LedgerReport]


def run_round(
    *, state_directory: Path, release_directory: Path, regions: Mapping[str, RegionLink], privacy: PrivacyPlan,
    rounds: int = 1, training: TrainingPlan | None = None, options: RunOptions | None = None,
) -> RunOutcome:  # fmt: skip
    """One run in a Flower deployment; see `federation.flower.deployment.run_rounds`.

    Raises:
        DeploymentError: no outcome.
    """
    return run_rounds(
        state_directory=state_directory, release_directory=release_directory, regions=regions, rounds=rounds,
        privacy=privacy, training=training, options=options,
    )  # fmt: skip


def ledger(ledger_file: Path) -> LedgerReport:
    """Verify and read a ledger; an empty one reports nothing spent.

    Raises:
        LedgerError: the ledger does not hold.
    """
    entries = read_ledger(ledger_file)
    if not entries:
        return LedgerReport(
            population="", rounds=0, epsilon=0.0, epsilon_released=0.0, delta=0.0, epsilon_max=0.0, entries=()
        )
    first, last = entries[0], entries[-1]
    return LedgerReport(
        population=first.population, rounds=len(spent_rounds(entries)), epsilon=last.epsilon,
        epsilon_released=last.epsilon_released, delta=first.delta, epsilon_max=first.epsilon_max, entries=entries,
    )  # fmt: skip


def status(*, state_directory: Path, ledger_file: Path) -> FederationStatus:
    """The last outcome under `state_directory` and the ledger.

    Raises:
        OutcomeError: there is an outcome that cannot be read.
        LedgerError: the ledger does not hold.
    """
    directory = state_directory / "outcome"
    last = load_outcome(directory) if (directory / OUTCOME_FILE).exists() else None
    return FederationStatus(last=last, ledger=ledger(ledger_file))
