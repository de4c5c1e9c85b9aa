"""A run of rounds at central, whatever carries its messages: plan, book, ask, aggregate, step, write the outcome.

`Regions` is the port to the regions; Flower's grid is one adapter (`federation.flower.server_app`), tests bring
others.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from federation.flower.plan import RunPlan
from federation.messages import Phase, RegionalSum, RoundPlan, to_bytes
from federation.privacy.ledger import Budget, Ledger, LedgerEntry, PrivacyBudgetSpentError
from federation.privacy.noise import Entropy
from federation.rounds.aggregate import (
    TRIM_COHORTS_MIN,
    ServerState,
    mean_update,
    noise_deviation,
    principal_basis,
    server_step,
    shrink,
    stepped_adapter,
    usable_sums,
)
from federation.rounds.outcome import RegionOutcome, RoundOutcome, RunOutcome, load_adapter, save_outcome
from infra.contracts.release import FEDERATED_ADAPTER, ITEM_VECTORS
from infra.plumbing.clock import Clock

Float32Array = npt.NDArray[np.float32]


class Regions(Protocol):
    """Asks every region for its sum."""

    def ask(self, plan: RoundPlan, *, timeout_s: float) -> Sequence[RegionalSum]:
        """One answer per region that answered in time."""
        ...


class TrainingRun:
    """One run. Build it, then `run` once."""

    def __init__(self, plan: RunPlan, *, regions: Regions, clock: Clock, entropy: Entropy) -> None:
        release = Path(plan.release_directory)
        self._plan = plan
        self._regions = regions
        self._clock = clock
        self._entropy = entropy
        self._release_id = release.name
        self._adapter = load_adapter(release / FEDERATED_ADAPTER)
        rank = min(plan.training.rank, self._adapter.shape[0])
        self._basis = principal_basis(np.load(release / ITEM_VECTORS, allow_pickle=False), rank)
        self._state = ServerState(np.zeros((rank, rank)), np.zeros((rank, rank)))
        privacy = plan.privacy
        self._ledger = Ledger(
            Path(privacy.ledger_file), clock=clock,
            budget=Budget(population=privacy.population, epsilon_max=privacy.epsilon_max, delta=privacy.delta),
        )  # fmt: skip

    def run(self, *, told: Callable[[RoundOutcome], None] = lambda _outcome: None) -> RunOutcome:
        """Train the planned rounds, or fewer if the budget ends, and write the outcome.

        Raises:
            LedgerError: the ledger does not hold or was opened with another budget; nothing was asked of any phone.
        """
        rounds: list[RoundOutcome] = []
        stopped = ""
        for _ in range(self._plan.rounds):
            try:
                rounds.append(self._round())
            except PrivacyBudgetSpentError as error:
                stopped = str(error)
                break
            told(rounds[-1])
        return self._finish(rounds, stopped)

    def _round(self) -> RoundOutcome:
        started_s = self._clock.monotonic_s()
        plan = self._round_plan()
        privacy = self._plan.privacy
        # Booked before any region is asked: a crash from here on leaves the round booked, never unbooked.
        self._ledger.reserve(
            plan.round_id, noise_multiplier=plan.noise_multiplier, sampling_probability=privacy.sampling_probability
        )
        answers = self._regions.ask(plan, timeout_s=self._plan.round_timeout_s)
        sums = usable_sums(answers, plan)
        if not sums and len(answers) < len(self._plan.regions):
            # A region that did not answer may still have given its sum away: the reservation stands.
            entry = self._ledger.entries()[-1]
        else:
            # A trimmed mean may leave all but one cohort's noise out, so no more than that is claimed for it.
            added = len(sums) if len(sums) < TRIM_COHORTS_MIN else 1
            entry = self._ledger.settle(plan.round_id, regions=added)
        return self._step(plan, answers, sums, entry, started_s)

    def _step(
        self, plan: RoundPlan, answers: Sequence[RegionalSum], sums: Sequence[RegionalSum], entry: LedgerEntry,
        started_s: float,
    ) -> RoundOutcome:  # fmt: skip
        mean, step, deviation = np.zeros_like(self._state.core), np.zeros_like(self._state.core), 0.0
        if sums:
            training = self._plan.training
            mean, deviation = mean_update(sums), noise_deviation(sums)
            step = shrink(mean, deviation=deviation, norm_max=plan.clipping_norm)
            self._state = server_step(
                self._state, step, learning_rate=training.server_learning_rate, momentum=training.server_momentum
            )
        return RoundOutcome(
            round_id=plan.round_id,
            regions=tuple(self._region_outcome(name, answers) for name in sorted(self._plan.regions)),
            ok=bool(sums), epsilon=entry.epsilon, epsilon_released=entry.epsilon_released,
            update_norm=float(np.linalg.norm(mean)), step_norm=float(np.linalg.norm(step)),
            noise_norm=deviation * plan.rank, took_s=self._clock.monotonic_s() - started_s,
        )  # fmt: skip

    def _round_plan(self) -> RoundPlan:
        training = self._plan.training
        dim, rank = self._basis.shape
        return RoundPlan(
            round_id=self._entropy(16).hex(), release=self._release_id, dim=dim, rank=rank,
            basis=to_bytes(self._basis), core=to_bytes(self._state.core), clipping_norm=training.clipping_norm,
            noise_multiplier=self._plan.privacy.noise_multiplier,
            sampling_probability=self._plan.privacy.sampling_probability, local_steps=training.local_steps,
            local_learning_rate=training.local_learning_rate,
        )  # fmt: skip

    @staticmethod
    def _region_outcome(name: str, answers: Sequence[RegionalSum]) -> RegionOutcome:
        for one in answers:
            if one.region == name:
                return RegionOutcome(region=name, phase=one.phase, weight=one.weight, reason=one.reason)
        return RegionOutcome(region=name, phase=Phase.VOID, reason="no answer")

    def _finish(self, rounds: Sequence[RoundOutcome], stopped: str) -> RunOutcome:
        entries = self._ledger.entries()
        outcome = RunOutcome(
            release=self._release_id, population=self._plan.privacy.population, rounds=tuple(rounds),
            devices=sum(region.weight for one in rounds for region in one.regions), ok=any(one.ok for one in rounds),
            epsilon=entries[-1].epsilon if entries else 0.0,
            epsilon_released=entries[-1].epsilon_released if entries else 0.0,
            delta=self._plan.privacy.delta, adapter_path=FEDERATED_ADAPTER, stopped=stopped,
        )  # fmt: skip
        adapter = stepped_adapter(self._adapter, basis=self._basis, core=self._state.core)
        save_outcome(Path(self._plan.outcome_directory), outcome, adapter)
        return outcome
