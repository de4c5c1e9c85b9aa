"""Off-policy estimates: numbers worked out by hand, and a simulation in which the truth is known."""

import math

import numpy as np
import pytest

from region.exploration.estimating import Round, estimate
from region.exploration.policy import Arms, chances
from region.exploration.targets import named_policy, targets_of
from region.rules.schema import Exploration


def a_round(subject: str, table: list[float], shown: int, reward: float, rates: list[float] | None = None) -> Round:
    # Counts so large that the smoothed rate is the rate.
    clicks = np.asarray(rates or [0.0] * len(table)) * 1e12
    arms = Arms(
        clicks=clicks, impressions=np.full(len(table), 1e12), new=np.zeros(len(table), np.bool_), prior_rate=0.05
    )
    return Round(
        exposure=subject, position=1, subject=subject, arms=arms, chances=np.asarray(table), shown=shown, reward=reward
    )


def test_every_estimator_against_numbers_worked_out_by_hand() -> None:
    rounds = [
        a_round("a", [0.5, 0.5], 0, 1.0, [0.4, 0.2]),
        a_round("b", [0.8, 0.2], 1, 1.0, [0.4, 0.2]),
        a_round("c", [0.5, 0.5], 1, 0.0, [0.4, 0.2]),
        a_round("d", [0.25, 0.75], 0, 0.0, [0.4, 0.2]),
    ]
    targets = [np.asarray([0.5, 0.5])] * 4
    found = estimate(rounds, targets, clip=2.0)
    # Weights 1, 2.5, 1, 2; rewards 1, 1, 0, 0.
    assert found.logged.value == pytest.approx(0.5)
    assert found.ips.value == pytest.approx(3.5 / 4)
    assert found.clipped_ips.value == pytest.approx(3.0 / 4)
    assert found.snips.value == pytest.approx(3.5 / 6.5)
    # 0.3 everywhere from the model, and w (r - q): 0.6, 2.0, -0.2, -0.8.
    assert found.doubly_robust.value == pytest.approx(0.3 + (0.6 + 2.0 - 0.2 - 0.8) / 4, abs=1e-6)
    assert found.effective_rounds == pytest.approx(6.5**2 / (1 + 6.25 + 1 + 4))
    assert found.clipped == pytest.approx(0.25)
    # Values 1, 2.5, 0, 0 around 0.875: variance of the mean 4.1875 * (4 / 3) / 16.
    squares = 0.125**2 + 1.625**2 + 2 * 0.875**2
    assert found.ips.standard_error == pytest.approx(math.sqrt(squares * 4 / 3 / 16))


def test_rounds_of_one_subject_count_as_one_for_the_interval() -> None:
    alone = [a_round(str(n), [0.5, 0.5], n % 2, float(n % 4 == 0)) for n in range(40)]
    together = [a_round(str(n // 20), [0.5, 0.5], n % 2, float(n < 20)) for n in range(40)]
    targets = [np.asarray([0.5, 0.5])] * 40
    assert estimate(alone, targets, clip=9).ips.standard_error == pytest.approx(
        math.sqrt(40 * 0.25 * 0.75 * 40 / 39) / 40
    )
    assert estimate(together, targets, clip=9).ips.standard_error > 0.4


def test_what_could_not_be_shown_is_said() -> None:
    found = estimate([a_round("a", [1.0, 0.0], 0, 1.0)] * 2, [np.asarray([0.3, 0.7])] * 2, clip=9)
    assert found.not_covered == pytest.approx(0.7)
    assert math.isinf(found.ips.standard_error)


def simulated(count: int, seed: int) -> tuple[list[Round], float]:
    """Rounds of a Thompson policy whose arms have known click rates, and the true value of the greedy policy."""
    rng = np.random.default_rng(seed)
    rules = Exploration(method="thompson", epsilon=0.3, new_share_min=0.0, new_share_max=1.0)
    rounds, value = [], 0.0
    for number in range(count):
        rates = rng.uniform(0.05, 0.6, size=4)
        impressions = rng.integers(0, 60, size=4).astype(float)
        arms = Arms(
            clicks=rng.binomial(impressions.astype(int), rates).astype(float), impressions=impressions,
            new=np.zeros(4, np.bool_), prior_rate=0.2,
        )  # fmt: skip
        table = chances(arms, rules, rng, draws=64)
        shown = int(rng.choice(4, p=table))
        value += rates[0]
        rounds.append(
            Round(
                exposure=str(number),
                position=1,
                subject=str(number),
                arms=arms,
                chances=table,
                shown=shown,
                reward=float(rng.random() < rates[shown]),
            )
        )
    return rounds, value / count


def test_in_a_world_whose_truth_is_known_intervals_hold_and_the_bias_shrinks() -> None:
    held = {"ips": 0, "snips": 0, "doubly_robust": 0}
    errors: dict[int, list[float]] = {60: [], 960: []}
    policy = named_policy("greedy")
    runs = 80
    for seed in range(runs):
        rounds, value = simulated(250, seed)
        found = estimate(rounds, targets_of(policy, rounds), clip=10)
        for name in held:
            one = getattr(found, name)
            held[name] += one.low <= value <= one.high
    for count, seen in errors.items():
        for seed in range(12):
            rounds, value = simulated(count, 1000 + seed)
            seen.append(estimate(rounds, targets_of(policy, rounds), clip=10).doubly_robust.value - value)
    # Binomial(80, 0.95) lies from 69 to 80 with a chance of 0.999.
    assert all(69 <= count <= runs for count in held.values()), held
    assert np.sqrt(np.mean(np.square(errors[960]))) < 0.6 * np.sqrt(np.mean(np.square(errors[60])))
    assert abs(np.mean(errors[960])) < 0.03


def test_policies_have_names() -> None:
    assert named_policy("thompson:0.2").epsilon == 0.2
    assert named_policy("uniform").epsilon == 1.0
    for word in ("best", "greedy:0.1", "thompson:2", "epsilon-greedy:x"):
        with pytest.raises(Exception, match="is no policy"):
            named_policy(word)
