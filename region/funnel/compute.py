"""The thread pool for the numeric part of a request, with a bounded queue."""

import asyncio
import contextvars
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, TypeVar

from infra.plumbing.errors import OverloadedError

P = ParamSpec("P")
R = TypeVar("R")


class ComputePool:
    """Runs blocking computations off the event loop; refuses instead of queueing without end.

    Args:
        threads: computations at once; NumPy and LiteRT release the interpreter for their heavy parts.
        pending_max: computations running and waiting together.
    """

    def __init__(self, *, threads: int, pending_max: int) -> None:
        self.threads = threads
        self._pending_max = pending_max
        self._pending = 0
        self._executor = ThreadPoolExecutor(max_workers=threads, thread_name_prefix="funnel")

    @property
    def pending(self) -> int:
        """Computations running and waiting."""
        return self._pending

    async def run(self, work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """The result of `work`, with the caller's context (its span) in the thread.

        Raises:
            OverloadedError: the queue is full; nothing was started.
        """
        if self._pending >= self._pending_max:
            raise OverloadedError("this node computes as many lists as it can.", fix="Ask another node.")
        loop, context = asyncio.get_running_loop(), contextvars.copy_context()
        answer: asyncio.Future[R] = loop.create_future()

        def compute() -> None:
            settle: Callable[[], None]
            try:
                settle = partial(self._settle, answer, context.run(work, *args, **kwargs))
            except BaseException as error:
                settle = partial(self._fail, answer, error)
            # One message to the loop for each computation: each costs a system call and a turn of the loop.
            _call_soon(loop, settle)

        submitted = self._executor.submit(compute)
        # Counted until the thread is done, not until the caller stops waiting: a cancelled call still holds a thread.
        self._pending += 1
        try:
            return await answer
        except asyncio.CancelledError:
            self._pending -= submitted.cancel()
            raise

    def close(self) -> None:
        """Stop taking work; what runs, ends by itself."""
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _settle(self, answer: "asyncio.Future[R]", result: R) -> None:
        self._pending -= 1
        if not answer.done():
            answer.set_result(result)

    def _fail(self, answer: "asyncio.Future[R]", error: BaseException) -> None:
        self._pending -= 1
        if not answer.done():
            answer.set_exception(error)


def _call_soon(loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
    try:
        loop.call_soon_threadsafe(callback)
    except RuntimeError:
        # The loop closed while a thread was still computing: nobody counts any more.
        return
