"""The gateway's decisions without HTTP: open a round, select phones, carry their secure sum, end the round.

Single updates arrive under masks and are added at once; only the sum over a cohort is ever in clear here, and what
leaves the region is `RegionalSum`: that sum with the region's own noise in full, so that central need not be trusted.
"""

import hashlib
from collections.abc import Callable

import msgspec

from federation.gateway.cohorts import Cohorts
from federation.gateway.journal import Journal, RoundRecord
from federation.gateway.opened import OpenRound, in_sum, ineligible, refuse, unknown_ticket
from federation.gateway.plans import require_sound
from federation.messages import (
    ROUND_ID_PATTERN,
    CheckIn,
    CheckInAnswer,
    Phase,
    RegionalSum,
    RoundPlan,
    UpdateReceipt,
)
from federation.privacy.noise import Entropy, coin
from federation.rounds.machine import ORDER, Round, Selection, Verdict
from federation.secure_aggregation.client import ProtocolError, Trust, check_advert
from federation.secure_aggregation.identity import Certificates
from federation.secure_aggregation.messages import (
    Advert,
    Mailbox,
    MaskedUpdate,
    Placed,
    SealedShares,
    Seat,
    Signatures,
    Survivors,
    SurvivorsSigned,
    Unmasking,
)
from federation.secure_aggregation.ring import from_wire
from federation.secure_aggregation.server import AggregationError
from federation.settings import CohortSettings
from infra.plumbing.clock import Clock
from infra.plumbing.errors import ConflictError, ForbiddenError, InvalidInputError, NotFoundError
from infra.plumbing.keys import encode_base64url

IDLE_COME_BACK_S = 1.5
"""When a phone should ask again while no round is open."""
CROWD_MAX = 8.0
"""By how much more than a round's length a phone is put off at most, when many more phones ask than are wanted."""

Count = Callable[[str, str], None]
"""Counts an outcome: (``check-in``, a step of the round, or ``round``; which)."""


class Gateway:
    """One region's rounds, one at a time. Not thread-safe: one event loop owns it."""

    def __init__(
        self, *, region: str, policy: CohortSettings, journal: Journal, clock: Clock, entropy: Entropy, count: Count,
        issuer_public: bytes,
    ) -> None:  # fmt: skip
        self._trust = Trust(region, issuer_public)
        self._certificates = Certificates(region=region, issuer_public=issuer_public)
        self._policy = policy
        self._journal = journal
        self._clock = clock
        self._entropy = entropy
        self._count = count
        self._open: OpenRound | None = None
        self._session = entropy(16).hex()
        for _ in journal.recover():
            count("round", "void")

    @property
    def sampling_probability(self) -> float:
        """With which every phone that checks in is taken."""
        return self._policy.sampling_probability

    def look(self, plan: RoundPlan) -> RegionalSum | None:
        """How the round of this very plan stands; None when it may be opened.

        Raises:
            InvalidInputError: the plan is malformed.
            ForbiddenError: it asks for less noise than this region's policy.
            ConflictError: another round is open, or this id was used with another plan.
        """
        require_sound(plan, self._policy)
        known = self._journal.read(plan.round_id)
        if known is not None:
            if known.plan_digest != plan.digest().hex():
                raise ConflictError("this round id was used with another plan.", fix="Draw a fresh round id.")
            return self.standing(plan.round_id)
        if self._current() is not None:
            raise ConflictError("another round is open in this region.", fix="Wait until it has ended.")
        return None

    def start(self, plan: RoundPlan) -> RegionalSum:
        """Open a round; asked again with the same plan, say how it stands. Raises as `look`."""
        standing = self.look(plan)
        if standing is not None:
            return standing
        opened_ms = self._clock.now_ms()
        self._journal.write(
            RoundRecord(
                round_id=plan.round_id, region=self._trust.region, opened_ms=opened_ms,
                plan_digest=plan.digest().hex(),
            )
        )  # fmt: skip
        state = Round(round_id=plan.round_id, policy=self._policy, opened_s=self._clock.monotonic_s())
        self._open = OpenRound(plan, state, session=self._session, opened_ms=opened_ms, key=self._entropy(32))
        return self.standing(plan.round_id)

    def standing(self, round_id: str) -> RegionalSum:
        """How a round stands; once it has ended, its result, the same at every call.

        Raises:
            NotFoundError: this gateway knows no such round.
        """
        current = self._current()
        if current is not None and current.plan.round_id == round_id:
            return RegionalSum(round_id=round_id, region=self._trust.region, phase=current.state.phase)
        record = self._journal.read(round_id) if ROUND_ID_PATTERN.fullmatch(round_id) else None
        if record is None or record.result is None:
            raise NotFoundError("this gateway knows no such round.")
        return record.result

    def next_change_s(self) -> float | None:
        """Monotonic moment at which `tick` may change the open round; None without one."""
        return None if self._open is None else self._open.state.phase_ends_s

    def phase(self) -> Phase | None:
        """Of the open round; None without one."""
        return None if self._open is None else self._open.state.phase

    def tick(self) -> bool:
        """Let time pass. Returns whether a round is still open."""
        return self._current() is not None

    def greeting(self) -> CheckInAnswer:
        """What a phone is told before it says anything: whether there is a round, and which session it is in."""
        current = self._current()
        if current is None:
            return CheckInAnswer(come_back_s=IDLE_COME_BACK_S, reason="no-round", session=self._session)
        return CheckInAnswer(reason="advert", session=current.session)

    def check_in(self, subject: str, phone: CheckIn) -> CheckInAnswer:
        """A phone of `subject` (the region's pseudonym) asks for a task. Selected, it gets its place by `place`.

        Raises:
            ForbiddenError: its keys are not those of a device that this region's issuer knows.
        """
        current = self._current()
        refusal = ineligible(phone, current)
        if current is None or refusal:
            self._count("check-in", refusal or "no-round")
            return CheckInAnswer(come_back_s=IDLE_COME_BACK_S, reason=refusal or "no-round", session=self._session)
        if phone.advert is None or phone.session != current.session:
            self._count("check-in", "advert")
            return CheckInAnswer(reason="advert", session=current.session)
        try:
            check_advert(
                phone.advert, round_id=current.session, certificates=self._certificates, now_ms=self._clock.now_ms()
            )
        except ProtocolError as error:
            self._count("check-in", "uncertified")
            raise ForbiddenError(
                f"this device's keys cannot be used: {error}.", fix="Have the device enrolled again."
            ) from None
        return self._select(current, subject, phone.advert)

    @property
    def draw(self) -> int:
        """Draws of the seats that the open round has begun."""
        return 0 if self._open is None else self._open.state.draw

    def place(self, ticket: str, *, drawn: int = 0) -> Placed | None:
        """A selected phone's place and neighbours, or a draw of the seats behind the `drawn` that it knows of.

        None while phones are still selected, or that draw goes on.

        Raises:
            ConflictError: the round has ended, or the phone left while seats were drawn.
            ForbiddenError: the ticket is not one of this round.
        """
        return self._ticketed(ticket).place(ticket, drawn=drawn)

    def seat(self, ticket: str, seat: Seat) -> None:
        """Take a phone's nonce for the present draw of the seats. Raises as `shares`."""
        self._step(ticket, Phase.SEATING, seat.round_id, lambda one: one.take_seat(ticket, seat))

    def shares(self, ticket: str, shares: SealedShares) -> None:
        """Take a phone's sealed shares.

        Raises:
            InvalidInputError: they are not one for each neighbour.
            ConflictError: too late, too early, or a second time.
            ForbiddenError: the ticket is not one of this round.
        """
        self._step(
            ticket, Phase.SHARING, shares.round_id,
            in_sum(ticket, lambda found, at: found.sum_of(ticket).add_shares(at, shares)),
        )  # fmt: skip

    def mailbox(self, ticket: str) -> Mailbox | None:
        """What the neighbours sealed for this phone; None while phones still share. Raises as `place`."""
        found = self._cohorts(ticket, behind=Phase.SHARING)
        return None if found is None else found.sum_of(ticket).mailbox(found.position(ticket))

    def update(self, ticket: str, update: MaskedUpdate) -> None:
        """Add one phone's masked update to the sum. Raises as `shares`; InvalidInputError for a wrong length."""

        def add(found: Cohorts, position: int) -> None:
            if len(update.masked) % 4:
                raise AggregationError("an update is a number of 32-bit words")
            found.sum_of(ticket).add_masked(position, from_wire(update.masked))

        self._step(ticket, Phase.REPORTING, update.round_id, in_sum(ticket, add))

    def survivors(self, ticket: str) -> Survivors | None:
        """Whose updates are in the sum; None while phones still report. Raises as `place`."""
        found = self._cohorts(ticket, behind=Phase.REPORTING)
        return None if found is None else found.sum_of(ticket).survivors_message()

    def sign(self, ticket: str, signed: SurvivorsSigned) -> None:
        """Take a signature, of a survivor or of a phone that was late; with the last one needed the next phase begins.

        Raises as `shares`.
        """
        current = self._open
        self._step(
            ticket, Phase.CHECKING, signed.round_id,
            in_sum(ticket, lambda found, at: found.sum_of(ticket).add_signature(at, signed.device_signature)),
        )  # fmt: skip
        if current is not None:
            self._agree(current)

    def left(self, ticket: str) -> None:
        """The phone with this ticket hung up. It may come back with its ticket as long as the round waits for it."""
        current = self._open
        if current is not None:
            current.state.leave(ticket, now_s=self._clock.monotonic_s())
            self._agree(current)
            self._settle(current)

    def signatures(self, ticket: str) -> Signatures | None:
        """The neighbours' signatures; None while phones still sign. Raises as `place`."""
        found = self._cohorts(ticket, behind=Phase.CHECKING)
        return None if found is None else found.sum_of(ticket).signatures(found.position(ticket))

    def unmask(self, ticket: str, shares: Unmasking) -> UpdateReceipt:
        """Take a survivor's shares; with the last one that is needed the round ends. Raises as `shares`."""
        current = self._open
        self._step(
            ticket, Phase.UNMASKING, shares.round_id,
            in_sum(ticket, lambda found, at: found.sum_of(ticket).add_unmasking(at, shares)),
        )  # fmt: skip
        if current is not None:
            self._settle(current)
        return UpdateReceipt(round_id=shares.round_id)

    def _select(self, current: OpenRound, subject: str, advert: Advert) -> CheckInAnswer:
        ticket = encode_base64url(self._entropy(24))
        # A user counts once in a round by a name of this round only: an erased one is not remembered by any other.
        subject = hashlib.blake2b(subject.encode(), key=current.key, digest_size=16).hexdigest()
        heads = coin(self._policy.sampling_probability, entropy=self._entropy)
        now_s = self._clock.monotonic_s()
        selection = Selection.ALREADY
        # A commitment to a seat is one phone's own: who copies another's would spoil the draw.
        names = {advert.certificate.device_key, advert.seat_commitment}
        if current.devices.isdisjoint(names):
            selection = current.state.check_in(subject, ticket=ticket, heads=heads, now_s=now_s)
        self._count("check-in", selection)
        if selection is not Selection.SELECTED:
            self._settle(current)
            return CheckInAnswer(
                come_back_s=self._come_back_s(current.state, now_s), reason=selection, session=current.session
            )
        current.adverts[ticket] = advert
        current.devices |= names
        self._settle(current)
        return CheckInAnswer(
            plan=current.plan, ticket=ticket, session=current.session,
            report_within_s=max(0.0, current.state.ends_s - now_s),
        )  # fmt: skip

    def _step(self, ticket: str, step: Phase, round_id: str, act: Callable[[OpenRound], None]) -> None:
        """Judge a message, use it, and count it; nothing of it is used unless all of it is sound."""
        current = self._current()
        if current is None or round_id not in (current.plan.round_id, current.session):
            self._count(step, Verdict.LATE)
            raise ConflictError("this round is over; nothing was used.", fix="Check in again.")
        now_s = self._clock.monotonic_s()
        verdict = current.state.judge(ticket, step, now_s=now_s)
        if verdict is not Verdict.ACCEPTED:
            self._count(step, verdict)
            raise refuse(verdict)
        try:
            act(current)
        except AggregationError as error:
            self._count(step, "invalid")
            raise InvalidInputError(f"{error}.", fix="Send what the protocol asks for in this step.") from None
        current.state.take(ticket, step, now_s=now_s)
        self._count(step, Verdict.ACCEPTED)

    def _cohorts(self, ticket: str, *, behind: Phase) -> Cohorts | None:
        """The cohorts once `behind` has ended; None before."""
        current = self._ticketed(ticket)
        current.require_seat(ticket)
        if ORDER.index(current.state.phase) <= ORDER.index(behind):
            return None
        return current.cohorts

    def _ticketed(self, ticket: str) -> OpenRound:
        current = self._current()
        if current is None:
            raise ConflictError("this round is over.", fix="Check in again.")
        if ticket not in current.adverts:
            raise unknown_ticket()
        return current

    def _current(self) -> OpenRound | None:
        if self._open is not None:
            self._settle(self._open)
        return self._open

    def _agree(self, current: OpenRound) -> None:
        """Go on to unmasking once those who signed can do without the others."""
        state, cohorts = current.state, current.cohorts
        # The last look costs a millisecond: not before it can be true.
        if state.phase is Phase.CHECKING and state.all_signed and cohorts is not None and cohorts.agreed:
            state.agreed(now_s=self._clock.monotonic_s())

    def _settle(self, current: OpenRound) -> None:
        """Let time pass; draw the cohorts when selection has ended, and end the round when it is over."""
        state, now_s = current.state, self._clock.monotonic_s()
        if state.phase is Phase.UNMASKING and current.cohorts is not None:
            late = now_s >= state.phase_ends_s
            if current.cohorts.complete or (late and current.cohorts.partly_complete):
                state.finish()
        state.tick(now_s=now_s)
        if state.phase is not Phase.SELECTING and current.cohorts is None and not state.over:
            current.seat_phones(self._policy, entropy=self._entropy)
        if state.over and self._open is current:
            self._end(current)

    def _end(self, current: OpenRound) -> None:
        """Once a round is over: draw the noise, write the result down, and only then let anybody see it."""
        result = self._result(current)
        record = self._journal.read(current.plan.round_id)
        digest = record.plan_digest if record is not None else ""
        self._journal.write(
            RoundRecord(
                round_id=result.round_id, region=self._trust.region, opened_ms=current.opened_ms, plan_digest=digest,
                result=result, phases_s=current.state.lasted_s(self._clock.monotonic_s()),
            )
        )  # fmt: skip
        self._count("round", result.phase)
        self._open, self._session = None, self._entropy(16).hex()

    def _result(self, current: OpenRound) -> RegionalSum:
        plan, state = current.plan, current.state
        void = RegionalSum(round_id=plan.round_id, region=self._trust.region, phase=Phase.VOID, reason=state.reason)
        if state.phase is Phase.VOID or current.cohorts is None:
            return void
        sums, lost = current.cohorts.noised(plan, weight=state.weight, sampled=state.sampled, entropy=self._entropy)
        for reason in lost:
            self._count("cohort", reason)
        if not sums:
            return msgspec.structs.replace(void, reason="; ".join(sorted(set(lost))))
        single = len(sums) == 1
        return RegionalSum(
            round_id=plan.round_id, region=self._trust.region, phase=Phase.CLOSED, shape=plan.shape,
            total=sums[0].total if single else b"", weight=sum(one.weight for one in sums),
            cohorts=() if single else tuple(sums), clipping_norm=plan.clipping_norm,
            noise_multiplier=plan.noise_multiplier, sampling_probability=self._policy.sampling_probability,
            reason="; ".join(sorted(set(lost))),
        )  # fmt: skip

    def _come_back_s(self, state: Round, now_s: float) -> float:
        """Pace steering: after this round and not during it, and the more phones ask than are wanted, the later."""
        wanted = max(1.0, self._policy.goal_count * self._policy.over_selection)
        crowd = min(CROWD_MAX, state.checked_in / wanted)
        return max(IDLE_COME_BACK_S, state.ends_s - now_s) * max(1.0, crowd)
