"""One round in one region: selecting -> (seating) -> sharing -> reporting -> checking -> unmasking -> closed.

No I/O, no clock, no randomness: the caller passes the moment, the tickets and the coins (Bonawitz et al. 2019,
"Towards Federated Learning at Scale", sections 2 and 9, for selection, over-selection, goal count and deadlines; the
phases behind the selection are those of secure aggregation, Bonawitz et al. 2017). Every phase can also end in void.

Rules:
* Seats are drawn where a sum has too many phones for everybody to be everybody's neighbour. Who does not show a nonce
  in time is out of the round, and all others draw again, DRAWS_MAX times at most (`secure_aggregation.seats`).
* A subject is selected at most once in a round, and a ticket takes each step at most once, in order.
* Who misses a phase's deadline has dropped out; the others go on. Who shared and was late with the update may still
  sign and give shares: it is not in the sum, but helps to take the masks off.
* A phone that hung up is not waited for longer than HUNG_UP_S once most of the others are done: a deadline is for
  phones that say nothing, not for those that are known to be gone. With sampling it ends neither sharing nor reporting.
* Without sampling, reporting ends at the goal count; with Poisson sampling never because of how many reported, since
  then one user's part would depend on another's, and the amplification could not be claimed.
* A round below its minimum count is void: its sum is never given away.
"""

import enum
import math
from dataclasses import dataclass, field

from federation.messages import Phase
from federation.secure_aggregation.graph import COMPLETE_MAX
from federation.secure_aggregation.messages import COHORT_MIN
from federation.secure_aggregation.seats import DRAWS_MAX
from federation.settings import CohortSettings

ORDER = (Phase.SELECTING, Phase.SEATING, Phase.SHARING, Phase.REPORTING, Phase.CHECKING, Phase.UNMASKING)
HUNG_UP_S = {Phase.SEATING: 1.0, Phase.SHARING: 1.0, Phase.REPORTING: 5.0, Phase.CHECKING: 1.0}
"""How long a phone that hung up has to come back when only such phones are missing; an update that could not be sent
waits in the phone's outbox, and has longer."""
MOST = 0.75
"""Share of the phones that must have done a step before those who hung up are given up: if more are gone, it is the
network that is, and they will be back."""


class Selection(enum.StrEnum):
    """What a phone that checked in is told."""

    SELECTED = "selected"
    NOT_SAMPLED = "not-sampled"
    FULL = "full"
    OVER = "over"
    ALREADY = "already"


class Verdict(enum.StrEnum):
    """What happens to a message under a ticket."""

    ACCEPTED = "accepted"
    DUPLICATE = "duplicate"
    LATE = "late"
    EARLY = "early"
    UNKNOWN_TICKET = "unknown-ticket"


def parts(policy: CohortSettings, selected: int) -> int:
    """Sums that so many phones are divided into."""
    # With sampling the number of cohorts must not tell how many the coins took.
    crowd = policy.expected_count if policy.sampling_probability < 1.0 else selected
    return max(1, min(policy.cohorts, crowd // max(policy.count_min, COHORT_MIN)))


def draws_seats(policy: CohortSettings, selected: int) -> bool:
    """Whether some sum of so many phones is too large for everybody to be everybody's neighbour."""
    return selected > COMPLETE_MAX * parts(policy, selected)


@dataclass(slots=True, kw_only=True)
class Round:
    """State of one round. Times are seconds of one monotonic clock."""

    round_id: str
    policy: CohortSettings
    opened_s: float
    phase: Phase = Phase.SELECTING
    reason: str = ""
    phase_ends_s: float = field(init=False)
    """When the present phase ends, unless all have done their step before."""
    _steps: dict[str, Phase] = field(default_factory=dict)
    """Ticket -> the last phase whose step was taken under it."""
    _counts: dict[Phase, int] = field(default_factory=lambda: dict.fromkeys(ORDER, 0))
    """Phase -> how many tickets took its step."""
    _subjects: set[str] = field(default_factory=set)
    _due: set[str] = field(default_factory=set)
    """Tickets of which the present phase's step is still to come."""
    _gone: set[str] = field(default_factory=set)
    """Tickets whose phones hung up and were not heard of since."""
    draw: int = 0
    """Draws of the seats that were begun."""
    began_s: dict[Phase, float] = field(init=False)
    """When each phase began, until now."""

    def __post_init__(self) -> None:
        self.began_s = {Phase.SELECTING: self.opened_s}
        self.phase_ends_s = self.opened_s + self.policy.selection_s

    @property
    def sampled(self) -> bool:
        """Whether phones are Poisson sampled in this round."""
        return self.policy.sampling_probability < 1.0

    @property
    def selected(self) -> int:
        """How many phones hold a ticket."""
        return len(self._steps)

    @property
    def accepted(self) -> int:
        """How many masked updates were taken."""
        return self.count(Phase.REPORTING)

    @property
    def checked_in(self) -> int:
        """How many phones asked, whether selected or not."""
        return len(self._subjects)

    @property
    def over(self) -> bool:
        """Whether nothing can change any more."""
        return self.phase in (Phase.CLOSED, Phase.VOID)

    @property
    def ends_s(self) -> float:
        """When the round ends at the latest."""
        rest = ORDER[ORDER.index(self.phase) + 1 :] if not self.over else ()
        return self.phase_ends_s + sum(self._lasts_s(phase) for phase in rest)

    @property
    def weight(self) -> int:
        """What the sum is divided by; with sampling a number fixed in advance, never the count."""
        return self.policy.expected_count if self.sampled else self.accepted

    def count(self, phase: Phase) -> int:
        """How many tickets took the step of `phase`."""
        return self._counts[phase]

    def tickets(self) -> list[str]:
        """All tickets, in the order of their selection."""
        return list(self._steps)

    def drawing(self) -> set[str]:
        """Tickets whose phones the present draw of the seats is made for."""
        return self._due | {ticket for ticket, last in self._steps.items() if last is Phase.SEATING}

    def check_in(self, subject: str, *, ticket: str, heads: bool, now_s: float) -> Selection:
        """A phone of `subject` asks for a task.

        Args:
            subject: the user, so that several phones of one user count once.
            ticket: a fresh secret; valid from now on if the answer is SELECTED.
            heads: an independent coin with `sampling_probability`, drawn for this call.
            now_s: the moment.
        """
        self.tick(now_s=now_s)
        if self.phase is not Phase.SELECTING:
            return Selection.OVER
        if subject in self._subjects:
            return Selection.ALREADY
        if len(self._subjects) >= self.policy.check_ins_max:
            return Selection.FULL
        self._subjects.add(subject)
        if self.sampled and not heads:
            return Selection.NOT_SAMPLED
        self._steps[ticket] = Phase.SELECTING
        self._counts[Phase.SELECTING] += 1
        if not self.sampled and self.selected >= math.ceil(self.policy.goal_count * self.policy.over_selection):
            self._advance(now_s)
        return Selection.SELECTED

    def judge(self, ticket: str, step: Phase, *, now_s: float) -> Verdict:
        """Whether `step` would be taken under `ticket` now; changes nothing but the passing of time."""
        self.tick(now_s=now_s)
        if ticket not in self._steps:
            return Verdict.UNKNOWN_TICKET
        last = self._steps[ticket]
        behind = ORDER.index(step) - ORDER.index(last)
        if behind <= 0:
            return Verdict.DUPLICATE
        helps = step is Phase.CHECKING and last is Phase.SHARING
        # Whether seats will be drawn is not known while phones are selected.
        next_one = step is Phase.SHARING and self.phase in (Phase.SELECTING, Phase.SEATING)
        far = behind > 1 and not helps and not next_one
        if self.over or far or ORDER.index(self.phase) > ORDER.index(step):
            return Verdict.LATE
        if step is Phase.SEATING and self.phase is step and ticket not in self._due:
            return Verdict.LATE  # it missed a draw before this one
        return Verdict.ACCEPTED if self.phase is step else Verdict.EARLY

    def take(self, ticket: str, step: Phase, *, now_s: float) -> Verdict:
        """Note that `step` was taken under `ticket`; the caller has found its content valid and uses it if ACCEPTED."""
        verdict = self.judge(ticket, step, now_s=now_s)
        if verdict is Verdict.ACCEPTED:
            self._steps[ticket] = step
            self._counts[step] += 1
            self._due.discard(ticket)
            self._gone.discard(ticket)
            self._advance_if_complete(now_s)
        return verdict

    def leave(self, ticket: str, *, now_s: float) -> None:
        """The phone with this ticket hung up; it may come back."""
        self.tick(now_s=now_s)
        if ticket in self._steps and not self.over:
            self._gone.add(ticket)
            self._hurry(now_s)

    @property
    def all_signed(self) -> bool:
        """Whether every phone whose update was taken has signed, or hung up."""
        return all(self._steps[ticket] is Phase.SHARING for ticket in self._due - self._gone)

    def agreed(self, *, now_s: float) -> None:
        """The caller holds the signatures that are needed: who was late, or hung up, is not waited for."""
        if self.phase is Phase.CHECKING and self.all_signed:
            self._advance(now_s)

    def lasted_s(self, now_s: float) -> dict[str, float]:
        """How long each phase lasted, the round being over now."""
        ends_s = [*self.began_s.values(), now_s][1:]
        spans = zip(self.began_s.items(), ends_s, strict=True)
        return {str(phase): end_s - began_s for (phase, began_s), end_s in spans}

    def tick(self, *, now_s: float) -> None:
        """Let time pass."""
        while not self.over and now_s >= self.phase_ends_s:
            self._advance(self.phase_ends_s)

    def finish(self) -> None:
        """The caller holds every share that is needed."""
        if self.phase is Phase.UNMASKING:
            self.phase = Phase.CLOSED

    def abandon(self, reason: str) -> None:
        """Make the round void, whatever it has."""
        if not self.over:
            self.phase, self.reason = Phase.VOID, reason

    def _advance_if_complete(self, now_s: float) -> None:
        enough = self.phase is Phase.REPORTING and not self.sampled and self.accepted >= self.policy.goal_count
        if self.phase is not Phase.UNMASKING and (enough or not self._due):
            self._advance(now_s)
        else:
            self._hurry(now_s)

    def _hurry(self, now_s: float) -> None:
        """Give those who hung up a moment, when nobody else is waited for."""
        bound = self.sampled and self.phase is not Phase.CHECKING
        if bound or self.phase not in HUNG_UP_S or not self._gone or not self._due <= self._gone:
            return
        done = self.count(self.phase)
        if done >= max(self.policy.count_min, MOST * (done + len(self._due))):
            self.phase_ends_s = min(self.phase_ends_s, now_s + HUNG_UP_S[self.phase])

    def _advance(self, now_s: float) -> None:
        """To the next phase, or to void when too few did this one's step."""
        if self.phase is Phase.UNMASKING:
            return self.abandon("too few phones gave their shares: below the threshold of the secure sum")
        if self.phase is Phase.SEATING and self._due:
            return self._draw(now_s)
        counts = self.checked_in if self.sampled else self.count(self.phase)
        # With sampling the coins must not decide what is seen, so those count who asked before a coin was thrown.
        if counts < self.policy.count_min:
            return self.abandon(f"fewer than {self.policy.count_min} phones took part")
        if self.phase is Phase.SELECTING:
            if draws_seats(self.policy, self.selected):
                return self._draw(now_s)
            self.phase, self._steps = Phase.SEATING, dict.fromkeys(self._steps, Phase.SEATING)  # nothing to draw
        # Who was late with the update may sign all the same.
        ready = (Phase.SHARING, Phase.REPORTING) if self.phase is Phase.REPORTING else (self.phase,)
        self.phase = ORDER[ORDER.index(self.phase) + 1]
        self.phase_ends_s = now_s + self._lasts_s(self.phase)
        self.began_s[self.phase] = now_s
        self._due = {ticket for ticket, last in self._steps.items() if last in ready}
        self._hurry(now_s)
        return None

    def _draw(self, now_s: float) -> None:
        """Begin a draw: the first with all who were selected, another with those who showed their nonces."""
        shown = Phase.SEATING if self.draw else Phase.SELECTING
        kept = [ticket for ticket, last in self._steps.items() if last is shown]
        if len(kept) < (1 if self.sampled else self.policy.count_min):
            return self.abandon(f"fewer than {self.policy.count_min} phones took part")
        if self.draw == DRAWS_MAX:
            return self.abandon(f"phones left during each of {DRAWS_MAX} draws of the seats")
        self.draw += 1
        self.phase, self.phase_ends_s = Phase.SEATING, now_s + self.policy.sharing_s
        self.began_s.setdefault(Phase.SEATING, now_s)
        self._steps.update(dict.fromkeys(kept, Phase.SELECTING))
        self._counts[Phase.SEATING] = 0
        self._due = set(kept)
        self._hurry(now_s)
        return None

    def _lasts_s(self, phase: Phase) -> float:
        match phase:
            case Phase.SELECTING:
                return self.policy.selection_s
            case Phase.SEATING:
                policy = self.policy
                wanted = policy.expected_count if self.sampled else math.ceil(policy.goal_count * policy.over_selection)
                return policy.sharing_s if draws_seats(policy, max(self.selected, wanted)) else 0.0
            case Phase.SHARING:
                return self.policy.sharing_s
            case Phase.REPORTING:
                return self.policy.reporting_s
            case _:
                return self.policy.unmasking_s
