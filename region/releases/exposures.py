"""Which subjects a trial has shown a list to, and whether they took anything of it within a window. In memory only.

A subject's taking counts once in a whole trial, how its answers are once in each period. Who was shown nothing in the
trial does not count at all.
"""

from collections import deque

from region.releases.trial import Arm, Tally

SUBJECTS_MAX = 200_000


class Exposures:
    """The subjects of one trial.

    Args:
        window_s: how long a subject has to take something.
        subjects_max: how many are counted; those who come later are not.
    """

    def __init__(self, *, window_s: float, subjects_max: int = SUBJECTS_MAX) -> None:
        self._window_s = window_s
        self._subjects_max = subjects_max
        self._waiting: deque[tuple[float, str, Arm]] = deque()
        self._took: dict[str, bool] = {}
        """Every subject that was shown something, and whether it took any of it inside its window."""
        self._answered: set[str] = set()
        """Every subject that was answered in this period."""

    def answered(self, subject: str) -> bool:
        """Whether this answer is the subject's first one of the period."""
        if subject in self._answered or len(self._answered) >= self._subjects_max:
            return False
        self._answered.add(subject)
        return True

    def next_period(self) -> None:
        """Every subject's next answer is its first one again."""
        self._answered.clear()

    def shown(self, subject: str, arm: Arm, *, now_s: float) -> None:
        """`subject` was given a list by `arm`; only the first one counts."""
        if subject in self._took or len(self._took) >= self._subjects_max:
            return
        self._took[subject] = False
        self._waiting.append((now_s + self._window_s, subject, arm))

    def took(self, subject: str) -> None:
        """`subject` took something; after its window nobody asks any more."""
        if subject in self._took:
            self._took[subject] = True

    def count_of(self, subject: str) -> int:
        """1 for a subject that was answered or shown something, else 0."""
        return int(subject in self._took or subject in self._answered)

    def forget(self, subject: str) -> None:
        """Nothing about the subject is kept; what was counted of it stays in the sums."""
        self._took.pop(subject, None)
        self._answered.discard(subject)
        self._waiting = deque(one for one in self._waiting if one[1] != subject)

    def subjects(self) -> tuple[str, ...]:
        """Everybody who was shown something."""
        return tuple(self._took)

    def run_out(self, *, now_s: float) -> list[tuple[Arm, bool]]:
        """Arm and outcome of the subjects whose window is over, each once.

        A click is not counted before its window is over: else what comes in early would be clicks only, and how many
        outcomes a look weighs would depend on what they are.
        """
        outcomes = []
        while self._waiting and self._waiting[0][0] <= now_s:
            _, subject, arm = self._waiting.popleft()
            outcomes.append((arm, self._took[subject]))
        return outcomes


def credit(tally: Tally, *, took: bool) -> None:
    """Count one subject's outcome."""
    tally.shown += 1
    tally.ignored += not took
