"""One call from first try to answer, without I/O: a generator that says what to send and how long to wait.

The synchronous and the asynchronous client are two ways of doing what it says, so they cannot differ in what they do.
"""

from collections.abc import Callable, Generator
from dataclasses import dataclass, replace

from edge.client.cache import PageCache
from edge.client.errors import NotReachedError, problem_of
from edge.client.requests import Call, Credentials, Reply
from edge.client.retrying import AGAIN, Retries

DEADLINE_HEADER = "Atoll-Deadline-Ms"
SLACK = 0.9
"""Share of the time that is left which the edge is given: its answer must still travel."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Send:
    """Send `call`, waiting at most `timeout_s`. Answered with a `Reply`, or None when none came."""

    call: Call
    timeout_s: float


@dataclass(frozen=True, slots=True)
class Wait:
    """Wait."""

    seconds: float


Flow = Generator[Send | Wait, Reply | None, tuple[Reply, bool]]
"""Yields what to do, is told what became of it, returns the good answer and whether this client held it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What the calls of one client share."""

    credentials: Credentials
    cache: PageCache
    retries: Retries
    monotonic_s: Callable[[], float]
    timeout_s: float

    def run(self, call: Call, *, timeout_s: float | None = None) -> Flow:
        """The flow of one call.

        Raises:
            ProblemError: the edge refused it, and another try would be refused too, or there is no time for one.
            NotReachedError: no answer came in time.
        """
        deadline_s = self.monotonic_s() + (self.timeout_s if timeout_s is None else timeout_s)
        who = self.credentials.headers()
        key = self.cache.key(call, who)
        held = self.cache.get(key) if call.cacheable else None
        if held is not None and self.monotonic_s() < held.fresh_until_s:
            return held.reply, True
        tags = {"If-None-Match": held.etag} if held is not None else {}
        self.retries.note_first()
        reply = yield from self._tried(replace(call, headers={**call.headers, **who, **tags}), deadline_s)
        if reply.status == 304 and held is not None:
            confirmed = Reply(status=200, headers={**held.reply.headers, **reply.headers}, body=held.reply.body)
            self.cache.put(key, confirmed, now_s=self.monotonic_s())
            return confirmed, True
        if call.cacheable:
            self.cache.put(key, reply, now_s=self.monotonic_s())
        return reply, False

    def _tried(self, call: Call, deadline_s: float) -> Generator[Send | Wait, Reply | None, Reply]:
        tries, renewed = 0, False
        while True:
            left_s = deadline_s - self.monotonic_s()
            if left_s <= 0.0:
                raise NotReachedError("no answer came in time.", fix="Give the call more time, or try again later.")
            timed = {**call.headers, DEADLINE_HEADER: str(max(1, int(1000 * SLACK * left_s)))}
            reply = yield Send(call=replace(call, headers=timed), timeout_s=left_s)
            tries += 1
            if reply is not None and reply.status < 400:
                return reply
            if reply is not None and reply.status == 401 and callable(self.credentials.token) and not renewed:
                renewed = True  # The token ran out between two calls: once, a fresh one is worth a try.
                call = replace(call, headers={**call.headers, **self.credentials.headers()})
                continue
            yield Wait(self._wait_s(reply, tries, deadline_s - self.monotonic_s()))

    def _wait_s(self, reply: Reply | None, tries: int, left_s: float) -> float:
        """How long to wait before the next try; raises what is wrong when there is none."""
        after_s = None if reply is None else _retry_after_s(reply)
        if reply is not None and reply.status not in AGAIN:
            raise problem_of(reply.status, reply.body, retry_after_s=after_s)
        wait_s = self.retries.wait_s(tries, retry_after_s=after_s, left_s=left_s)
        if wait_s is not None:
            return wait_s
        if reply is not None:
            raise problem_of(reply.status, reply.body, retry_after_s=after_s)
        raise NotReachedError(f"no answer came after {tries} tries.", fix="Check the address, or try again later.")


def _retry_after_s(reply: Reply) -> float | None:
    text = reply.headers.get("retry-after", "")
    return float(text) if text.isdigit() and len(text) <= 6 else None
