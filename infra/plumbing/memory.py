"""The interpreter of a process that serves: kept from walking a large cache again and again, and from long turns."""

import gc
import sys

YOUNG_OBJECTS = 20_000
YOUNG_PER_MIDDLE = 20
MIDDLE_PER_FULL = 500
TURN_S = 0.0005
"""How long a thread beside the event loop keeps the interpreter while the loop waits for it; 5 ms are Python's own."""


def settle() -> None:
    """Call once everything that lives as long as the process is there.

    Python's collector looks for reference cycles among all container objects; a full look at a cache of 100,000 items
    takes longer than hundreds of answers, and cached messages hold no cycles. What is there is set apart (`gc.freeze`),
    and looks become rarer: cycles that requests leave behind are still found by the frequent looks at young objects.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS, YOUNG_PER_MIDDLE, MIDDLE_PER_FULL)
    # Kept spans are written by a thread, some hundred at a time: hundreds of answers would wait for each batch.
    sys.setswitchinterval(TURN_S)
