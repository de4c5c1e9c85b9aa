"""The interpreter of a process that holds releases: its garbage collector, and how long a thread may keep it.

A full collection walks every object that may be part of a cycle: what a release brings (lists, models, rules bound to
its items) makes that milliseconds, in which nothing is answered. What is loaded once is set aside, and collections of
what requests leave behind are made rarer, as nearly all of it is freed by its count.
"""

import contextlib
import gc
import sys
from collections.abc import Iterator

from infra.plumbing.memory import TURN_S

USUAL_TURN_S = 0.005
"""Python's own."""
YOUNG_OBJECTS = 10_000
"""New objects between two collections; Python's own 700 means several collections in every request."""


def settle() -> None:
    """Once, when the process starts: what was imported is set aside."""
    gc.set_threshold(YOUNG_OBJECTS, 10, 10)
    gc.freeze()


@contextlib.contextmanager
def loading() -> Iterator[None]:
    """While a release is loaded nothing is collected, for each collection would walk all of it that is there yet.

    What stands at the end is set aside. It is freed by its counts when nobody holds it, as always. Of two that load at
    once the first to end lets the collector on again, which costs the other its walks and nothing else.

    A list is handed between the loop and threads half a dozen times; beside a thread that loads each of these would
    wait for that thread's whole turn, so turns are short meanwhile. Only meanwhile: at other times short turns make
    the threads of one list interrupt each other (8.3 ms a list at a million items, where it is 6.3 without).
    """
    gc.disable()
    sys.setswitchinterval(TURN_S)
    try:
        yield
    finally:
        sys.setswitchinterval(USUAL_TURN_S)
        gc.freeze()
        gc.enable()
