"""Trying a release on a part of a region's callers: who is in it, what is counted, what follows from it. Pure.

Two kinds. A *shadow* answers nobody: it is asked what the active release was asked, and compared. A *canary* answers
the callers of its bucket; five things are watched against the active release, each as an e-process (`evidence`):

    failed, empty, slow, degraded     of every subject's first answer in each hour (PERIOD_S)
    ignored                           of every subject once: shown a list, no click or better in QUALITY_WINDOW_S

A subject counts once, because a bucket is kept: one whose lists are always slow, and who asks for many, would count
against whichever release their bucket fell to. Callers without a subject are in no bucket and do not count. Hours are
tests of their own, the k-th of which may spend alpha / (k (k + 1)): what goes wrong later is seen too, and all hours
together spend alpha. The canary is rolled back when the mean of the four e-values of an hour reaches 5/4 k (k + 1) /
alpha, or that of `ignored` 5 / alpha: by Ville's inequality for each, and the sum over all, a harmless release is
rolled back with probability alpha at most, however often this looks. It is promoted when it has been shown not to lose
more than `click_loss_max` of the clicks (non-inferiority, at the same level and as often looked at); when its time is
over without either, it is held for a person. How many subjects that takes is decided by the margin and the click rate,
and `subjects_needed` says it while the canary runs: of a harmless one, with a fifth of the subjects in the bucket of
whom a quarter takes something, about 2,100 at a margin of 0.1 and 500 at 0.2.
"""

import enum
import hashlib
import math
from dataclasses import dataclass, replace
from typing import Annotated

import msgspec

from infra.contracts.residency import Global, GlobalMessage
from region.releases.evidence import Block, Evidence, expected_gain, kept, log_mean_e, weighed

QUALITY_WINDOW_S = 600.0
PERIOD_S = 3600.0
"""How long a subject's first answer stands for all of its answers."""
SHARE_MAX = 0.5
Share = Annotated[float, msgspec.Meta(gt=0.0, le=SHARE_MAX)]
Seconds = Annotated[float, msgspec.Meta(gt=0.0, le=30 * 86_400.0)]


class TrialKind(enum.StrEnum):
    """How a release is tried."""

    SHADOW = "shadow"
    CANARY = "canary"


class Arm(enum.StrEnum):
    """Whose outcome it is."""

    CONTROL = "control"
    TRIAL = "canary"


class TrialPlan(GlobalMessage, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an operator asks for."""

    release: Global[str]
    share: Global[Share] = 0.1
    """Of the subjects (canary) or of the calls (shadow)."""
    duration_s: Global[Seconds] = 3600.0
    """After which a canary is held, and a shadow ends."""
    answers_min: Global[Annotated[int, msgspec.Meta(ge=1)]] = 200
    """No canary is promoted on fewer of its own answers that count: one of each subject an hour."""
    slow_ms: Global[Annotated[float, msgspec.Meta(gt=0.0)]] = 75.0
    """An answer that takes longer is slow."""
    quality_window_s: Global[Seconds] = QUALITY_WINDOW_S
    """How long a subject has to take something of the first list that it is shown."""
    click_loss_max: Global[Annotated[float, msgspec.Meta(gt=0.0, lt=1.0)]] = 0.1
    """How much of the clicks may be lost before a release counts as worse, as a share."""
    alpha: Global[Annotated[float, msgspec.Meta(gt=0.0, le=0.2)]] = 0.05
    """How often a harmless release may be rolled back, and a harmful one promoted."""


class Decision(enum.StrEnum):
    """What a canary has come to."""

    GO_ON = "go-on"
    PROMOTE = "promote"
    ROLL_BACK = "roll-back"
    HOLD = "hold"


@dataclass(frozen=True, slots=True)
class Verdict:
    """A decision, and why, in words."""

    decision: Decision
    why: str


@dataclass(slots=True)
class Tally:
    """Outcomes of one arm since the last look, each answer of another subject.

    A subject's outcome of its first list is `shown`, and `ignored` or not.
    """

    answers: int = 0
    failed: int = 0
    empty: int = 0
    slow: int = 0
    degraded: int = 0
    shown: int = 0
    ignored: int = 0


GUARDED = ("failed", "empty", "slow", "degraded")
"""Of answers."""
IGNORED = "ignored"
WATCHED = (*GUARDED, IGNORED)
KEPT = "kept"
"""The evidence that clicks are kept."""


@dataclass(frozen=True, slots=True)
class Standing:
    """All that a canary has seen: harm by what is watched, and the evidence that clicks are kept.

    `harm` of GUARDED is that of the hour, `period` is its number from 1 on; `answers` are the canary's own that count.
    """

    harm: dict[str, Evidence]
    kept: Evidence
    looks: int = 0
    period: int = 1
    answers: int = 0


def new_standing() -> Standing:
    """Nothing seen yet."""
    return Standing({name: Evidence() for name in WATCHED}, Evidence())


def period_of(elapsed_s: float) -> int:
    """The number, from 1 on, of the hour that a trial is in."""
    return 1 + int(elapsed_s // PERIOD_S)


def next_period(standing: Standing, period: int) -> Standing:
    """`standing` at the beginning of another hour: every subject may count again, as a test of its own."""
    fresh = {name: Evidence() for name in GUARDED}
    return replace(standing, harm=standing.harm | fresh, period=period)


def in_bucket(subject: str, release: str, share: float) -> bool:
    """Whether `subject` is in the bucket of a trial of `release`: always the same; independent between releases."""
    digest = hashlib.blake2b(f"{release}/{subject}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") < share * 2.0**64


def looked_at(plan: TrialPlan, standing: Standing, control: Tally, trial: Tally) -> Standing:
    """`standing` after the outcomes since the last look: `control` of the active release, `trial` of the canary."""
    harm = {
        name: weighed(
            standing.harm[name],
            Block(
                count_a=_of(control, name), yes_a=getattr(control, name),
                count_b=_of(trial, name), yes_b=getattr(trial, name),
            ),
        )
        for name in WATCHED
    }  # fmt: skip
    block = Block(control.shown, control.shown - control.ignored, trial.shown, trial.shown - trial.ignored)
    return replace(
        standing, harm=harm, kept=kept(standing.kept, block, share=1.0 - plan.click_loss_max),
        looks=standing.looks + 1, answers=standing.answers + trial.answers,
    )  # fmt: skip


def subjects_needed(plan: TrialPlan, seen: Evidence) -> int | None:
    """About how many subjects of its own a harmless canary takes to be promoted, at the rate and the split seen so far.

    None while nobody took anything, or one of the two has shown nothing.
    """
    sizes = Block(seen.count_a, 0, seen.count_b, 0)
    rate = (seen.yes_a + seen.yes_b) / max(seen.count_a + seen.count_b, 1)
    if not (0.0 < rate < 1.0 and seen.count_a and seen.count_b):
        return None
    return math.ceil(-math.log(plan.alpha) * seen.count_b / expected_gain(rate, 1.0 - plan.click_loss_max, sizes))


def judge(plan: TrialPlan, standing: Standing, *, elapsed_s: float) -> Verdict:
    """What follows from `standing` after `elapsed_s` seconds."""
    needed = 1.0 / plan.alpha
    harmed = _harmed(plan, standing)
    if harmed is not None:
        seen = standing.harm[harmed]
        return Verdict(
            Decision.ROLL_BACK,
            f"{harmed}: {seen.rate_b:.1%} of {seen.count_b} subjects against {seen.rate_a:.1%} of {seen.count_a} "
            f"of the active release (e-value {min(seen.e_value, 1e6):,.0f}).",
        )
    seen = standing.kept
    if seen.log_e >= math.log(needed) and standing.answers >= plan.answers_min:
        return Verdict(
            Decision.PROMOTE,
            f"after {standing.answers} answers no harm was seen, and clicks of {seen.rate_b:.1%} of {seen.count_b} "
            f"subjects against {seen.rate_a:.1%} of {seen.count_a} show that not more than {plan.click_loss_max:.0%} "
            "of them are lost.",
        )
    if elapsed_s >= plan.duration_s:
        return Verdict(
            Decision.HOLD,
            f"its time is over: no harm was seen in {standing.answers} answers, but {_progress(plan, seen)}.",
        )
    worst = max(WATCHED, key=lambda name: standing.harm[name].log_e)
    sign = standing.harm[worst].e_value
    return Verdict(
        Decision.GO_ON,
        f"{standing.answers} answers, strongest sign of harm: {worst} ({sign:.2g}); {_progress(plan, seen)}.",
    )


def _progress(plan: TrialPlan, seen: Evidence) -> str:
    """How far a canary is from being promoted, in words."""
    needed = subjects_needed(plan, seen)
    about = "nobody has taken anything yet" if needed is None else f"about {needed:,} do for a harmless release"
    return (
        f"{seen.count_b:,} of its subjects do not show yet that no more than {plan.click_loss_max:.0%} of the clicks "
        f"are lost (e-value {min(seen.e_value, 1e6):.2g} of {1.0 / plan.alpha:.0f}; {about})"
    )


def acts_at(plan: TrialPlan, period: int) -> dict[str, float]:
    """The e-value from which on a canary acts in the hour `period`, by what is watched, and `kept`, which promotes it.

    Of GUARDED the mean of the four has to reach it. Of `alpha` four fifths are for them, hours share them.
    """
    needed = 1.0 / plan.alpha
    guarded = needed * period * (period + 1) * len(WATCHED) / len(GUARDED)
    return {**dict.fromkeys(GUARDED, guarded), IGNORED: needed * len(WATCHED), KEPT: needed}


def _harmed(plan: TrialPlan, standing: Standing) -> str | None:
    """What there is enough evidence of harm in; None: in nothing."""
    needed = acts_at(plan, standing.period)
    if log_mean_e(*(standing.harm[name] for name in GUARDED)) >= math.log(needed[GUARDED[0]]):
        return max(GUARDED, key=lambda name: standing.harm[name].log_e)
    return IGNORED if standing.harm[IGNORED].log_e >= math.log(needed[IGNORED]) else None


def _of(tally: Tally, name: str) -> int:
    return tally.shown if name == IGNORED else tally.answers
