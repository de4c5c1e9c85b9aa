"""Who masks with whom: everybody in small cohorts, a ring of near neighbours in large ones (Bell et al. 2020).

Positions in the roster are drawn at random by the gateway, so neighbours on the ring are random phones.
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
    """Shares that give a secret back: more than five eighths of a closed neighbourhood.

    What that keeps out. A phone's update is in clear for who has both of its secrets, so `t` shares of each. An honest
    neighbour gives a share of one of them, by the one list of survivors that it signs; a colluding one gives both. Of
    `m` in the closed neighbourhood a gateway that tells different phones different lists therefore needs ``2 t - m``
    colluders, which is more than a quarter of `m` here. A bare majority would need a single one. The sum is lost when
    more than three eighths of some neighbourhood stay silent (Bonawitz et al. 2017, section 6.2, for the bound).
    """
    return 5 * (degree(count) + 1) // 8 + 1
