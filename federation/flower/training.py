"""A run of rounds at central, whatever carries its messages: plan, book, ask, aggregate, step, write the outcome.

`Regions` is the port to the regions; Flower's grid is one adapter (`federation.flower.server_app`), tests bring
others. A run that was killed goes on where it was: its state is on disk before anybody is asked (RUN_STATE_FILE),
a round that was booked is asked for again under the same id, and gateways answer the same id with the same sum.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import msgspec
import numpy as np

from federation.flower.plan import RunPlan, norm_in_words
from federation.flower.state import RunState, StateFile
from federation.messages import Part, Phase, RegionalSum, RoundPlan, to_bytes
from federation.privacy.ledger import Budget, EntryKind, Ledger, LedgerEntry, PrivacyBudgetSpentError
from federation.privacy.noise import Entropy
from federation.rounds.aggregate import TRIM_COHORTS_MIN, Answers, judged, mean_update, noise_deviation, shrink
from federation.rounds.outcome import RegionOutcome, RoundOutcome, RunOutcome, save_outcome
from federation.rounds.parts import ImplausibleStepError, SharedPart, shared_part
from infra.contracts.release import FEDERATED_ADAPTER
from infra.plumbing.clock import Clock


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
        self._part: SharedPart = shared_part(plan.training, release)
        privacy = plan.privacy
        self._ledger = Ledger(
            Path(privacy.ledger_file), clock=clock,
            budget=Budget(population=privacy.population, epsilon_max=privacy.epsilon_max, delta=privacy.delta),
        )  # fmt: skip
        self._file = StateFile(Path(plan.outcome_directory), plan)
        self._state = self._file.read() or RunState.fresh(self._file.digest)
        if self._state.core:
            self._part.restore(self._state.core, self._state.momentum)

    def run(self, *, told: Callable[[RoundOutcome], None] = lambda _outcome: None) -> RunOutcome:
        """Train the planned rounds, or fewer if the budget ends, and write the outcome.

        Raises:
            LedgerError: the ledger does not hold or was opened with another budget; nothing was asked of any phone.
        """
        stopped = ""
        while len(self._state.rounds) < self._plan.rounds:
            try:
                outcome = self._round()
            except PrivacyBudgetSpentError as error:
                stopped = str(error)
                break
            told(outcome)
        return self._finish(self._state.rounds, stopped)

    def _round(self) -> RoundOutcome:
        started_s = self._clock.monotonic_s()
        plan = self._state.pending or self._round_plan()
        self._state = self._file.write(self._state.waiting_for(plan))
        # Booked before any region is asked: a crash from here on leaves the round booked, never unbooked.
        self._reserve_once(plan)
        answers = self._regions.ask(plan, timeout_s=self._plan.round_timeout_s)
        found = judged(answers, plan, regions=self._plan.regions)
        entry = self._settle_once(plan, answers, found)
        outcome = self._step(plan, answers, found, entry, started_s)
        core, momentum = self._part.saved()
        self._state = self._file.write(self._state.after(outcome, core=core, momentum=momentum))
        return outcome

    def _reserve_once(self, plan: RoundPlan) -> None:
        if not self._entries_of(plan):
            self._ledger.reserve(
                plan.round_id, noise_multiplier=plan.noise_multiplier, sampling_probability=plan.sampling_probability
            )

    def _settle_once(
        self, plan: RoundPlan, answers: Sequence[RegionalSum], found: Answers
    ) -> LedgerEntry:  # fmt: skip
        if len(self._entries_of(plan)) > 1:
            return self._entries_of(plan)[-1]
        sums, heard = found.sums, {one.region for one in answers}
        if not sums and (found.refused or not heard >= self._plan.regions.keys()):
            # A region that did not answer may still have given its sum away: the reservation stands.
            return self._ledger.entries()[-1]
        # A trimmed mean may leave all but one cohort's noise out, so no more than that is claimed for it.
        added = len(sums) if len(sums) < TRIM_COHORTS_MIN else 1
        return self._ledger.settle(plan.round_id, regions=added)

    def _entries_of(self, plan: RoundPlan) -> list[LedgerEntry]:
        return [entry for entry in self._ledger.entries() if entry.round_id == plan.round_id]

    def _step(
        self, plan: RoundPlan, answers: Sequence[RegionalSum], found: Answers, entry: LedgerEntry, started_s: float
    ) -> RoundOutcome:
        sums = found.sums
        mean, deviation, moved, reason = np.zeros(plan.shape), 0.0, 0.0, ""
        if sums:
            mean, deviation = mean_update(sums), noise_deviation(sums)
            step = shrink(mean, deviation=deviation, norm_max=plan.clipping_norm) if plan.part is Part.CORE else mean
            try:
                moved = self._part.step(step, weight=sum(one.weight for one in sums), deviation=deviation)
            except ImplausibleStepError as error:
                reason = str(error)  # The sums were given away, so the round stays booked.
        booked = entry.kind is not EntryKind.VOID
        return RoundOutcome(
            round_id=plan.round_id,
            regions=tuple(_region_outcome(name, answers, found) for name in sorted(self._plan.regions)),
            ok=bool(sums) and booked and not reason, reason=reason, epsilon=entry.epsilon,
            epsilon_released=entry.epsilon_released,
            update_norm=float(np.linalg.norm(mean)), step_norm=moved,
            noise_norm=deviation * plan.length**0.5, clipping_norm=plan.clipping_norm,
            took_s=self._clock.monotonic_s() - started_s,
        )  # fmt: skip

    def _round_plan(self) -> RoundPlan:
        training = self._plan.training
        if len(self._state.rounds) % training.stage_rounds == 0:
            # What is read goes into the state with the plan, so that a run which goes on reads the same.
            reads = self._part.reads().astype("<i4").tobytes()
            self._state = msgspec.structs.replace(self._state, reads=reads)
        return RoundPlan(
            round_id=self._entropy(16).hex(), release=self._release_id, part=self._part.part, dim=self._part.dim,
            rank=self._part.rank, basis=to_bytes(self._part.basis), core=to_bytes(self._part.core),
            rows=self._part.rows.astype("<i4").tobytes(), reads=self._state.reads, clipping_norm=training.clipping_norm,
            noise_multiplier=self._plan.privacy.noise_multiplier,
            sampling_probability=self._plan.privacy.sampling_probability, local_steps=training.local_steps,
            local_learning_rate=training.local_learning_rate,
        )  # fmt: skip

    def _finish(self, rounds: Sequence[RoundOutcome], stopped: str) -> RunOutcome:
        entries = self._ledger.entries()
        # What was read while it was learned, and not what a further round would read.
        items = self._part.items(np.frombuffer(self._state.reads, dtype="<i4").astype(np.int32))
        outcome = RunOutcome(
            release=self._release_id, population=self._plan.privacy.population, rounds=tuple(rounds),
            devices=sum(region.weight for one in rounds for region in one.regions), ok=any(one.ok for one in rounds),
            epsilon=entries[-1].epsilon if entries else 0.0,
            epsilon_released=entries[-1].epsilon_released if entries else 0.0,
            delta=self._plan.privacy.delta, adapter_path=FEDERATED_ADAPTER, norm=norm_in_words(self._plan.training),
            stopped=stopped,
        )  # fmt: skip
        save_outcome(Path(self._plan.outcome_directory), outcome, self._part.adapter(), items=items)
        self._file.remove()
        return outcome


def _region_outcome(name: str, answers: Sequence[RegionalSum], found: Answers) -> RegionOutcome:
    if name in found.refused:
        return RegionOutcome(region=name, phase=Phase.VOID, reason=found.refused[name])
    for one in answers:
        if one.region == name:
            return RegionOutcome(region=name, phase=one.phase, weight=one.weight, reason=one.reason)
    return RegionOutcome(region=name, phase=Phase.VOID, reason="no answer")
