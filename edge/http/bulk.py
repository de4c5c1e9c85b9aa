"""Lists for many subjects in one call, for e-mail: a JSON line in, a JSON line out, in order, never held as a whole.

At most `width` lines are worked on at once, and no line is read while that many wait to be written: a caller that does
not read is not read from either. Every line has its own status, so one that is wrong spoils no other.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final

import msgspec
from aiohttp import StreamReader, web

from edge.answering.parts import Parts
from edge.answering.recommender import recommend
from edge.calls import Caller, ListQuery
from edge.http.bodies import BulkLine, BulkResult
from edge.http.rendering import page_of
from infra.contracts.messages import Context, RecommendationType, Surface
from infra.plumbing.errors import AtollError, InvalidInputError, OverloadedError
from infra.plumbing.http.bodies import NOT_JSON, unreadable_body
from infra.plumbing.http.middleware import REQUEST_ID
from infra.plumbing.http.problems import kind_of

NDJSON: Final = "application/x-ndjson"
LINE_BYTES_MAX: Final = 16 << 10
LINES_MAX: Final = 1_000_000
IDLE_S: Final = 15.0
"""How long a caller may take for the next bytes in, or for taking the next bytes out."""
WRITE_TOGETHER_BYTES: Final = 32 << 10


class BulkDesk:
    """Answers bulk calls: `calls_max` at a time, each `width` lines wide.

    Args:
        of_user: the caller that a line's user is, or raises.
        deadline_s: how long one line may take.
    """

    def __init__(self, *, parts: Parts, width: int, calls_max: int, deadline_s: float) -> None:
        self._parts = parts
        self._width = width
        self._calls_max = calls_max
        self._deadline_s = deadline_s
        self._running = 0

    async def answer(self, request: web.Request, of_user: Callable[[str], Caller]) -> web.StreamResponse:
        """Stream the answer.

        Raises:
            OverloadedError: too many bulk calls are under way; nothing was read.
        """
        async with self._admitted():
            # Its head leaves before the frame around every handler could add the id.
            headers = {"Content-Type": NDJSON, "Cache-Control": "no-store", "Atoll-Request-Id": request[REQUEST_ID]}
            response = web.StreamResponse(headers=headers)
            await response.prepare(request)
            await self._stream(request.content, response, of_user)
            return response

    @asynccontextmanager
    async def _admitted(self) -> AsyncIterator[None]:
        if self._running >= self._calls_max:
            raise OverloadedError("too many bulk calls are under way.", fix="Send it again after Retry-After.")
        self._running += 1
        try:
            yield
        finally:
            self._running -= 1

    async def _stream(
        self, content: StreamReader, response: web.StreamResponse, of_user: Callable[[str], Caller]
    ) -> None:
        out = _Writer(response)
        waiting: deque[asyncio.Task[BulkResult]] = deque()
        try:
            index = 0
            async for line in lines_of(content):
                if len(waiting) >= self._width:
                    await out.put(await waiting.popleft())
                waiting.append(asyncio.create_task(self._one(index, line, of_user)))
                index += 1
            while waiting:
                await out.put(await waiting.popleft())
        except (InvalidInputError, TimeoutError) as error:
            while waiting:
                await out.put(await waiting.popleft())
            await out.put(_ended(index, error))
        finally:
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
        await out.flush()

    async def _one(self, index: int, line: bytes, of_user: Callable[[str], Caller]) -> BulkResult:
        try:
            asked = decode_line(line)
            caller, query = of_user(asked.user), query_of(asked)
            deadline_s = self._parts.clock.monotonic_s() + self._deadline_s
            served = await recommend(self._parts, query, caller, deadline_s=deadline_s)
            page = page_of(self._parts, query, caller, served)
        except AtollError as error:
            kind = kind_of(error)
            return BulkResult(index=index, status=kind.status, problem=kind.type, detail=str(error))
        return BulkResult(
            index=index, status=200, items=page.items, release=page.release, step=served.step, degraded=page.degraded
        )


class _Writer:
    """Writes results together, and not for ever to a caller that does not take them."""

    def __init__(self, response: web.StreamResponse) -> None:
        self._response = response
        self._held = bytearray()

    async def put(self, result: BulkResult) -> None:
        """Write a line, now or with the next ones."""
        self._held += msgspec.json.encode(result) + b"\n"
        if len(self._held) >= WRITE_TOGETHER_BYTES:
            await self.flush()

    async def flush(self) -> None:
        """Write what is held; raises TimeoutError when the caller does not take it."""
        if self._held:
            held, self._held = bytes(self._held), bytearray()
            await _within(self._response.write(held))


async def lines_of(content: StreamReader) -> AsyncIterator[bytes]:
    """The lines of a body as they come, without empty ones.

    Raises:
        InvalidInputError: a line is longer than LINE_BYTES_MAX, there are more than LINES_MAX, or the body is not coded
            as its head says.
        TimeoutError: nothing came for IDLE_S.
    """
    held = b""
    count = 0
    while chunk := await _next_bytes(content):
        *lines, held = (held + chunk).split(b"\n")
        for line in [*lines, held] if len(held) > LINE_BYTES_MAX else lines:
            if len(line) > LINE_BYTES_MAX:
                raise InvalidInputError(f"a line has more than {LINE_BYTES_MAX} bytes.")
            if line.strip():
                count += 1
                if count > LINES_MAX:
                    raise InvalidInputError(f"there are more than {LINES_MAX} lines.", fix="Send several calls.")
                yield line
    if held.strip():
        yield held


async def _next_bytes(content: StreamReader) -> bytes:
    try:
        return await _within(content.readany())
    except web.RequestPayloadError:
        raise unreadable_body() from None


def decode_line(line: bytes) -> BulkLine:
    """What one line asks for.

    Raises:
        InvalidInputError: it is not a JSON object of the right fields.
    """
    try:
        return msgspec.json.decode(line, type=BulkLine)
    except NOT_JSON:
        fields = ", ".join(BulkLine.__struct_fields__)
        raise InvalidInputError(
            "the line is not a JSON object that can be used.", fix=f"Known are: {fields}."
        ) from None


def query_of(asked: BulkLine) -> ListQuery:
    """The query of a line; e-mail is the surface of least priority (`edge.routing.concurrency`)."""
    return ListQuery(
        type=RecommendationType.PERSONAL, surface=Surface.EMAIL, n=asked.n, category=asked.category,
        exclude=frozenset(asked.exclude), context=Context(locale=asked.locale, country=asked.country.upper()),
    )  # fmt: skip


def _ended(index: int, error: InvalidInputError | TimeoutError) -> BulkResult:
    """The last line of a call that cannot go on: what came before it stands."""
    if isinstance(error, InvalidInputError):
        kind = kind_of(error)
        return BulkResult(index=index, status=kind.status, problem=kind.type, detail=str(error))
    says = f"nothing came for {IDLE_S:.0f} s. Send the rest again, and read while you send."
    return BulkResult(index=index, status=408, problem="/problems/request-timeout", detail=says)


async def _within(work: Awaitable[bytes] | Awaitable[None]) -> bytes:
    async with asyncio.timeout(IDLE_S):
        return await work or b""
