"""How much a planted canary can be told from what leaves a region, against the epsilon that the ledger claims.

The attack knows everything but the coin: the model's directions, all other phones' updates and the canary itself, which
uses up the whole clipping norm in one direction. It sees what central sees: the regional sums of a run, as the
gateway's own code makes them (clipped on the phone, in the ring, noised, rounded). Half of the runs have the canary,
half do not; the attack thresholds the projection on the canary's direction. The measured epsilon is a lower bound that
holds with 95 % confidence (Clopper-Pearson on false positives and false negatives, Jagielski et al. 2020, thresholds
chosen on one half of the runs and bounded on the other). It must lie below the claimed one, and above half of it where
the claim is tight: an audit that finds nothing would prove nothing.
Options: `trials` (of each kind, default 4000), `rounds` (per run, default 5), `noise` (multiplier, default 2).
"""

import secrets

import numpy as np
import numpy.typing as npt
from scipy import stats

from federation.privacy.accountant import Release, epsilon
from federation.privacy.clipping import clip
from federation.privacy.noise import noised_sum
from federation.secure_aggregation.ring import from_ring, to_ring
from infra.bench.catalogue import BenchRequest
from infra.bench.results import Bar, Measured, at_least, medians

PHONES, LENGTH = 25, 64
CLIPPING_NORM = 0.3
DELTA = 1e-6
CONFIDENCE = 0.95


def run(request: BenchRequest) -> Measured:
    """Audit `request.runs` times with fresh randomness; the largest of the measured bounds counts."""
    trials = 400 if request.quick else int(request.number("trials", 4000))
    rounds, noise = int(request.number("rounds", 5)), request.number("noise", 2.0)
    claimed = epsilon([Release(noise)] * rounds, delta=DELTA)
    runs = []
    for number in range(request.runs):
        request.progress.advance(number, request.runs, "auditing")
        with_canary = scores(trials, rounds=rounds, noise=noise, planted=True)
        without = scores(trials, rounds=rounds, noise=noise, planted=False)
        runs.append({"measured_epsilon": measured_epsilon(with_canary, without, delta=DELTA)})
    broken = scores(trials, rounds=rounds, noise=noise / 8.0, planted=True)
    figures = {"claimed_epsilon": claimed} | medians(runs)
    figures["measured_epsilon"] = max(one["measured_epsilon"] for one in runs)
    figures["measured_epsilon_with_an_eighth_of_the_noise"] = measured_epsilon(
        broken, scores(trials, rounds=rounds, noise=noise / 8.0, planted=False), delta=DELTA
    )
    bars = (
        Bar(bar="the attack stays below the claim", figure=figures["measured_epsilon"], goal=claimed, unit="epsilon",
            met=figures["measured_epsilon"] < claimed),
        at_least("the attack finds noise that is too small",
                 figures["measured_epsilon_with_an_eighth_of_the_noise"], claimed, unit="epsilon"),
    )  # fmt: skip
    notes = (
        f"{trials} runs with and {trials} without the canary, {rounds} rounds each, noise multiplier {noise:g}; with "
        f"so many runs no attack can show more than {ceiling(trials):.2f}",
    )
    return Measured(figures=figures, bars=bars, notes=notes)


def scores(trials: int, *, rounds: int, noise: float, planted: bool) -> npt.NDArray[np.float64]:
    """The attack's statistic, `[trials]`: what is left of the sums of a run along the canary, others taken off."""
    rng = np.random.default_rng(secrets.randbits(64))
    canary = clip(np.eye(1, LENGTH)[0] * 10.0 * CLIPPING_NORM, CLIPPING_NORM)
    found = np.zeros(trials)
    for trial in range(trials):
        for _ in range(rounds):
            others = rng.normal(size=(PHONES, LENGTH))
            total = np.zeros(LENGTH, dtype=np.uint32)
            for one in others[: PHONES // 5]:
                total += to_ring(clip(one, CLIPPING_NORM), clipping_norm=CLIPPING_NORM)
            known = from_ring(total, clipping_norm=CLIPPING_NORM)
            if planted:
                total = total + to_ring(canary, clipping_norm=CLIPPING_NORM)
            left = noised_sum(
                from_ring(total, clipping_norm=CLIPPING_NORM), clipping_norm=CLIPPING_NORM, noise_multiplier=noise,
                entropy=secrets.token_bytes,
            )  # fmt: skip
            found[trial] += float((left - known) @ canary)
    return found


def measured_epsilon(
    with_canary: npt.NDArray[np.float64], without: npt.NDArray[np.float64], *, delta: float
) -> float:  # fmt: skip
    """A lower bound on epsilon at `delta` that holds with CONFIDENCE; 0 when the attack shows nothing."""
    half = len(without) // 2
    thresholds = np.quantile(np.concatenate([with_canary[:half], without[:half]]), np.linspace(0.01, 0.99, 99))
    best = max(thresholds, key=lambda at: _bound(with_canary[:half], without[:half], at, delta))
    return max(0.0, _bound(with_canary[half:], without[half:], best, delta))


def _bound(
    with_canary: npt.NDArray[np.float64], without: npt.NDArray[np.float64], threshold: float, delta: float
) -> float:  # fmt: skip
    """log((1 - delta - false negatives) / false positives), and its mirror, at the upper ends of both rates."""
    false_positive = _upper(int((without > threshold).sum()), len(without))
    false_negative = _upper(int((with_canary <= threshold).sum()), len(with_canary))
    values = [
        np.log((1.0 - delta - one) / other)
        for one, other in ((false_negative, false_positive), (false_positive, false_negative))
        if 1.0 - delta - one > 0.0
    ]
    return float(max(values, default=0.0))


def _upper(errors: int, trials: int) -> float:
    """Upper end of the Clopper-Pearson interval; both rates together keep CONFIDENCE."""
    share = (1.0 - CONFIDENCE) / 2.0
    return 1.0 if errors == trials else float(stats.beta.ppf(1.0 - share, errors + 1, trials - errors))


def ceiling(trials: int) -> float:
    """What a perfect attack would show with so many runs."""
    rate = _upper(0, trials // 2)
    return float(np.log((1.0 - rate) / rate))
