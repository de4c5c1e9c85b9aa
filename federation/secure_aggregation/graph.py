"""Who masks with whom: everybody in small cohorts, a ring of near neighbours in large ones (Bell et al. 2020).

Positions in the roster are drawn at random by the gateway, so neighbours on the ring are random phones. With k
neighbours a phone's secrets are lost to an attacker only if a majority of its closed neighbourhood colludes.
"""

import functools
import math

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
    """Shares that give a secret back: a majority of a closed neighbourhood.

    A majority, so that a gateway that tells different phones different things cannot learn both secrets of one phone.
    """
    return (degree(count) + 1) // 2 + 1
