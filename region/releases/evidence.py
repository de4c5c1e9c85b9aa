"""Evidence that one rate is higher than another, valid whenever somebody looks.

An e-process for two streams of yes/no outcomes (Turner, Ly, Grünwald, "Safe tests for 2 x 2 contingency tables and the
logrank test", 2021, theorem 1). Outcomes come in blocks. Before each block two rates are guessed from the blocks
before; with `n_a` and `n_b` outcomes in the block, their likelihood is divided by that of the one rate

    (n_a * rate_a + n_b * rate_b) / (n_a + n_b)

The expectation of that ratio is at most 1 when stream b is not above stream a: raising a's rate or lowering b's only
makes it smaller. So the running product exceeds 1/alpha with probability alpha at most, however often it is looked at
(Ville's inequality), and a mean of several such products does too.

The other way round, `kept` weighs whether stream b keeps at least a share of stream a's rate. There the rates that are
to be rejected, rate_b <= share * rate_a, are a convex set, and the likelihood of what is betted on, that both rates are
one and the same, is divided by that of the pair of that set which is nearest by Kullback-Leibler divergence (Turner and
Grünwald, "Exact anytime-valid confidence intervals for contingency tables and beyond", 2023). Nearest in a convex set
means that the divergence falls towards no pair of it, and that is what bounds the expectation by 1.
"""

import math
from dataclasses import dataclass

PRIOR = 0.5
"""Pseudo-counts of either outcome in a guess (Krichevsky-Trofimov)."""


@dataclass(frozen=True, slots=True)
class Block:
    """Outcomes of both streams since the last look: how many, and how many of them were a yes."""

    count_a: int
    yes_a: int
    count_b: int
    yes_b: int


@dataclass(frozen=True, slots=True)
class Evidence:
    """What has been seen, and how strongly it speaks for stream b's rate being above stream a's."""

    count_a: int = 0
    yes_a: int = 0
    count_b: int = 0
    yes_b: int = 0
    log_e: float = 0.0

    @property
    def rate_a(self) -> float:
        """Observed; 0 of nothing."""
        return self.yes_a / self.count_a if self.count_a else 0.0

    @property
    def rate_b(self) -> float:
        """Observed; 0 of nothing."""
        return self.yes_b / self.count_b if self.count_b else 0.0

    @property
    def e_value(self) -> float:
        """1 says nothing; 1/alpha or more rejects "not above" at level alpha."""
        return math.exp(min(self.log_e, 700.0))


def weighed(evidence: Evidence, block: Block) -> Evidence:
    """`evidence` after another block. A block that only one stream has outcomes in is counted, and says nothing."""
    return _counted(evidence, block, _log_ratio(evidence, block) if block.count_a and block.count_b else 0.0)


def kept(evidence: Evidence, block: Block, *, share: float) -> Evidence:
    """`evidence` that b's rate is above `share` of a's after another block; bets on equal rates.

    What is betted needs no guess of how the two differ, so a harmless b gains from its first outcomes on.
    """
    gain = 0.0
    if block.count_a and block.count_b:
        rate = _guess(evidence.yes_a + evidence.yes_b, evidence.count_a + evidence.count_b)
        least = _nearest(rate, share, block)
        gain = _log_likelihood(block.yes_a, block.count_a, rate, least) + _log_likelihood(
            block.yes_b, block.count_b, rate, share * least
        )
    return _counted(evidence, block, gain)


def expected_gain(rate: float, share: float, block: Block) -> float:
    """What a block of that size adds to `log_e` of `kept` on average, when both rates are `rate` (above 0)."""
    least = _nearest(rate, share, block)
    yes_a, yes_b = rate * block.count_a, rate * block.count_b
    return _log_likelihood(yes_a, block.count_a, rate, least) + _log_likelihood(
        yes_b, block.count_b, rate, share * least
    )


def log_mean_e(*parts: Evidence) -> float:
    """Logarithm of the mean of the e-values of `parts`: one test for "none of these is above"."""
    top = max(part.log_e for part in parts)
    return top + math.log(sum(math.exp(part.log_e - top) for part in parts) / len(parts))


def _counted(evidence: Evidence, block: Block, gain: float) -> Evidence:
    return Evidence(
        count_a=evidence.count_a + block.count_a,
        yes_a=evidence.yes_a + block.yes_a,
        count_b=evidence.count_b + block.count_b,
        yes_b=evidence.yes_b + block.yes_b,
        log_e=evidence.log_e + gain,
    )


def _nearest(rate: float, share: float, block: Block) -> float:
    """Rate of a in the pair (x, share * x) that is nearest to (`rate`, `rate`) for the sizes of `block`.

    Where the derivative of count_a KL(rate, x) + count_b KL(rate, share x) is zero: a quadratic equation whose smaller
    root lies between `rate` and rate / share.
    """
    part_a = block.count_a / (block.count_a + block.count_b)
    middle = part_a * (1.0 + share * rate) + (1.0 - part_a) * (share + rate)
    return (middle - math.sqrt(max(middle * middle - 4.0 * share * rate, 0.0))) / (2.0 * share)


def _log_ratio(seen: Evidence, block: Block) -> float:
    rate_a, rate_b = _guess(seen.yes_a, seen.count_a), _guess(seen.yes_b, seen.count_b)
    if rate_b <= rate_a:
        return 0.0  # Nothing is betted on what the past speaks against.
    share_a = block.count_a / (block.count_a + block.count_b)
    common = share_a * rate_a + (1.0 - share_a) * rate_b
    return _log_likelihood(block.yes_a, block.count_a, rate_a, common) + _log_likelihood(
        block.yes_b, block.count_b, rate_b, common
    )


def _guess(yes: int, count: int) -> float:
    return (yes + PRIOR) / (count + 2.0 * PRIOR)


def _log_likelihood(yes: float, count: int, rate: float, against: float) -> float:
    """Of `yes` among `count` under `rate`, less the same under `against`."""
    return yes * math.log(rate / against) + (count - yes) * math.log((1.0 - rate) / (1.0 - against))
