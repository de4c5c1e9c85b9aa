"""Off-policy estimates against Open Bandit Pipeline, and against a truth that is known.

Slots are drawn by our own Thompson policy in a made-up world whose click rates are known; the greedy policy is
estimated from them by `region.exploration.estimating` and by `obp` 0.5.7 (in an environment of its own, made from
`locks/off-policy.txt` at the first run; PyTorch is left out, see `infra/bench/off_policy/obp_job.py`). Then the same
world is lived many times: how often the truth lies inside our 95 % intervals, and what becomes of the bias.
"""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np

from infra.bench.catalogue import BenchRequest
from infra.bench.results import Measured, at_least, at_most
from infra.local.tiers import source_root
from infra.plumbing.errors import UnavailableError
from region.exploration.estimating import Estimates, Round, estimate
from region.exploration.policy import Arms, chances
from region.exploration.targets import named_policy, targets_of
from region.rules.schema import Exploration

ARMS = 5
CLIP = 5.0
ESTIMATORS = ("ips", "clipped_ips", "snips", "doubly_robust")
UNBIASED = ("ips", "snips", "doubly_robust")
MAKE_WITHIN_S, RUN_WITHIN_S = 900.0, 300.0


def run(request: BenchRequest) -> Measured:
    """Both halves."""
    count = int(request.number("rounds", 500 if request.quick else 4_000))
    lives = int(request.number("lives", 20 if request.quick else 200))
    rounds, _ = _world(count, seed=0)
    ours, theirs = _ours(rounds), _theirs(request, rounds)
    figures: dict[str, float] = {"rounds": float(count), "lives": float(lives)}
    figures["value_difference"] = max(abs(getattr(ours, name).value - theirs[name]["value"]) for name in ESTIMATORS)
    widths = [_width(ours, name) / (theirs[name]["high"] - theirs[name]["low"]) for name in ESTIMATORS]
    figures |= {"interval_ratio_min": min(widths), "interval_ratio_max": max(widths)}
    figures |= _covered(request, lives, count // 4)
    return Measured(
        figures=figures,
        bars=(
            at_most("largest difference of a value from obp's", figures["value_difference"], 1e-9, unit="rewards"),
            at_most("our interval against obp's bootstrap", figures["interval_ratio_max"], 1.15, unit="ratio"),
            at_least("how often the truth is inside, worst estimator", figures["covered_min"], 0.91, unit="share"),
            at_most("bias of doubly robust, against its error of one life", figures["bias_in_errors"], 0.3, unit="sd"),
        ),
        peers={"obp": {name: theirs[name]["value"] for name in ESTIMATORS}},
        notes=("obp's intervals are bootstraps over rounds; ours are over subjects, one round each in this world",),
    )


def _world(count: int, *, seed: int) -> tuple[list[Round], float]:
    """Rounds of a Thompson policy, and the true value of showing what ranks first."""
    rng = np.random.default_rng(seed)
    rules = Exploration(method="thompson", epsilon=0.3, new_share_min=0.0, new_share_max=1.0)
    rounds, value = [], 0.0
    for number in range(count):
        rates = rng.uniform(0.02, 0.5, size=ARMS)
        impressions = rng.integers(0, 80, size=ARMS).astype(np.float64)
        arms = Arms(
            clicks=rng.binomial(impressions.astype(np.int64), rates).astype(np.float64), impressions=impressions,
            new=np.zeros(ARMS, np.bool_), prior_rate=0.2,
        )  # fmt: skip
        table = chances(arms, rules, rng, draws=64)
        shown = int(rng.choice(ARMS, p=table))
        name = f"{seed}-{number}"
        rounds.append(
            Round(
                exposure=name, position=1, subject=name, arms=arms, chances=table, shown=shown,
                reward=float(rng.random() < rates[shown]),
            )
        )  # fmt: skip
        value += rates[0] / count
    return rounds, value


def _ours(rounds: list[Round]) -> Estimates:
    return estimate(rounds, targets_of(named_policy("greedy"), rounds), clip=CLIP)


def _width(ours: Estimates, name: str) -> float:
    one = getattr(ours, name)
    return float(one.high - one.low)


def _covered(request: BenchRequest, lives: int, count: int) -> dict[str, float]:
    inside = dict.fromkeys(UNBIASED, 0)
    errors = []
    for life in range(lives):
        rounds, value = _world(count, seed=1 + life)
        found = _ours(rounds)
        for name in UNBIASED:
            one = getattr(found, name)
            inside[name] += one.low <= value <= one.high
        errors.append(found.doubly_robust.value - value)
        request.progress.advance(life + 1, lives, "lives")
    covered = {f"covered_{name}": inside[name] / lives for name in UNBIASED}
    bias = abs(float(np.mean(errors)))
    return {
        **covered, "covered_min": min(covered.values()), "bias": bias, "bias_in_errors": bias / float(np.std(errors)),
    }  # fmt: skip


def _theirs(request: BenchRequest, rounds: list[Round]) -> dict[str, dict[str, float]]:
    given = {
        "rewards": [one.reward for one in rounds], "actions": [one.shown for one in rounds],
        "propensities": [float(one.chances[one.shown]) for one in rounds],
        "targets": [target.tolist() for target in targets_of(named_policy("greedy"), rounds)],
        "models": [one.arms.rates().tolist() for one in rounds], "clip": CLIP,
        "bootstraps": 200 if request.quick else 2_000,
    }  # fmt: skip
    job = source_root() / "infra" / "bench" / "off_policy" / "obp_job.py"
    done = subprocess.run(
        [_python(request), str(job)], input=json.dumps(given), capture_output=True, text=True, timeout=RUN_WITHIN_S,
        check=False, cwd=request.work,
    )  # fmt: skip
    if done.returncode:
        raise UnavailableError(f"obp did not answer: {done.stderr[-500:]}")
    answers: dict[str, dict[str, float]] = json.loads(done.stdout)
    return answers


def _python(request: BenchRequest) -> str:
    """The interpreter of obp's environment, which is made when it is not there.

    Raises:
        UnavailableError: it cannot be made; says why.
    """
    target, lock = request.environments / "off-policy", source_root() / "locks" / "off-policy.txt"
    python, stamp = target / "bin" / "python", target / "atoll-lock"
    if stamp.is_file() and stamp.read_text() == lock.read_text():
        return str(python)
    uv = str(request.environments.parent / "bootstrap" / "bin" / "uv")
    for words in (
        ["venv", "--quiet", "--clear", "--python", sys.executable, str(target)],
        ["pip", "sync", "--quiet", "--require-hashes", "--python", str(python), str(lock)],
    ):
        done = subprocess.run([uv, *words], capture_output=True, text=True, timeout=MAKE_WITHIN_S, check=False)
        if done.returncode:
            raise UnavailableError(f"obp's environment cannot be made: {done.stderr[-500:]}")
    Path(stamp).write_text(lock.read_text())
    return str(python)
