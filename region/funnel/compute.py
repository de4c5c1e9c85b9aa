"""The thread pool for the numeric part of a request, with a bounded queue and one turn at the interpreter.

Threads that compute in Python at the same time do not compute faster: NumPy lets go of the interpreter hundreds of
times in a list, and each time two threads hand it to each other by system calls (4.5 ms of CPU for a list that takes
2.9 alone, and fewer lists a second). So one thread has the turn, and gives it away where it works without the
interpreter for long: while a model runs (`without_turn`).
"""

import asyncio
import contextvars
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Generic, ParamSpec, TypeVar, cast

from prometheus_client import CollectorRegistry

from infra.plumbing.clock import Clock, SystemClock
from infra.plumbing.errors import OverloadedError
from infra.plumbing.tallies import LoopHistogram
from infra.plumbing.telemetry import DURATION_BUCKETS_S

P = ParamSpec("P")
R = TypeVar("R")


class ComputePool:
    """Runs blocking computations off the event loop; refuses instead of queueing without end.

    Args:
        threads: computations that are under way at once: one has the turn, others are `without_turn` or wait for it.
        pending_max: computations running and waiting together.
        clock: times how long a computation waits to begin, and its result for the loop.
        registry: where that is counted.
    """

    def __init__(
        self, *, threads: int, pending_max: int, clock: Clock | None = None, registry: CollectorRegistry | None = None
    ) -> None:
        self.threads = threads
        self._clock = clock or SystemClock()
        waits = LoopHistogram(
            "atoll_region_compute_wait_seconds", "Time until a computation begins, and until the loop has its result.",
            "until", bounds=DURATION_BUCKETS_S, registry=registry or CollectorRegistry(),
        )  # fmt: skip
        self._until_begun, self._until_heard = waits.labels("begun"), waits.labels("heard")
        self._pending_max = pending_max
        self._pending = 0
        self._turn = threading.Lock()
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
        return await self.begin(work, *args, **kwargs)

    def begin(self, work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> "asyncio.Future[R]":
        """`run`, without waiting for it: whoever cancels the future has it not begun if that is still to be had.

        Raises:
            OverloadedError: the queue is full; nothing was started.
        """
        if self._pending >= self._pending_max:
            raise OverloadedError("this node computes as many lists as it can.", fix="Ask another node.")
        loop, context = asyncio.get_running_loop(), contextvars.copy_context()
        answer: asyncio.Future[R] = loop.create_future()
        now_s, asked_s = self._clock.monotonic_s, self._clock.monotonic_s()

        def compute() -> None:
            begun_s, outcome = asked_s, _Outcome[R]()
            try:
                with self._turn:
                    begun_s = now_s()
                    outcome.result = context.run(work, *args, **kwargs)
            except BaseException as error:
                outcome.error = error
            outcome.waited_s, outcome.ended_s = begun_s - asked_s, now_s()
            # One message to the loop for each computation: each costs a system call and a turn of the loop.
            _call_soon(loop, partial(self._settle, answer, outcome))

        submitted = self._executor.submit(compute)
        # Counted until the thread is done, not until the caller stops waiting: a cancelled call still holds a thread.
        self._pending += 1
        answer.add_done_callback(partial(self._left, submitted))
        return answer

    def _left(self, submitted: "Future[None]", answer: "asyncio.Future[R]") -> None:
        if answer.cancelled():
            self._pending -= submitted.cancel()

    @contextmanager
    def without_turn(self) -> Iterator[None]:
        """Inside, another computation has the turn. Only in a computation of this pool, and not twice at a time.

        For what takes long and lets go of the interpreter: coming back means to wait for the turn again.
        """
        self._turn.release()
        try:
            yield
        finally:
            self._turn.acquire()

    def close(self) -> None:
        """Stop taking work; what runs, ends by itself."""
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _settle(self, answer: "asyncio.Future[R]", outcome: "_Outcome[R]") -> None:
        self._pending -= 1
        self._until_begun.observe(outcome.waited_s)
        self._until_heard.observe(self._clock.monotonic_s() - outcome.ended_s)
        if answer.done():
            return
        if outcome.error is not None:
            answer.set_exception(outcome.error)
        else:
            answer.set_result(cast("R", outcome.result))


@dataclass(slots=True)
class _Outcome(Generic[R]):
    """What came of a computation, and when."""

    result: R | None = None
    error: BaseException | None = None
    waited_s: float = 0.0
    ended_s: float = 0.0


class Early(Generic[R]):
    """What a computation tells the loop while it goes on. Made on the loop, told once from a thread."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.value: asyncio.Future[R] = self._loop.create_future()

    @property
    def is_given_up(self) -> bool:
        """Whether nobody waits for it any more."""
        return self.value.cancelled()

    def tell(self, value: R) -> None:
        """From the thread: this is it."""
        _call_soon(self._loop, partial(self._set, value))

    def _set(self, value: R) -> None:
        if not self.value.done():
            self.value.set_result(value)


def _call_soon(loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
    try:
        loop.call_soon_threadsafe(callback)
    except RuntimeError:
        # The loop closed while a thread was still computing: nobody counts any more.
        return
