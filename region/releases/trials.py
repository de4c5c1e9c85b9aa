"""One trial at a time: the candidate kept in memory beside the active release, outcomes counted, verdicts carried out.

    begin -- verify, load, warm --|-- calls of the bucket, counted --|-- look --|-- promote | roll back | hold
                                                                    every LOOK_S

The trial belongs to this process: a node that is started anew has none, says so in the audit, and answers from the
active release. Only counts leave this room; the subjects that were counted are forgotten with the trial.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, Protocol

from infra.contracts.events import Event, EventType
from infra.contracts.residency import Global, GlobalMessage
from infra.plumbing.clock import Clock
from infra.plumbing.errors import AtollError, NotFoundError, UnavailableError
from infra.plumbing.files import write_atomically
from region.releases.exposures import Exposures, credit
from region.releases.messages import SwitchAnswer
from region.releases.operations import REGION_ITSELF, Operations
from region.releases.slots import L, Slot
from region.releases.trial import (
    KEPT,
    Arm,
    Decision,
    Standing,
    Tally,
    TrialKind,
    TrialPlan,
    Verdict,
    acts_at,
    in_bucket,
    judge,
    looked_at,
    new_standing,
    next_period,
    period_of,
)
from region.releases.word import WORD_TIMEOUT_S, Word

LOOK_S = 1.0
TOOK = frozenset({EventType.CLICK, EventType.WATCH, EventType.LIKE, EventType.CART, EventType.PURCHASE})


class TrialReport(GlobalMessage, frozen=True, kw_only=True):
    """How a trial stands, or how the last one ended: counts and rates only."""

    kind: Global[TrialKind]
    plan: Global[TrialPlan]
    elapsed_s: Global[float]
    answers: Global[int]
    control_answers: Global[int]
    rates: Global[dict[str, tuple[float, float]]]
    """By what is watched: the control's rate and the trial's. Of a canary: of subjects, in the hour that it is in."""
    evidence: Global[dict[str, float]]
    """e-values of harm by what is watched, and of `kept`: that clicks are kept."""
    acts_at: Global[dict[str, float]]
    """Canary: the e-value from which on it acts; of the first four the mean has to reach it."""
    overlap: Global[float | None] = None
    """Shadow: mean share of the first ten items that both lists have."""
    decision: Global[str]
    why: Global[str]


@dataclass(slots=True, kw_only=True)
class Trial(Generic[L]):
    """A trial under way."""

    kind: TrialKind
    plan: TrialPlan
    operator: str
    slot: Slot[L]
    began_s: float
    exposures: Exposures
    standing: Standing = field(default_factory=new_standing)
    answers: dict[Arm, int] = field(default_factory=lambda: dict.fromkeys(Arm, 0))
    tallies: dict[Arm, Tally] = field(default_factory=lambda: {arm: Tally() for arm in Arm})
    overlaps: int = 0
    overlap_sum: float = 0.0
    verdict: Verdict = field(default_factory=lambda: Verdict(Decision.GO_ON, "it has just begun."))


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What one answer was like."""

    took_ms: float
    failed: bool = False
    empty: bool = False
    degraded: bool = False
    shown: bool = True
    """Whether the caller was given it."""


class Switchboard(Protocol[L]):
    """What a trial needs of the room that switches releases (`region.releases.activation.Activator`)."""

    operations: Operations
    end_trial: Callable[[], Awaitable[None]] | None

    @property
    def active_release(self) -> str | None:
        """The release that answers now."""
        ...

    async def load_beside(self, release: str, *, action: str, operator: str) -> Slot[L]:
        """Load a release beside the active one."""
        ...

    async def promote(self, release: str, *, operator: str, ready: Slot[L] | None = None) -> SwitchAnswer:
        """Make a release the active one."""
        ...

    def retire(self, slot: Slot[L]) -> None:
        """Close a release once no request works with it."""
        ...


class Trials(Generic[L]):
    """Owns the trial of one region node.

    Args:
        activator: which release answers; promotes what passed.
        marker: a file that says that a trial is under way, so that a restart can say that it ended.
        clock: for durations.
        uniform: draws from [0, 1), for which calls a shadow is asked.
        ended: told that lists of the trial no longer hold.
    """

    def __init__(
        self,
        *,
        activator: Switchboard[L],
        marker: Path,
        clock: Clock,
        uniform: Callable[[], float],
        ended: Callable[[str], Awaitable[None]],
    ) -> None:
        self._activator = activator
        self._marker = marker
        self._clock = clock
        self._uniform = uniform
        self._word = Word(ended, timeout_s=WORD_TIMEOUT_S)
        activator.end_trial = self.make_room
        self._trial: Trial[L] | None = None
        self._last: TrialReport | None = None

    @property
    def running(self) -> Trial[L] | None:
        """The trial under way, if any."""
        return self._trial

    async def start(self) -> None:
        """Say in the audit what a trial came to that a restart ended."""
        if not await asyncio.to_thread(self._marker.exists):
            return
        release = (await asyncio.to_thread(self._marker.read_text)).strip()
        await asyncio.to_thread(self._marker.unlink, missing_ok=True)
        active = self._activator.active_release
        await self._activator.operations.record(
            "trial", REGION_ITSELF, active, release, "failed", "the node was started anew"
        )

    async def begin(self, kind: TrialKind, plan: TrialPlan, *, operator: str) -> TrialReport:
        """Load the release of `plan` beside the active one and begin to try it.

        Raises:
            ConflictError: a trial is under way, the region is frozen, or the release is active already.
            UnavailableError: the disk is full.
            NotFoundError, ReleaseDamagedError, AtollError: as for a promotion. The active release goes on.
        """
        slot = await self._activator.load_beside(plan.release, action=kind.value, operator=operator)
        try:
            await asyncio.to_thread(write_atomically, self._marker, plan.release.encode())
        except BaseException as error:
            # Nobody else knows of it: what nobody can stop would keep every other release out.
            self._activator.retire(slot)
            if isinstance(error, OSError):
                raise UnavailableError(
                    f"the trial cannot be noted on this disk: {error.strerror}.", fix="Free space, then begin again."
                ) from error
            raise
        self._trial = Trial(
            kind=kind, plan=plan, operator=operator, slot=slot, began_s=self._clock.monotonic_s(),
            exposures=Exposures(window_s=plan.quality_window_s),
        )  # fmt: skip
        return self.report()

    async def stop(self, *, operator: str, why: str = "an operator stopped it") -> TrialReport:
        """End the trial; the active release goes on.

        Raises:
            NotFoundError: there is none.
        """
        if self._trial is None:
            raise NotFoundError("No release is being tried here.", fix="See `trial` for how the last one ended.")
        return await self._end(Verdict(Decision.HOLD, why), operator=operator)

    async def make_room(self) -> None:
        """End a trial under way because the region is rolled back: there is memory for two releases."""
        if self._trial is not None:
            await self._end(Verdict(Decision.HOLD, "the region was rolled back"), operator=REGION_ITSELF)

    def report(self) -> TrialReport:
        """How the trial stands, or how the last one ended.

        Raises:
            NotFoundError: this process has tried nothing.
        """
        if self._trial is not None:
            return self._report_of(self._trial)
        if self._last is None:
            raise NotFoundError("No release has been tried here since the node started.", fix="Begin with `canary`.")
        return self._last

    def arm_of(self, subject: str | None) -> Arm:
        """Who answers `subject`: always the control for callers without one, and during a shadow."""
        trial = self._trial
        if trial is None or subject is None or trial.kind is not TrialKind.CANARY:
            return Arm.CONTROL
        return Arm.TRIAL if in_bucket(subject, trial.plan.release, trial.plan.share) else Arm.CONTROL

    def wants_shadow(self) -> bool:
        """Whether this call is to be asked of the shadow too."""
        trial = self._trial
        return trial is not None and trial.kind is TrialKind.SHADOW and self._uniform() < trial.plan.share

    @contextlib.contextmanager
    def lease(self) -> Iterator[L]:
        """The release that is tried, which stays open until the block ends.

        Raises:
            NotFoundError: the trial has ended in between.
        """
        trial = self._trial
        if trial is None:
            raise NotFoundError("the trial has ended.")
        with trial.slot.held() as loaded:
            yield loaded

    def note(self, arm: Arm, outcome: Outcome, *, subject: str | None = None) -> None:
        """Count one answer of `arm`.

        A canary is judged by callers whom a bucket decides over: by `subject`, once in each period.
        """
        trial = self._trial
        if trial is None:
            return
        trial.answers[arm] += 1
        if trial.kind is TrialKind.CANARY:
            if subject is None:
                return
            if outcome.shown:
                trial.exposures.shown(subject, arm, now_s=self._clock.monotonic_s())
            if not trial.exposures.answered(subject):
                return
        tally = trial.tallies[arm]
        tally.answers += 1
        tally.failed += outcome.failed
        tally.empty += outcome.empty
        tally.degraded += outcome.degraded
        tally.slow += outcome.took_ms > trial.plan.slow_ms

    def note_overlap(self, share: float) -> None:
        """Count how much of the first ten items the shadow's list has in common with the answer."""
        if self._trial is not None:
            self._trial.overlaps += 1
            self._trial.overlap_sum += share

    def note_events(self, subject: str, events: tuple[Event, ...]) -> None:
        """Note that `subject` took something of the list that it was shown, if one of `events` says so."""
        trial = self._trial
        if trial is None or not any(event.type in TOOK for event in events):
            return
        trial.exposures.took(subject)

    def count_of(self, subject: str) -> int:
        """1 for a subject that the trial under way has shown something, else 0."""
        return self._trial.exposures.count_of(subject) if self._trial is not None else 0

    def forget(self, subject: str) -> None:
        """The trial under way knows nothing of the subject any more."""
        if self._trial is not None:
            self._trial.exposures.forget(subject)

    def subjects(self) -> tuple[str, ...]:
        """Everybody whom the trial under way has shown something."""
        return self._trial.exposures.subjects() if self._trial is not None else ()

    async def look(self) -> Verdict | None:
        """Weigh what came in since the last look and carry out what follows; None when nothing is tried."""
        trial = self._trial
        if trial is None:
            return None
        now_s = self._clock.monotonic_s()
        for arm, took in trial.exposures.run_out(now_s=now_s):
            credit(trial.tallies[arm], took=took)
        trial.standing = looked_at(trial.plan, trial.standing, trial.tallies[Arm.CONTROL], trial.tallies[Arm.TRIAL])
        trial.tallies = {arm: Tally() for arm in Arm}
        elapsed_s = now_s - trial.began_s
        trial.verdict = self._judged(trial, elapsed_s=elapsed_s)
        if trial.verdict.decision is not Decision.GO_ON:
            await self._end(trial.verdict, operator=REGION_ITSELF)
        elif period_of(elapsed_s) > trial.standing.period:
            trial.standing = next_period(trial.standing, period_of(elapsed_s))
            trial.exposures.next_period()
        return trial.verdict

    def _judged(self, trial: Trial[L], *, elapsed_s: float) -> Verdict:
        if trial.kind is TrialKind.CANARY:
            return judge(trial.plan, trial.standing, elapsed_s=elapsed_s)
        if elapsed_s >= trial.plan.duration_s:
            return Verdict(Decision.HOLD, "the shadow's time is over.")
        return Verdict(Decision.GO_ON, f"{trial.overlaps} lists compared.")

    async def _end(self, verdict: Verdict, *, operator: str) -> TrialReport:
        trial = self._trial
        if trial is None:
            raise NotFoundError("No release is being tried here.")
        trial.verdict = verdict
        # From here on everybody is answered by the active release, which is loaded: the edges hear of it before a disk.
        self._last, self._trial = self._report_of(trial), None
        active, release = self._activator.active_release, trial.plan.release
        passed = verdict.decision is Decision.PROMOTE
        if not passed:
            self._activator.retire(trial.slot)
            await self._word.tell(active or "")
        await asyncio.to_thread(self._marker.unlink, missing_ok=True)
        action = f"{trial.kind.value} {verdict.decision.value}"
        await self._activator.operations.record(action, operator, active, release, "done", verdict.why)
        if passed and not await self._promoted(trial, operator=operator):
            await self._word.tell(active or "")
        return self._last

    async def _promoted(self, trial: Trial[L], *, operator: str) -> bool:
        """Whether what passed answers now.

        Where that is refused (somebody pinned or froze the region since, say) it is held, for a person.
        """
        try:
            await self._activator.promote(trial.plan.release, operator=operator, ready=trial.slot)
        except AtollError as error:
            trial.verdict = Verdict(Decision.HOLD, f"{trial.verdict.why} It was not promoted: {error.message}")
            self._last = self._report_of(trial)
            return False
        return True

    def _report_of(self, trial: Trial[L]) -> TrialReport:
        harm = trial.standing.harm
        evidence = {name: seen.e_value for name, seen in harm.items()} | {KEPT: trial.standing.kept.e_value}
        return TrialReport(
            kind=trial.kind,
            plan=trial.plan,
            elapsed_s=round(self._clock.monotonic_s() - trial.began_s, 3),
            answers=trial.answers[Arm.TRIAL],
            control_answers=trial.answers[Arm.CONTROL],
            rates={name: (seen.rate_a, seen.rate_b) for name, seen in harm.items()},
            evidence={name: min(value, 1e12) for name, value in evidence.items()},
            acts_at=acts_at(trial.plan, trial.standing.period) if trial.kind is TrialKind.CANARY else {},
            overlap=trial.overlap_sum / trial.overlaps if trial.overlaps else None,
            decision=trial.verdict.decision.value,
            why=trial.verdict.why,
        )
