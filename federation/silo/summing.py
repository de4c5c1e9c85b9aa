"""The sum of a silo: every user's clipped update, those that a coin chose, and the region's noise. No I/O.

The same unit and the same bounds as with phones: one user counts once, with at most the clipping norm. What differs is
who is trusted: the region, which has these histories anyway, sees single updates; central sees the noised sum.
"""

import numpy as np

from federation.device.store import LocalHistory
from federation.device.tower import DeviceRelease
from federation.device.training import LocalSettings, TrainingError, train_round
from federation.messages import Phase, RegionalSum, RoundPlan, to_bytes
from federation.privacy.noise import Entropy, coin, noised_sum
from federation.settings import CohortSettings
from infra.contracts.resident import ResidentHistory


class SiloSum:
    """One round's sum. `add` users, each once, then `result` once: the noise is drawn there."""

    def __init__(
        self, plan: RoundPlan, release: DeviceRelease, *, policy: CohortSettings, local: LocalSettings,
        entropy: Entropy,
    ) -> None:  # fmt: skip
        self._plan = plan
        self._release = release
        self._policy = policy
        self._local = local
        self._entropy = entropy
        # Draws negatives only; nothing private depends on its strength.
        self._rng = np.random.default_rng(int.from_bytes(entropy(16), "big"))
        self._total = np.zeros(plan.shape)
        self.asked = 0
        """Users that a coin was thrown for."""
        self.taken = 0
        """Users in the sum; with sampling it stays here."""

    def add(self, history: ResidentHistory) -> None:
        """Throw this user's coin and, if it falls so, train on their history and add the clipped update."""
        self.asked += 1
        if not coin(self._policy.sampling_probability, entropy=self._entropy):
            return
        self.taken += 1
        try:
            trained = train_round(
                self._plan, self._release, local_history(history, self._release), rng=self._rng, settings=self._local
            )
        except TrainingError:
            return  # An update of zero: that it could not be trained on must not show in the count.
        self._total += trained.update

    def result(self, region: str) -> RegionalSum:
        """The noised sum, or why there is none."""
        plan, policy = self._plan, self._policy
        if self.asked < policy.count_min:
            return void(plan, region, f"fewer than {policy.count_min} users have a history here")
        sampled = policy.sampling_probability < 1.0
        noised = noised_sum(
            self._total, clipping_norm=plan.clipping_norm, noise_multiplier=plan.noise_multiplier,
            entropy=self._entropy,
        )  # fmt: skip
        return RegionalSum(
            round_id=plan.round_id, region=region, phase=Phase.CLOSED, shape=plan.shape, total=to_bytes(noised),
            weight=policy.expected_count if sampled else self.taken, clipping_norm=plan.clipping_norm,
            noise_multiplier=plan.noise_multiplier, sampling_probability=policy.sampling_probability,
        )  # fmt: skip


def void(plan: RoundPlan, region: str, reason: str) -> RegionalSum:
    """The answer of a round without a sum."""
    return RegionalSum(round_id=plan.round_id, region=region, phase=Phase.VOID, reason=reason)


def local_history(history: ResidentHistory, release: DeviceRelease) -> LocalHistory:
    """A resident history in the rows of a release; items that it does not know are left out."""
    events = zip(history.items, history.strengths, history.times_ms, strict=True)
    known = [(release.rows[item], level, at / 1000.0) for item, level, at in events if item in release.rows]
    rows, strengths, times_s = zip(*known, strict=True) if known else ((), (), ())
    return LocalHistory(
        rows=np.array(rows, dtype=np.int32), strengths=np.array(strengths, dtype=np.int32),
        times_s=np.array(times_s, dtype=np.float64), sensitive=np.zeros(len(known), dtype=np.bool_),
    )  # fmt: skip
