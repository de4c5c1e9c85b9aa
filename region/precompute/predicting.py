"""Who comes soon: the chance of a visit within the next while, from the moments at which somebody came before. Pure.

Visits are taken for a Poisson process whose rate is the person's own (recent visits weigh more) times the share of
their visits at that time of the day: 1 - exp(-visits a day * share of the day's visits that fall into the window).
"""

import math
from collections.abc import Iterable, Sequence

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
VISIT_GAP_MS = 30 * 60_000
"""Moments that lie closer together are one visit."""
HALF_LIFE_DAYS = 7.0
DAYS_MIN = 3.0
"""Somebody seen for a shorter time is taken to have been around so long: two visits in an hour are no habit."""
SMOOTHING = 0.25
"""Share of a visit that counts for each neighbouring hour: people are not punctual."""
EVEN_VISITS = 0.5
"""Visits spread evenly over the day that are added to everybody's hours: no hour is impossible."""


def visits_of(moments_ms: Iterable[int]) -> list[int]:
    """The moments at which a visit began, oldest first."""
    visits: list[int] = []
    last_ms = -DAY_MS
    for at_ms in sorted(moments_ms):
        if at_ms - last_ms > VISIT_GAP_MS:
            visits.append(at_ms)
        last_ms = at_ms
    return visits


def chance_of_visit(visits_ms: Sequence[int], *, now_ms: int, horizon_ms: int) -> float:
    """The chance that a visit begins within `horizon_ms` from now; 0 for who has never been seen.

    Args:
        visits_ms: when visits began, by the region's clock, oldest first.
        now_ms: now.
        horizon_ms: how far to look.
    """
    past = [at_ms for at_ms in visits_ms if at_ms <= now_ms]
    if not past:
        return 0.0
    hours = [EVEN_VISITS / 24] * 24
    weight_sum = 0.0
    for at_ms in past:
        weight = 0.5 ** ((now_ms - at_ms) / DAY_MS / HALF_LIFE_DAYS)
        weight_sum += weight
        hour = at_ms // HOUR_MS % 24
        hours[hour] += weight * (1 - 2 * SMOOTHING)
        hours[hour - 1] += weight * SMOOTHING
        hours[(hour + 1) % 24] += weight * SMOOTHING
    days = max(DAYS_MIN, (now_ms - past[0]) / DAY_MS)
    # As many days as the weights of a visit every day would add up to.
    effective_days = (1.0 - 0.5 ** (days / HALF_LIFE_DAYS)) / (1.0 - 0.5 ** (1.0 / HALF_LIFE_DAYS))
    return 1.0 - math.exp(-weight_sum / effective_days * _share(hours, now_ms, horizon_ms))


def _share(hours: Sequence[float], now_ms: int, horizon_ms: int) -> float:
    """Of a day's visits those inside the window, each hour's spread evenly over it."""
    total, place, end = sum(hours), now_ms, now_ms + horizon_ms
    inside = 0.0
    while place < end:
        step = min(HOUR_MS - place % HOUR_MS, end - place)
        inside += hours[place // HOUR_MS % 24] * step / HOUR_MS
        place += step
    return inside / total
