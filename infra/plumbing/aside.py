"""Work beside the event loop that gives way: a thread of lower priority than those that answer.

On a machine whose cores are all busy a thread that hashes gigabytes takes as much time as the one that makes a list,
and every hand-over of the list waits for its turn. Only for work that hardly holds the interpreter: a thread that holds
it and is put off by the scheduler puts off everybody.
"""

import asyncio
import contextvars
import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, TypeVar

NICENESS = 10
"""Added to the process's own: a tenth of a busy core."""
P = ParamSpec("P")
T = TypeVar("T")


async def aside(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """`work` in a thread of its own, as by `asyncio.to_thread`, at a lower priority where threads have one (Linux).

    A thread of its own, as nobody but root may raise a priority again. Cancelled, the work goes on to its end.
    """
    pool = ThreadPoolExecutor(1, thread_name_prefix="aside", initializer=_give_way)
    try:
        called = partial(contextvars.copy_context().run, partial(work, *args, **kwargs))
        return await asyncio.get_running_loop().run_in_executor(pool, called)
    finally:
        pool.shutdown(wait=False)


def _give_way() -> None:
    """Niceness is kept per thread on Linux (setpriority(2)); elsewhere this would be the whole process."""
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), os.getpriority(os.PRIO_PROCESS, 0) + NICENESS)
