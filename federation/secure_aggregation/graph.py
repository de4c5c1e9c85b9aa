"""Who masks with whom: everybody in small cohorts, a ring of near neighbours in large ones (Bell et al. 2020).

In large cohorts the positions are drawn by all phones together (`seats`): neighbours on the ring are random phones,
whatever the gateway does.
"""

import functools
import math

import numpy as np

COMPLETE_MAX = 24
"""Up to so many phones everybody is everybody's neighbour."""


def degree(count: int) -> int:
    """Neighbours of each of `count` phones: all others, or the even number at or above 4 log2(count)."""
    if count <= COMPLETE_MAX:
        return count - 1
    return 2 * math.ceil(2.0 * math.log2(count))


@functools.lru_cache(maxsize=1 << 14)
def neighbours(index: int, count: int) -> tuple[int, ...]:
    """Neighbours of the phone at `index` of `count`, ascending; symmetric: u is v's neighbour if v is u's."""
    if count <= COMPLETE_MAX:
        return tuple(other for other in range(count) if other != index)
    half = degree(count) // 2
    return tuple(sorted((index + step) % count for step in range(-half, half + 1) if step))


def threshold(count: int) -> int:
    """Shares that give a secret back: more than five eighths of a closed neighbourhood.

    What that keeps out. A phone's update is in clear for who has both of its secrets, so `t` shares of each. An honest
    neighbour gives a share of one of them, by the one list of survivors that it signs; a colluding one gives both. Of
    `m` in the closed neighbourhood a gateway that tells different phones different lists therefore needs ``2 t - m``
    colluders, which is more than a quarter of `m` here. A bare majority would need a single one. The sum is lost when
    more than three eighths of some neighbourhood stay silent (Bonawitz et al. 2017, section 6.2, for the bound).
    """
    return 5 * (degree(count) + 1) // 8 + 1


def survivors_min(count: int) -> int:
    """Fewest of a closed neighbourhood whose updates must be in the sum: more than two fifths.

    Above the quarter that may be in a gateway's hand, below what is left of over-selected phones: of 3,000 lists drawn
    with 77 % of 333 phones in them every one was long enough (by a bare half, two in 300 were not).
    """
    return 2 * (degree(count) + 1) // 5 + 1


@functools.lru_cache(maxsize=64)
def holds_together(survivor_bits: bytes, count: int) -> bool:
    """Whether every survivor has enough survivors around it, and all are joined by edges of the graph.

    A gateway that could say of all of a phone's neighbours that they dropped out would be given their mask keys, and
    read that phone's update: whatever masks are left must be shared with phones of which nothing is given away but
    what is in the sum. Every phone looks at the whole list, not only around itself: the shares that give a phone away
    lie with others.
    """
    if count <= COMPLETE_MAX:
        return True
    flags = np.unpackbits(np.frombuffer(survivor_bits, dtype=np.uint8))[:count].astype(np.int64)
    half = degree(count) // 2
    before = np.concatenate([[0], np.cumsum(np.concatenate([flags[-half:], flags, flags[:half]]))])
    around = before[2 * half + 1 :] - before[: -2 * half - 1]
    ahead = before[half:] - before[:-half]
    return bool((around[flags > 0] >= survivors_min(count)).all() and (ahead > 0).all())
