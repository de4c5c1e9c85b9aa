"""The gateway's decisions and its one sum, without HTTP: open a round, select phones, take updates, end the round.

For now single updates are seen here in clear and only their sum is kept; secure aggregation will hide them. What
leaves the region is `RegionalSum`: the sum with the region's own noise in full, so that central need not be trusted.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import msgspec
import numpy as np
import numpy.typing as npt

from federation.gateway.journal import Journal, RoundRecord
from federation.messages import (
    ROUND_ID_PATTERN,
    CheckIn,
    CheckInAnswer,
    DeviceUpdate,
    Phase,
    RegionalSum,
    RoundPlan,
    UpdateReceipt,
    from_bytes,
    to_bytes,
)
from federation.privacy.clipping import within_norm
from federation.privacy.noise import Entropy, coin, noised_sum
from federation.rounds.machine import Round, Selection, Verdict
from federation.settings import CohortSettings
from infra.plumbing.clock import Clock
from infra.plumbing.errors import ConflictError, ForbiddenError, InvalidInputError, NotFoundError
from infra.plumbing.keys import encode_base64url

IDLE_COME_BACK_S = 1.5
"""When a phone should ask again while no round is open."""
LOCAL_STEPS_MAX = 200

Count = Callable[[str, str], None]
"""Counts an outcome: (``check-in``, ``update`` or ``round``; which)."""


@dataclass(slots=True)
class _Open:
    """The round in progress: its plan, its state and its sum, `[rank, rank] float64`."""

    plan: RoundPlan
    state: Round
    total: npt.NDArray[np.float64]
    opened_ms: int


class Gateway:
    """One region's rounds, one at a time. Not thread-safe: one event loop owns it."""

    def __init__(
        self, *, region: str, policy: CohortSettings, journal: Journal, clock: Clock, entropy: Entropy, count: Count
    ) -> None:
        self._region = region
        self._policy = policy
        self._journal = journal
        self._clock = clock
        self._entropy = entropy
        self._count = count
        self._open: _Open | None = None
        for _ in journal.recover():
            count("round", "void")

    def start(self, plan: RoundPlan) -> RegionalSum:
        """Open a round; asked again with the same plan, say how it stands.

        Raises:
            InvalidInputError: the plan is malformed.
            ForbiddenError: it asks for less noise than this region's policy.
            ConflictError: another round is open, or this id was used with another plan.
        """
        self._require_sound(plan)
        known = self._journal.read(plan.round_id)
        digest = hashlib.sha256(msgspec.json.encode(plan)).hexdigest()
        if known is not None:
            if known.plan_digest != digest:
                raise ConflictError("this round id was used with another plan.", fix="Draw a fresh round id.")
            return self.standing(plan.round_id)
        if self._current() is not None:
            raise ConflictError("another round is open in this region.", fix="Wait until it has ended.")
        opened_ms = self._clock.now_ms()
        self._journal.write(
            RoundRecord(round_id=plan.round_id, region=self._region, opened_ms=opened_ms, plan_digest=digest)
        )
        state = Round(round_id=plan.round_id, policy=self._policy, opened_s=self._clock.monotonic_s())
        self._open = _Open(plan, state, np.zeros((plan.rank, plan.rank)), opened_ms)
        return self.standing(plan.round_id)

    def standing(self, round_id: str) -> RegionalSum:
        """How a round stands; once it has ended, its result, the same at every call.

        Raises:
            NotFoundError: this gateway knows no such round.
        """
        current = self._current()
        if current is not None and current.plan.round_id == round_id:
            return RegionalSum(round_id=round_id, region=self._region, phase=current.state.phase)
        record = self._journal.read(round_id) if ROUND_ID_PATTERN.fullmatch(round_id) else None
        if record is None or record.result is None:
            raise NotFoundError("this gateway knows no such round.")
        return record.result

    def next_change_s(self) -> float | None:
        """Monotonic moment at which `tick` may end the open round; None without one."""
        return None if self._open is None else self._open.state.next_change_s

    def tick(self) -> bool:
        """Let time pass. Returns whether a round is still open."""
        return self._current() is not None

    def check_in(self, subject: str, phone: CheckIn) -> CheckInAnswer:
        """A phone of `subject` (the region's pseudonym) asks for a task."""
        current = self._current()
        refusal = _ineligible(phone, current)
        if current is None or refusal:
            self._count("check-in", refusal or "no-round")
            return CheckInAnswer(come_back_s=IDLE_COME_BACK_S, reason=refusal or "no-round")
        ticket = encode_base64url(self._entropy(24))
        heads = coin(self._policy.sampling_probability, entropy=self._entropy)
        now_s = self._clock.monotonic_s()
        selection = current.state.check_in(subject, ticket=ticket, heads=heads, now_s=now_s)
        self._count("check-in", selection)
        if selection is not Selection.SELECTED:
            self._end_if_over()
            return CheckInAnswer(come_back_s=self._come_back_s(current.state, now_s), reason=selection)
        return CheckInAnswer(
            plan=current.plan, ticket=ticket, report_within_s=max(0.0, current.state.reporting_ends_s - now_s)
        )

    def update(self, ticket: str, update: DeviceUpdate) -> UpdateReceipt:
        """Take one phone's update into the sum.

        Raises:
            InvalidInputError: wrong shape, wrong length, not finite, or longer than the clipping norm.
            ConflictError: the round has ended, or this ticket has reported before.
            ForbiddenError: the ticket is not one of this round.
        """
        current = self._current()
        if current is None or current.plan.round_id != update.round_id:
            self._count("update", Verdict.LATE)
            raise ConflictError("this round is over; the update was not used.", fix="Check in again.")
        self._refuse_unless_accepted(current.state.judge(ticket, now_s=self._clock.monotonic_s()))
        try:
            change = _sound_change(update, current.plan)
        except InvalidInputError:
            self._count("update", "invalid")
            raise
        # The same moment would do; a later one can only find the round over, and then nothing is added.
        self._refuse_unless_accepted(current.state.accept(ticket, now_s=self._clock.monotonic_s()))
        current.total += change
        self._count("update", Verdict.ACCEPTED)
        self._end_if_over()
        return UpdateReceipt(round_id=update.round_id)

    def _refuse_unless_accepted(self, verdict: Verdict) -> None:
        if verdict is Verdict.ACCEPTED:
            return
        self._count("update", verdict)
        self._end_if_over()
        if verdict is Verdict.UNKNOWN_TICKET:
            raise ForbiddenError("this ticket is not one of this round.", fix="Check in to get one.")
        what = "has reported before" if verdict is Verdict.DUPLICATE else "came too late"
        raise ConflictError(f"this phone {what}; the update was not used.", fix="Check in for the next round.")

    def _current(self) -> _Open | None:
        if self._open is not None:
            self._open.state.tick(now_s=self._clock.monotonic_s())
            self._end_if_over()
        return self._open

    def _end_if_over(self) -> None:
        """Once a round is over: draw the noise, write the result down, and only then let anybody see it."""
        current = self._open
        if current is None or not current.state.over:
            return
        result = self._result(current)
        record = self._journal.read(current.plan.round_id)
        digest = record.plan_digest if record is not None else ""
        self._journal.write(
            RoundRecord(
                round_id=result.round_id, region=self._region, opened_ms=current.opened_ms, plan_digest=digest,
                result=result,
            )
        )  # fmt: skip
        self._count("round", result.phase)
        self._open = None

    def _result(self, current: _Open) -> RegionalSum:
        plan, state = current.plan, current.state
        if state.phase is Phase.VOID:
            return RegionalSum(round_id=plan.round_id, region=self._region, phase=Phase.VOID, reason=state.reason)
        noised = noised_sum(
            current.total, clipping_norm=plan.clipping_norm, noise_multiplier=plan.noise_multiplier,
            entropy=self._entropy,
        )  # fmt: skip
        return RegionalSum(
            round_id=plan.round_id, region=self._region, phase=Phase.CLOSED, shape=(plan.rank, plan.rank),
            total=to_bytes(noised), weight=state.weight, clipping_norm=plan.clipping_norm,
            noise_multiplier=plan.noise_multiplier, sampling_probability=self._policy.sampling_probability,
        )  # fmt: skip

    def _come_back_s(self, state: Round, now_s: float) -> float:
        """After this round, not during it: pace steering in its simplest form."""
        return max(IDLE_COME_BACK_S, min(state.reporting_ends_s - now_s, self._policy.reporting_s))

    def _require_sound(self, plan: RoundPlan) -> None:
        if not ROUND_ID_PATTERN.fullmatch(plan.round_id):
            raise InvalidInputError("the round id is malformed.", fix="Use 16 to 64 lower-case hex digits.")
        if not (1 <= plan.rank <= plan.dim and plan.rank**2 <= self._policy.parameters_max):
            raise InvalidInputError(f"the plan's rank {plan.rank} does not fit dim {plan.dim} or this region's bound.")
        if not (0.0 < plan.clipping_norm < float("inf") and 1 <= plan.local_steps <= LOCAL_STEPS_MAX):
            raise InvalidInputError(
                f"the clipping norm must be positive and local steps between 1 and {LOCAL_STEPS_MAX}."
            )
        from_bytes(plan.basis, (plan.dim, plan.rank), what="basis")
        from_bytes(plan.core, (plan.rank, plan.rank), what="core")
        if self._policy.sampling_probability > plan.sampling_probability:
            raise ForbiddenError(
                f"the plan counts on a sampling probability of {plan.sampling_probability}; this region's is "
                f"{self._policy.sampling_probability}.",
                fix="Plan, and book, with the region's own probability.",
            )
        floor = self._policy.noise_multiplier_min
        if not (plan.noise_multiplier > 0.0 and floor <= plan.noise_multiplier < float("inf")):
            raise ForbiddenError(
                f"the plan asks for a noise multiplier of {plan.noise_multiplier}; this region adds at least {floor}.",
                fix="Plan with more noise, or ask the region's operator.",
            )


def _ineligible(phone: CheckIn, current: _Open | None) -> str:
    """Why a phone may not take part now; empty when it may."""
    if not (phone.idle and phone.charging and phone.unmetered):
        return "not-eligible"
    if current is not None and current.plan.release not in phone.releases:
        return "other-release"
    return ""


def _sound_change(update: DeviceUpdate, plan: RoundPlan) -> npt.NDArray[np.float64]:
    if update.shape != (plan.rank, plan.rank):
        raise InvalidInputError(
            f"the update has shape {update.shape}; the task asks for {(plan.rank, plan.rank)}.",
            fix="Send the change of the core that the task named.",
        )
    change = from_bytes(update.delta, update.shape, what="update")
    if not within_norm(change, plan.clipping_norm):
        raise InvalidInputError("the update is longer than the clipping norm.", fix="Clip on the phone before sending.")
    return change.astype(np.float64)
