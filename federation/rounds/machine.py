"""One round in one region, as a state machine: selecting -> reporting -> closed | void.

No I/O, no clock, no randomness: the caller passes the moment, the tickets and the coins (Bonawitz et al. 2019,
"Towards Federated Learning at Scale", sections 2 and 9, for selection, over-selection, goal count and deadlines).

Rules:
* A subject is selected at most once in a round, and a ticket counts at most once.
* Without sampling the round closes at the goal count; with Poisson sampling never because of how many reported, since
  then one user's part would depend on another's, and the amplification could not be claimed.
* A round below its minimum count is void: its sum is never given away.
"""

import enum
import math
from dataclasses import dataclass, field

from federation.messages import Phase
from federation.settings import CohortSettings


class Selection(enum.StrEnum):
    """What a phone that checked in is told."""

    SELECTED = "selected"
    NOT_SAMPLED = "not-sampled"
    FULL = "full"
    OVER = "over"
    ALREADY = "already"


class Verdict(enum.StrEnum):
    """What happens to an update."""

    ACCEPTED = "accepted"
    DUPLICATE = "duplicate"
    LATE = "late"
    UNKNOWN_TICKET = "unknown-ticket"


@dataclass(slots=True, kw_only=True)
class Round:
    """State of one round. Times are seconds of one monotonic clock."""

    round_id: str
    policy: CohortSettings
    opened_s: float
    phase: Phase = Phase.SELECTING
    accepted: int = 0
    reason: str = ""
    _tickets: dict[str, bool] = field(default_factory=dict)
    """Ticket -> whether its update was accepted."""
    _subjects: set[str] = field(default_factory=set)

    @property
    def sampled(self) -> bool:
        """Whether phones are Poisson sampled in this round."""
        return self.policy.sampling_probability < 1.0

    @property
    def selected(self) -> int:
        """How many phones hold a ticket."""
        return len(self._tickets)

    @property
    def checked_in(self) -> int:
        """How many phones asked, whether selected or not."""
        return len(self._subjects)

    @property
    def over(self) -> bool:
        """Whether nothing can change any more."""
        return self.phase in (Phase.CLOSED, Phase.VOID)

    @property
    def selection_ends_s(self) -> float:
        """When the last phone is selected."""
        return self.opened_s + self.policy.selection_s

    @property
    def reporting_ends_s(self) -> float:
        """When the last update is taken."""
        return self.selection_ends_s + self.policy.reporting_s

    @property
    def next_change_s(self) -> float:
        """When `tick` may have something to do, unless a phone acts before."""
        return self.selection_ends_s if self.phase is Phase.SELECTING else self.reporting_ends_s

    @property
    def weight(self) -> int:
        """What the sum is divided by; with sampling a number fixed in advance, never the count."""
        return self.policy.expected_count if self.sampled else self.accepted

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
        self._tickets[ticket] = False
        if not self.sampled and self.selected >= math.ceil(self.policy.goal_count * self.policy.over_selection):
            self.phase = Phase.REPORTING
        return Selection.SELECTED

    def judge(self, ticket: str, *, now_s: float) -> Verdict:
        """Whether an update under `ticket` would be taken now; changes nothing but the passing of time."""
        self.tick(now_s=now_s)
        if ticket not in self._tickets:
            return Verdict.UNKNOWN_TICKET
        if self._tickets[ticket]:
            return Verdict.DUPLICATE
        return Verdict.LATE if self.over else Verdict.ACCEPTED

    def accept(self, ticket: str, *, now_s: float) -> Verdict:
        """Count the update under `ticket`, which the caller has found valid; the caller adds it if ACCEPTED."""
        verdict = self.judge(ticket, now_s=now_s)
        if verdict is Verdict.ACCEPTED:
            self._tickets[ticket] = True
            self.accepted += 1
            self._close_if_complete()
        return verdict

    def tick(self, *, now_s: float) -> None:
        """Let time pass."""
        if self.phase is Phase.SELECTING and now_s >= self.selection_ends_s:
            self.phase = Phase.REPORTING
            self._close_if_complete()
        if self.phase is Phase.REPORTING and now_s >= self.reporting_ends_s:
            self._close()

    def abandon(self, reason: str) -> None:
        """Make the round void, whatever it has."""
        if not self.over:
            self.phase, self.reason = Phase.VOID, reason

    def _close_if_complete(self) -> None:
        everybody = self.phase is Phase.REPORTING and self.accepted == self.selected
        enough = not self.sampled and self.accepted >= self.policy.goal_count
        if everybody or enough:
            self._close()

    def _close(self) -> None:
        # With sampling the coins must not decide what is seen, so those count who asked before a coin was thrown.
        count = self.checked_in if self.sampled else self.accepted
        if count < self.policy.count_min:
            self.abandon(f"fewer than {self.policy.count_min} phones took part")
        else:
            self.phase = Phase.CLOSED
