"""The garbage collector of a process that serves: kept from walking a large cache again and again."""

import gc

YOUNG_OBJECTS = 20_000
YOUNG_PER_MIDDLE = 20
MIDDLE_PER_FULL = 500


def settle() -> None:
    """Call once everything that lives as long as the process is there.

    Python's collector looks for reference cycles among all container objects; a full look at a cache of 100,000 items
    takes longer than hundreds of answers, and cached messages hold no cycles. What is there is set apart (`gc.freeze`),
    and looks become rarer: cycles that requests leave behind are still found by the frequent looks at young objects.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS, YOUNG_PER_MIDDLE, MIDDLE_PER_FULL)
