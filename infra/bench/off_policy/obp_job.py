"""The rival's estimates of the same rounds: run by the environment of `locks/off-policy.txt`, not by ours.

Open Bandit Pipeline (Saito et al., 2021) imports PyTorch for policies that are neural networks. Its estimators use none
of it, so PyTorch (gigabytes) is left out of the lock, and a module without anything in it answers to its name here.
"""

import json
import sys
import types
from typing import Any


class _Absent(types.ModuleType):
    """Names of what is not there: enough for annotations and base classes, of no use otherwise."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        found = type(name, (), {})
        setattr(self, name, found)
        return found


def leave_torch_out() -> None:
    """Have `import torch` find nothing of use."""
    for name in ("torch", "torch.nn", "torch.nn.functional", "torch.optim", "torch.utils", "torch.utils.data"):
        sys.modules[name] = _Absent(name)
        parent, _, last = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], last, sys.modules[name])


def main() -> None:
    """Rounds as JSON on stdin, estimates as JSON on stdout."""
    leave_torch_out()
    import numpy as np  # noqa: PLC0415 - of the rival's own environment
    from obp import ope  # noqa: PLC0415

    given = json.load(sys.stdin)
    rounds = {
        "reward": np.asarray(given["rewards"]), "action": np.asarray(given["actions"]),
        "pscore": np.asarray(given["propensities"]), "action_dist": np.asarray(given["targets"])[:, :, None],
    }  # fmt: skip
    model = {"estimated_rewards_by_reg_model": np.asarray(given["models"])[:, :, None]}
    estimators = {
        "ips": (ope.InverseProbabilityWeighting(), {}),
        "clipped_ips": (ope.InverseProbabilityWeighting(lambda_=given["clip"]), {}),
        "snips": (ope.SelfNormalizedInverseProbabilityWeighting(), {}),
        "doubly_robust": (ope.DoublyRobust(), model),
    }
    answers = {}
    for name, (estimator, more) in estimators.items():
        value = float(estimator.estimate_policy_value(**rounds, **more))
        interval = estimator.estimate_interval(
            **rounds, **more, n_bootstrap_samples=given["bootstraps"], random_state=1
        )
        low, high = interval["95.0% CI (lower)"], interval["95.0% CI (upper)"]
        answers[name] = {"value": value, "low": float(low), "high": float(high)}
    json.dump(answers, sys.stdout)


if __name__ == "__main__":
    main()
