"""Trying a release on a part of a region's callers: who is in it, what is counted, what follows from it. Pure.

Two kinds. A *shadow* answers nobody: it is asked what the active release was asked, and compared. A *canary* answers
the callers of its bucket; five things are watched against the active release, each as an e-process (`evidence`):

    failed, empty, slow, degraded     of every answer
    ignored                           of every subject once: shown a list, no click or better in QUALITY_WINDOW_S

A subject counts once for quality, because a bucket is kept: the same few people clicking often are no more evidence
than they are people. The canary is rolled back when the mean of the five e-values reaches 1/alpha, so a harmless
release is rolled back with probability alpha at most, however often this looks. It is promoted when it has been shown
not to lose more than `click_loss_max` of the clicks; when its time is over without either, it is held for a person.
"""

import enum
import hashlib
import math
from dataclasses import dataclass, replace
from typing import Annotated

import msgspec

from infra.contracts.residency import Global, GlobalMessage
from region.releases.evidence import Block, Evidence, log_mean_e, weighed

QUALITY_WINDOW_S = 600.0
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
    """No canary is promoted on fewer of its own answers."""
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
    """Outcomes of one arm since the last look. A subject's outcome is `shown`, and `ignored` or not."""

    answers: int = 0
    failed: int = 0
    empty: int = 0
    slow: int = 0
    degraded: int = 0
    shown: int = 0
    ignored: int = 0


WATCHED = ("failed", "empty", "slow", "degraded", "ignored")


@dataclass(frozen=True, slots=True)
class Standing:
    """All that a canary has seen: harm by what is watched, and the evidence that clicks are kept."""

    harm: dict[str, Evidence]
    kept: Evidence
    looks: int = 0

    @property
    def answers(self) -> int:
        """Of the canary itself."""
        return self.harm["failed"].count_b


def new_standing() -> Standing:
    """Nothing seen yet."""
    return Standing({name: Evidence() for name in WATCHED}, Evidence())


def in_bucket(subject: str, release: str, share: float) -> bool:
    """Whether `subject` is in the bucket of a trial of `release`: always the same; independent between releases."""
    digest = hashlib.blake2b(f"{release}/{subject}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") < share * 2.0**64


def looked_at(standing: Standing, control: Tally, trial: Tally, *, clicks_counted: int) -> Standing:
    """`standing` after the outcomes since the last look.

    Args:
        standing: what was seen before.
        control: outcomes of the active release.
        trial: outcomes of the canary.
        clicks_counted: the control's subjects of this block that clicked *and* were drawn with probability
            1 - click_loss_max: their rate is what the canary must beat to have kept enough clicks.
    """
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
    block = Block(control.shown, clicks_counted, trial.shown, trial.shown - trial.ignored)
    return replace(standing, harm=harm, kept=weighed(standing.kept, block), looks=standing.looks + 1)


def judge(plan: TrialPlan, standing: Standing, *, elapsed_s: float) -> Verdict:
    """What follows from `standing` after `elapsed_s` seconds."""
    worst = max(WATCHED, key=lambda name: standing.harm[name].log_e)
    harm, needed = log_mean_e(*standing.harm.values()), 1.0 / plan.alpha
    seen = standing.harm[worst]
    if harm >= math.log(needed):
        return Verdict(
            Decision.ROLL_BACK,
            f"{worst}: {seen.rate_b:.1%} of {seen.count_b} against {seen.rate_a:.1%} of {seen.count_a} "
            f"of the active release (e-value {min(seen.e_value, 1e6):,.0f}).",
        )
    kept = standing.kept
    if kept.log_e >= math.log(needed) and standing.answers >= plan.answers_min:
        return Verdict(
            Decision.PROMOTE,
            f"after {standing.answers} answers no harm was seen, and clicks of {kept.rate_b:.1%} of {kept.count_b} "
            f"subjects show that not more than {plan.click_loss_max:.0%} of them are lost.",
        )
    if elapsed_s >= plan.duration_s:
        return Verdict(
            Decision.HOLD,
            f"its time is over: no harm was seen in {standing.answers} answers, but {kept.count_b} subjects are too "
            f"few to show that clicks are kept (e-value {kept.e_value:.1f} of {needed:.0f}).",
        )
    return Verdict(Decision.GO_ON, f"{standing.answers} answers, strongest sign of harm: {worst} ({seen.e_value:.2g}).")


def _of(tally: Tally, name: str) -> int:
    return tally.shown if name == "ignored" else tally.answers
