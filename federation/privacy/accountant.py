"""What the rounds so far reveal about one user, as (epsilon, delta).

Privacy unit: one user's whole contribution to each round. Adjacency: one user is added, removed or replaced by a zero
update (all three have sensitivity clipping norm under a fixed denominator or a count that is public; whether a phone
took part is not hidden, what it learned is). Amplification by sampling is claimed only for Poisson sampling, which
`sampling_probability < 1` states. Composition by privacy loss distributions (dp-accounting); pessimistic rounding.
"""

import functools
import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import dp_accounting

NOISE_MIN = 0.05
"""Below, epsilon is above 200 for a single release, and its loss distribution takes minutes: it counts as infinite."""


@dataclass(frozen=True, slots=True, order=True)
class Release:
    """One noised sum that was given away: noise in clipping norms, and the chance of a user being in it."""

    noise_multiplier: float
    sampling_probability: float = 1.0


def epsilon(releases: Iterable[Release], *, delta: float) -> float:
    """Epsilon at `delta` of all `releases` together; 0 for none, infinite when one carries less noise than NOISE_MIN.

    Raises:
        ValueError: delta is not in (0, 1), or a release is malformed.
    """
    if not 0.0 < delta < 1.0:
        raise ValueError(f"delta must lie between 0 and 1, not {delta}")
    counts = Counter(releases)
    if any(0.0 <= release.noise_multiplier < NOISE_MIN for release in counts):
        return math.inf
    if not counts:
        return 0.0
    return _composed(tuple(sorted(counts.items())), delta)


def noise_for(target_epsilon: float, *, delta: float, rounds: int, sampling_probability: float = 1.0) -> float:
    """The least noise multiplier (to 1 %, at least 0.3) with which `rounds` releases stay within `target_epsilon`.

    Raises:
        ValueError: the target is not positive, or not reached with a multiplier of 1000.
    """
    if target_epsilon <= 0.0:
        raise ValueError("the target epsilon must be positive")

    def spent(multiplier: float) -> float:
        return epsilon([Release(multiplier, sampling_probability)] * rounds, delta=delta)

    # Less than a third of the clipping norm protects nobody, and its loss distribution takes minutes to build.
    low, high = 0.3, 0.6
    while spent(high) > target_epsilon:
        low, high = high, high * 2.0
        if high > 1000.0:
            raise ValueError(f"epsilon {target_epsilon} needs a noise multiplier above 1000")
    while high / low > 1.01:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if spent(middle) <= target_epsilon else (middle, high)
    return high


@functools.lru_cache(maxsize=256)
def _composed(counts: tuple[tuple[Release, int], ...], delta: float) -> float:
    """Kept, because a round is accounted for when it is reserved and again when it is settled."""
    # Importing it takes seconds (SciPy), which a gateway that starts again must not wait for.
    import dp_accounting  # noqa: PLC0415
    from dp_accounting.pld import PLDAccountant  # noqa: PLC0415

    accountant = PLDAccountant(neighboring_relation=dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE)
    for release, count in counts:
        accountant.compose(_event(release), count)
    return float(accountant.get_epsilon(delta))


def _event(release: Release) -> "dp_accounting.DpEvent":
    import dp_accounting  # noqa: PLC0415

    if release.noise_multiplier < 0.0 or not 0.0 < release.sampling_probability <= 1.0:
        raise ValueError(f"not a release that can be accounted for: {release}")
    gaussian = dp_accounting.GaussianDpEvent(release.noise_multiplier)
    if release.sampling_probability == 1.0:
        return gaussian
    return dp_accounting.PoissonSampledDpEvent(release.sampling_probability, gaussian)
