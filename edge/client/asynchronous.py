"""The client for asyncio."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from types import TracebackType
from typing import Any, Self

import httpx

from edge.client.events import BATCH_MAX, EventBuffer
from edge.client.flow import Flow, Send
from edge.client.making import (
    CLOCK,
    RIGHTS_S,
    ack_of,
    bulk_items,
    chunks,
    decoded,
    decoded_any,
    event_now,
    machine,
    page_read,
)
from edge.client.requests import (
    Call,
    Credentials,
    Reply,
    Token,
    bulk_call,
    choices_call,
    erase_call,
    events_call,
    export_call,
    list_call,
    onboarding_call,
    opt_out_call,
    suggest_call,
    why_call,
)
from edge.client.retrying import RETRIES, RetryPolicy
from edge.client.types import Ack, BulkItem, Choices, Event, ListItem, ListPage, Suggestions
from infra.plumbing.clock import Clock


class AsyncAtollClient:
    """Calls an edge, or the balancer before the edges. For one event loop.

    Args:
        base_url: where the edges are.
        token: an end user's token, or a function that gives the current one.
        key: a service's key; `user` is whom it calls for.
        session: an anonymous visitor's session.
        timeout_s: how long a call may take with all its tries.
        retries: how often and how soon a call is sent again.
        http: an httpx client of your own (certificates, proxies); it is not closed here.
    """

    def __init__(
        self,
        base_url: str,
        *,
        token: Token = None,
        key: str | None = None,
        user: str | None = None,
        session: str | None = None,
        timeout_s: float = 1.0,
        retries: RetryPolicy = RETRIES,
        http: httpx.AsyncClient | None = None,
        clock: Clock = CLOCK,
    ) -> None:
        self._base = base_url.rstrip("/")
        self._http = http or httpx.AsyncClient()
        self._owns_http = http is None
        self._clock = clock
        self._machine = machine(
            Credentials(token=token, key=key, user=user, session=session), clock=clock, retries=retries,
            timeout_s=timeout_s,
        )  # fmt: skip

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections that this client opened."""
        if self._owns_http:
            await self._http.aclose()

    async def list(self, kind: str, *, timeout_s: float | None = None, **options: Any) -> ListPage:
        """One page of a list.

        Args:
            kind: `personal`, `similar`, `trending`, `popular`, `session`, ...
            timeout_s: how long it may take; None: the client's own.
            options: the API's query parameters (`n`, `item`, `category`, `price_max`, `attribute`, `exclude`,
                `surface`, `locale`, `explain`, ...), `cursor`, and `vector` (numbers) with `vector_release`.

        Raises:
            ProblemError: the edge refuses the call. NotReachedError: no answer came in time.
        """
        reply, held = await self._run(list_call(kind, **options), timeout_s)
        return page_read(reply, held=held)

    async def pages(self, kind: str, *, timeout_s: float | None = None, **options: Any) -> AsyncIterator[ListPage]:
        """Every page of a list, one call each. No item comes twice. Raises as `list` does."""
        cursor: str | None = None
        while True:
            page = await self.list(kind, timeout_s=timeout_s, cursor=cursor, **options)
            yield page
            cursor = page.next
            if cursor is None:
                return

    async def items(self, kind: str, *, timeout_s: float | None = None, **options: Any) -> AsyncIterator[ListItem]:
        """Every item of a list, page by page as they are wanted. Raises as `list` does."""
        async for page in self.pages(kind, timeout_s=timeout_s, **options):
            for item in page.items:
                yield item

    def event(self, kind: str, item: str, *, value: float | None = None, request_id: str | None = None) -> Event:
        """An event of now. `request_id` names the page that it was on."""
        return event_now(self._clock, kind, item, value=value, request_id=request_id)

    async def send(self, events: Sequence[Event], *, timeout_s: float | None = None) -> Ack:
        """Send up to BATCH_MAX events; returns when they are durable. Raises as `list` does; then send them again."""
        reply, _ = await self._run(events_call(events[:BATCH_MAX]), timeout_s)
        return ack_of(reply)

    def buffer(self, *, batch: int = 50) -> EventBuffer:
        """A buffer for events, to be given to `flush`."""
        return EventBuffer(self.event, batch=batch)

    async def flush(self, buffer: EventBuffer, *, timeout_s: float | None = None) -> int:
        """Send what the buffer holds; returns how many were taken. What is not acknowledged stays in the buffer."""
        taken = 0
        while batch := buffer.batch():
            ack = await self.send(batch, timeout_s=timeout_s)
            buffer.done(batch)
            taken += ack.accepted + ack.duplicates
        return taken

    async def suggest(self, q: str, *, timeout_s: float | None = None, **options: Any) -> Suggestions:
        """What the letters `q` may mean (`n`, `locale`, `country`). Raises as `list` does."""
        reply, _ = await self._run(suggest_call(q, **options), timeout_s)
        return decoded(reply.body, Suggestions)

    async def choices(self, *, timeout_s: float | None = None, **options: Any) -> Choices:
        """What somebody new may choose from (`categories`, `items`, `locale`, `country`). Raises as `list` does."""
        reply, _ = await self._run(choices_call(**options), timeout_s)
        return decoded(reply.body, Choices)

    async def onboard(self, *, timeout_s: float | None = None, **chosen: Sequence[str]) -> Ack:
        """What somebody new chose: `likes`, `dislikes`, `categories`, `brands`, `creators`. Raises as `list` does."""
        reply, _ = await self._run(onboarding_call(**chosen), timeout_s)
        return ack_of(reply)

    async def why(self, item: str, *, locale: str = "en", timeout_s: float | None = None) -> dict[str, Any]:
        """Why the user sees an item: which of their signals put it there, and what they can do. Raises as `list`."""
        reply, _ = await self._run(why_call(item, locale=locale), timeout_s)
        return decoded_any(reply)

    async def export(self, *, timeout_s: float = RIGHTS_S) -> dict[str, Any]:
        """Everything that the user's home region has of them, as it stands there. Raises as `list` does."""
        reply, _ = await self._run(export_call(), timeout_s)
        return decoded_any(reply)

    async def erase(self, *, timeout_s: float = RIGHTS_S) -> dict[str, Any]:
        """Everything of the user is erased; the receipt that their home region signed. Raises as `list` does."""
        reply, _ = await self._run(erase_call(), timeout_s)
        return decoded_any(reply)

    async def opt_out(self, *, opted_out: bool = True, timeout_s: float | None = None) -> None:
        """The user's choice about personal lists; it holds when this returns. Raises as `list` does."""
        await self._run(opt_out_call(opted_out=opted_out), timeout_s)

    async def bulk(self, users: Iterable[str], *, timeout_s: float = 60.0, **options: Any) -> AsyncIterator[BulkItem]:
        """Lists for many users, in their order; `index` counts them. `timeout_s` is for each call of 500 users."""
        first = 0
        for some in chunks(users):
            reply, _ = await self._run(bulk_call(some, **options), timeout_s)
            for item in bulk_items(reply, first=first):
                yield item
            first += len(some)

    async def _run(self, call: Call, timeout_s: float | None) -> tuple[Reply, bool]:
        flow: Flow = self._machine.run(call, timeout_s=timeout_s)
        told: Reply | None = None
        while True:
            try:
                step = flow.send(told)
            except StopIteration as ended:
                result: tuple[Reply, bool] = ended.value
                return result
            told = None
            if isinstance(step, Send):
                told = await self._send(step)
            else:
                await asyncio.sleep(step.seconds)

    async def _send(self, step: Send) -> Reply | None:
        call = step.call
        try:
            answer = await self._http.request(
                call.method, self._base + call.path, params=list(call.params), headers=dict(call.headers),
                content=call.body, timeout=step.timeout_s,
            )  # fmt: skip
        except httpx.HTTPError:
            return None
        return Reply(status=answer.status_code, headers=dict(answer.headers), body=answer.content)
