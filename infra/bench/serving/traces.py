"""A made-up trace of look-ups in an edge's cache: Zipf, scans, drift, and lists of very different sizes. Seeded."""

from dataclasses import dataclass

import numpy as np

ITEMS_PER_LIST = ((30, 0.6), (75, 0.25), (150, 0.1), (300, 0.05))
"""Lists as the edge keeps them (page sizes 10, 25, 50 and 100 with their spare items) and how common they are."""
LIST_BYTES = 1_500
ITEM_BYTES = 520


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """`keys[i]` is asked for at step i; `sizes[key]` is what its list takes, in bytes.

    working_set_bytes: all lists that belong to somebody; lists that only a scan touches are not in it.
    """

    keys: list[int]
    sizes: list[int]
    working_set_bytes: int


def make_trace(*, requests: int, keys: int, exponent: float, scan_share: float, moved_share: float, seed: int) -> Trace:
    """The trace.

    Args:
        requests: ordinary requests; scans come on top.
        keys: lists that belong to somebody.
        exponent: of the Zipf law of their popularity.
        scan_share: length of all scans together over `requests`; every list of a scan is asked for once.
        moved_share: share of the lists that change their place in the order of popularity, over the whole trace.
        seed: of everything.
    """
    rng = np.random.default_rng(seed)
    weights = 1.0 / np.arange(1, keys + 1) ** exponent
    ranks = rng.choice(keys, size=requests, p=weights / weights.sum())
    place = rng.permutation(keys)
    block = max(1, requests // 100)
    asked: list[int] = []
    next_scanned = keys
    for number, start in enumerate(range(0, requests, block)):
        swaps = max(1, round(keys * moved_share / 200))
        one, other = rng.integers(0, keys, swaps), rng.integers(0, keys, swaps)
        place[one], place[other] = place[other].copy(), place[one].copy()
        ordinary = place[ranks[start : start + block]].tolist()
        if number % 10 == 9:
            length = round(10 * block * scan_share)
            at = np.sort(rng.integers(0, len(ordinary) + 1, length))
            ordinary = np.insert(np.array(ordinary), at, np.arange(next_scanned, next_scanned + length)).tolist()
            next_scanned += length
        asked += ordinary
    items, shares = zip(*ITEMS_PER_LIST, strict=True)
    sizes = LIST_BYTES + ITEM_BYTES * rng.choice(items, size=next_scanned, p=shares)
    return Trace(keys=asked, sizes=sizes.tolist(), working_set_bytes=int(sizes[:keys].sum()))
