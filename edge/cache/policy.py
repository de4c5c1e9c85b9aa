"""Freshness of a cached list: pure functions of its life, its age and what has been heard since (RFC 9111, RFC 5861).

    age:      0 ............ max_age ............ + stale_while_revalidate ............ + stale_if_error
    usable:   | FRESH        | REVALIDATE (serve, refresh behind) | ON_ERROR (only when a fill failed) | NEVER

Time is not all: an entry that was overtaken (a newer version of its subject, another release, a silent grid) is at
best ON_ERROR whatever its age, and for moments after a release switch REVALIDATE; one that its subject has opted out of
is NEVER.
"""

import enum
import math
from dataclasses import dataclass, replace

from edge.jitter import Uniform
from infra.contracts.messages import Lifetime

JITTER = 0.1
"""Lives differ by up to this share, so that entries filled together do not run out together."""
EARLY_BETA = 1.0
HOT_BETA = 4.0
"""For lists that many ask for at once: their last moments cost most."""
EARLY_COST_MIN_S = 0.05
LIFE_S_MAX = 86_400.0
"""No region may ask for a longer life than this."""


class Usability(enum.IntEnum):
    """What an entry is good for, best first."""

    FRESH = 0
    REVALIDATE = 1
    ON_ERROR = 2
    NEVER = 3


class Standing(enum.Enum):
    """What has been heard about an entry since it was made."""

    CURRENT = "current"
    OUTGOING = "outgoing"
    """Of the release before, moments after a switch: shown while it is made anew."""
    OVERTAKEN = "overtaken"
    FORBIDDEN = "forbidden"


@dataclass(frozen=True, slots=True)
class Life:
    """Ages in seconds at which an entry stops being FRESH, REVALIDATE and ON_ERROR; they never fall."""

    fresh_until_s: float
    revalidate_until_s: float
    error_until_s: float
    refresh_from_s: float = math.inf
    """From this age on a fresh entry that is asked for is made anew behind the caller's back."""


def with_early_refresh(life: Life, *, cost_s: float, uniform: Uniform, is_hot: bool = False) -> Life:
    """`life` with a moment from which a list that is still fresh, and asked for, is made anew behind the caller's back.

    XFetch (Vattani, Chierichetti, Lowenstein: "Optimal probabilistic cache stampede prevention", PVLDB 8(8), 2015): a
    request at age a refreshes when a - cost * beta * ln(u) reaches the end of the life, u uniform in (0, 1]. It is
    drawn once per entry instead of once per request: fills of a key are coalesced within an edge, so what must be
    spread out is the moments of different edges. A list that nobody asks for in that last moment is not refreshed.

    Args:
        life: of the entry.
        cost_s: how long it took to make the list; at least EARLY_COST_MIN_S is assumed.
        uniform: the one draw.
        is_hot: whether a large share of all answers is this list (`edge.limits.hot_keys`).
    """
    beta = HOT_BETA if is_hot else EARLY_BETA
    margin_s = -max(cost_s, EARLY_COST_MIN_S) * beta * math.log(max(uniform(0.0, 1.0), 1e-9))
    return replace(life, refresh_from_s=max(0.5 * life.fresh_until_s, life.fresh_until_s - margin_s))


def jittered_life(lifetime: Lifetime, uniform: Uniform) -> Life:
    """The life that a region asked for, each bound in [0, LIFE_S_MAX], max-age changed by up to JITTER either way."""
    fresh_s = _bounded(lifetime.max_age_s) * uniform(1.0 - JITTER, 1.0 + JITTER)
    revalidate_s = fresh_s + _bounded(lifetime.stale_while_revalidate_s)
    return Life(fresh_s, revalidate_s, max(revalidate_s, fresh_s + _bounded(lifetime.stale_if_error_s)))


def usability(life: Life, *, age_s: float, standing: Standing) -> Usability:
    """What an entry of this life, age and standing is good for. Never gets better with age."""
    if standing is Standing.FORBIDDEN or age_s >= life.error_until_s:
        return Usability.NEVER
    if standing is Standing.OVERTAKEN or age_s >= life.revalidate_until_s:
        return Usability.ON_ERROR
    fresh = age_s < life.fresh_until_s and standing is Standing.CURRENT
    return Usability.FRESH if fresh else Usability.REVALIDATE


def _bounded(seconds: float) -> float:
    # A NaN compares false with everything: max() keeps its first argument then, so it counts as no life at all.
    return min(max(0.0, seconds), LIFE_S_MAX)
