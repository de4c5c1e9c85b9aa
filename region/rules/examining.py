"""What rules would do to the items of a release, seen before they hold: matches, failures, what is left to show."""

from collections import Counter
from dataclasses import dataclass

import numpy as np

from infra.contracts.features import IntArray
from infra.contracts.messages import HomeRequest, RecommendationType, Surface
from infra.contracts.residency import Global, GlobalMessage
from infra.plumbing.errors import InvalidInputError
from region.rules.applying import Guard, RuleCounts
from region.rules.arranging import BoolArray
from region.rules.binding import Binding, Ground
from region.rules.conditions import Condition, Values, request_values

EXAMINED_ITEMS = 1_000


class RuleFinding(GlobalMessage, frozen=True, kw_only=True):
    """What one rule's expressions give for the items examined: how many it is about, for how many it fails."""

    rule: Global[str]
    examined: Global[int]
    matches: Global[int]
    fails: Global[int]


@dataclass(frozen=True, slots=True)
class Examination:
    """Findings by rule, and how many of the examined items the hard rules leave on each surface."""

    findings: tuple[RuleFinding, ...]
    left: dict[Surface, int]
    examined: int

    def refuse_nonsense(self) -> None:
        """Refuse rules that cannot be meant.

        Raises:
            InvalidInputError: an expression fails for every item, or hard rules leave nothing to show.
        """
        broken = [finding.rule for finding in self.findings if finding.examined and finding.fails == finding.examined]
        if broken:
            raise InvalidInputError(
                f"expressions of {', '.join(broken[:5])} fail for every one of the favourites that they are about.",
                fix="Compare types with types, and ask `in` before reading an attribute.",
            )
        empty = [surface.value for surface, left in self.left.items() if not left and self.examined]
        if empty:
            raise InvalidInputError(
                f"the hard rules leave none of the {self.examined} most popular items on {', '.join(empty)}.",
                fix="Loosen them: a region that may show nothing answers nothing.",
            )


def examine(bound: Binding, rows: IntArray, *, now_s: float, failures: Counter[str]) -> Examination:
    """Try the rules of `bound` on `rows` (the most popular first; at most EXAMINED_ITEMS are taken).

    Args:
        bound: rules and items.
        rows: what to try them on.
        now_s: Unix seconds.
        failures: filled by the binding's `on_error`, by expression.
    """
    rows = rows[:EXAMINED_ITEMS]
    values = request_values(HomeRequest(type=RecommendationType.PERSONAL))
    findings = []
    for name, condition in bound.rules.expressions:
        before = failures[condition.source]
        examined, matches = _judged(bound, condition, rows, values, now_s)
        fails = failures[condition.source] - before
        findings.append(RuleFinding(rule=name, examined=examined.size, matches=int(matches.sum()), fails=fails))
    left = {surface: _left(bound, rows, surface, now_s) for surface in Surface}
    return Examination(tuple(findings), left, int(rows.size))


def _judged(
    bound: Binding, condition: Condition, rows: IntArray, values: Values, now_s: float
) -> tuple[IntArray, BoolArray]:
    """Rows that an expression is asked about, and for which of them it holds; `by` is asked of what `match` selects."""
    boost = next((one for one in bound.rules.boosts if one.by is condition), None)
    if boost is None:
        return rows, bound.judge.holds(condition, rows, values, now_s=now_s, if_fails=False)
    if boost.match is not None:
        rows = rows[bound.judge.holds(boost.match, rows, values, now_s=now_s, if_fails=False)]
    return rows, bound.judge.numbers(condition, rows, values, now_s=now_s) > 0.0


def _left(bound: Binding, rows: IntArray, surface: Surface, now_s: float) -> int:
    request = request_values(HomeRequest(type=RecommendationType.PERSONAL, surface=surface))
    active = bound.rules.active(surface, request, now_s=now_s)
    ground = Ground(bound=bound, request=request, now_s=now_s)
    return int(np.count_nonzero(Guard(active, ground, counts=RuleCounts()).allowed(rows)))
