"""The hot path against aiohttp's own parser on the same application: the same answers, or handed over.

Two handlers of one server get the same reads, one with the short cut and one without; what they write must be equal.
The transports are fakes, so that every read is exactly what the test says. Seeds hold the shapes by which requests are
smuggled past a parser that reads another way than the next one (RFC 9112, section 11.2).
"""

import asyncio
import itertools
import re
from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from aiohttp.web_protocol import RequestHandler
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from edge.app import HOT_PATH
from edge.hot.path import HotPath
from edge.hot.protocol import HotHandler, HotServer
from infra.contracts.messages import Lifetime
from infra.plumbing.http.guarding import GuardedHandler
from tests.unit.edge.conftest import World, open_world
from tests.unit.edge.raw import head

SETTLED = -1
TURNS_MAX = 400
"""Turns of the loop after which a handler that is neither parked nor closed is given up."""
POPULAR = "/v1/recommendations/popular?n=2"
PERSONAL = "/v1/recommendations/personal?n=3"
_VARYING = re.compile(rb"(Atoll-Request-Id: [^\r]*|Date: [^\r]*|Age: \d+|ttl=\d+|max-age=\d+|\"request_id\":\"[^\"]*)")


class FakeTransport(asyncio.Transport):
    """Keeps what is written; always open for more."""

    def __init__(self) -> None:
        super().__init__({"peername": ("10.0.0.1", 4000)})
        self.written = bytearray()
        self.closed = False

    def write(self, data: Any) -> None:
        if not self.closed:
            self.written += data

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = True

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return 0


class Connection:
    """One handler with a transport of its own."""

    def __init__(self, handler: RequestHandler) -> None:
        self.handler, self.transport = handler, FakeTransport()

    async def open(self) -> None:
        self.handler.connection_made(self.transport)
        await self.settled()

    async def read(self, data: bytes, turns: int) -> None:
        """Give the handler one read, and `turns` of the loop or all that it can do with it (SETTLED)."""
        if not self.transport.closed:
            self.handler.data_received(data)
            if turns == SETTLED:
                await self.settled()
            for _ in range(turns):
                await asyncio.sleep(0)

    async def settled(self) -> None:
        calm = 0
        for _ in range(TURNS_MAX):
            waiter = self.handler._waiter
            parked = waiter is not None and not waiter.done()
            calm = calm + 1 if parked or self.transport.closed else 0
            if calm > 2:
                return
            await asyncio.sleep(0)

    async def close(self) -> bytes:
        """Hang up; everything that was written."""
        task = self.handler._task_handler
        self.handler.connection_lost(None)
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        return _VARYING.sub(b"-", bytes(self.transport.written))


@dataclass
class Twins:
    """One application, and handlers of both kinds for it."""

    loop: asyncio.AbstractEventLoop
    world: World
    server: HotServer
    hot: HotPath
    token: bytes
    answered: int = 0

    def hot_handler(self) -> RequestHandler:
        return HotHandler(self.hot, self.server, loop=self.loop)

    def plain_handler(self) -> RequestHandler:
        return GuardedHandler(self.server, loop=self.loop)

    async def talk(self, handler: RequestHandler, reads: list[bytes], turns: list[int]) -> bytes:
        line = Connection(handler)
        await line.open()
        for data, after in zip(reads, itertools.chain(turns, itertools.repeat(SETTLED)), strict=False):
            await line.read(data, after)
        await line.settled()
        return await line.close()

    def compare(self, reads: list[bytes], turns: list[int] | None = None) -> None:
        """Both kinds must write the same for the same reads, `turns` of the loop apart (else when all is settled)."""
        before = self.world.metric('atoll_edge_hot_total{outcome="answered"}')
        short_cut = self.loop.run_until_complete(self.talk(self.hot_handler(), reads, turns or []))
        self.answered += int(self.world.metric('atoll_edge_hot_total{outcome="answered"}') - before)
        long_way = self.loop.run_until_complete(self.talk(self.plain_handler(), reads, turns or []))
        assert short_cut == long_way, (reads, turns)


@pytest.fixture(scope="module")
def twins(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Twins]:
    loop = asyncio.new_event_loop()
    stack = AsyncExitStack()
    made = loop.run_until_complete(_make(stack, loop, tmp_path_factory.mktemp("twins")))
    yield made
    loop.run_until_complete(stack.aclose())
    loop.close()
    assert made.answered > 100, "the short cut was hardly ever taken: this compared nothing"


async def _make(stack: AsyncExitStack, loop: asyncio.AbstractEventLoop, directory: Path) -> Twins:
    world = await stack.enter_async_context(open_world(directory))
    world.home.lifetime = Lifetime(max_age_s=3600.0, stale_while_revalidate_s=0.0, stale_if_error_s=0.0)
    client = await world.edge(requests_per_address_s=1e9, burst_per_address=1e9, burst_per_caller=1e9)
    token = world.token()
    for target, headers in ((POPULAR, {}), (PERSONAL, token)):
        for more in ({}, {}, {"If-None-Match": "*"}):
            await (await client.get(target, headers={**headers, **more})).read()
    app = client.server.app  # type: ignore[attr-defined]
    runner = client.server.runner
    assert runner is not None
    server = runner.server
    assert isinstance(server, HotServer)
    return Twins(loop, world, server, app[HOT_PATH], token["Authorization"].encode())


HEADERS = st.sampled_from(
    [
        "Host: edge.test", "Host: twice", "host: edge.test", "Host : edge.test", "Host:edge.test", " Host: folded",
        "Accept: */*", "User-Agent: fuzz", "X-Forwarded-For: 10.1.1.1", "X-Unknown: 1", "Cookie: a=b",
        "Content-Length: 0", "Content-Length: 5", "Content-Length: +5", "Content-Length: 5, 5", "Content-Length: -1",
        "Content-Length: 0x5", "Content-Length : 5", "Content-Length:5", "content-length: 05",
        "Transfer-Encoding: chunked", "Transfer-Encoding: identity", "Transfer-Encoding : chunked",
        "Transfer-Encoding: chunked, chunked", "Transfer-Encoding:\tchunked", "TE: trailers", "Trailer: X",
        "Connection: close", "Connection: keep-alive", "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c",
        "HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA", "Upgrade: websocket", "Expect: 100-continue",
        "If-None-Match: *", 'If-None-Match: "x", W/"y"', "Atoll-Request-Id: abcdefgh1", "Atoll-Deadline-Ms: 100",
        "Atoll-Deadline-Ms: x", "Atoll-Subject: x", "Atoll-Session: session-1", "Atoll-User-Vector: AAAA",
        "Range: bytes=0-1", "Accept: a\x00b", "Accept: \xe9", "Accept: \x7f", "Accept:", "Accept: a\x0bb", ": x",
        "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00", "<token>", "<token>x", "<lower token>",
    ]
)  # fmt: skip
FIRST_LINES = st.sampled_from(
    [
        f"GET {POPULAR} HTTP/1.1", f"GET {POPULAR} HTTP/1.1", f"GET {PERSONAL} HTTP/1.1", f"GET {PERSONAL} HTTP/1.1",
        f"GET http://edge.test{POPULAR} HTTP/1.1", f"GET {POPULAR} HTTP/1.0", f"GET {POPULAR} HTTP/2.0",
        f"GET  {POPULAR} HTTP/1.1", f"GET {POPULAR}  HTTP/1.1", f"get {POPULAR} HTTP/1.1", f"HEAD {POPULAR} HTTP/1.1",
        f"POST {POPULAR} HTTP/1.1", f"GET {POPULAR}#f HTTP/1.1", f"GET {POPULAR} HTTP/1.1 ", f"GET {POPULAR}",
        f"GET {POPULAR}&n=2 HTTP/1.1", f"GET {POPULAR}\t HTTP/1.1", "GET /health/live HTTP/1.1",
        f"\r\nGET {POPULAR} HTTP/1.1",
        "POST /v1/events HTTP/1.1", "OPTIONS * HTTP/1.1", "PRI * HTTP/2.0", "GET /v1/recommendations/ HTTP/1.1",
    ]
)  # fmt: skip
BODIES = st.sampled_from([b"", b"", b"", b"hello", b"0\r\n\r\n", b"5;ext=1\r\nhello\r\n0\r\n\r\n", b"G", b"\n"])
ENDS = st.sampled_from([b"\r\n"] * 12 + [b"\n", b"\r", b"\r\n ", b"\r\n\t"])


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """One request, well formed or not."""
    lines = [draw(FIRST_LINES), *draw(st.lists(HEADERS, max_size=6))]
    if draw(st.booleans()):
        lines.insert(1, "Host: edge.test")
    raw = b"".join(line.encode("latin-1") + draw(ENDS) for line in lines)
    return raw + draw(ENDS) + draw(BODIES)


@st.composite
def talks(draw: st.DrawFn) -> list[bytes]:
    """What several reads of one connection bring: requests, run together, cut apart, bytes changed."""
    stream = [draw(requests()) for _ in range(draw(st.integers(1, 4)))]
    if draw(st.integers(0, 3)) == 0:
        stream = [b"".join(stream)]
    reads: list[bytes] = []
    for data in stream:
        if data and draw(st.integers(0, 4)) == 0:
            cut = draw(st.integers(0, len(data)))
            reads += [data[:cut], data[cut:]]
        elif data and draw(st.integers(0, 4)) == 0:
            at = draw(st.integers(0, len(data) - 1))
            reads.append(data[:at] + draw(st.binary(max_size=2)) + data[at + draw(st.integers(0, 2)) :])
        else:
            reads.append(data)
    return [read for read in reads if read]


def _named(twins: Twins, reads: list[bytes]) -> list[bytes]:
    long_name, short_name = b"Authorization: " + twins.token, b"authorization: " + twins.token
    return [read.replace(b"<lower token>", short_name).replace(b"<token>", long_name) for read in reads]


PLAIN = head(POPULAR)
OWNED = head(PERSONAL, "<token>")
BODY = b"GET /v1/recommendations/popular?n=2 HTTP/1.1\r\nHost: smuggled\r\n\r\n"


@settings(max_examples=250, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(talks())
@example([PLAIN, OWNED, PLAIN])
@example([PLAIN + OWNED, PLAIN])
@example([OWNED[:30], OWNED[30:], OWNED])
@example([head(POPULAR, f"Content-Length: {len(BODY)}", "Transfer-Encoding: chunked") + b"0\r\n\r\n" + BODY])
@example([head(POPULAR, "Content-Length: 5") + b"hello" + PLAIN, PLAIN])
@example([head(POPULAR, "Content-Length: 5") + b"hel", b"lo", PLAIN])
@example([head(POPULAR, "Content-Length: 5", method="POST"), PLAIN[:5], PLAIN[5:], PLAIN])
@example([head(POPULAR, "Content-Length: 0", "Content-Length: 64"), PLAIN])
@example([head(POPULAR, "Transfer-Encoding: chunked") + b"5;a=b\r\nhello\r\n0\r\n\r\n", PLAIN])
@example([head(POPULAR, "Connection: Upgrade", "Upgrade: h2c"), PLAIN])
@example([head(POPULAR, "Accept: a\r\n folded"), PLAIN])
@example([PLAIN.replace(b"\r\n", b"\n"), PLAIN])
@example([head(f"http://edge.test{POPULAR}"), PLAIN])
@example([head(POPULAR, "Host: other"), PLAIN])
@example([head(POPULAR, host=False), PLAIN])
@example([OWNED.replace(b"<token>", b"<token>\r\n<token>"), OWNED])
@example([OWNED.replace(b"<token>", b"<lower token>"), OWNED])
@example([head(POPULAR, "Connection: close"), PLAIN])
@example([head(POPULAR, "Expect: 100-continue", "Content-Length: 5", method="POST"), b"hello", PLAIN])
def test_the_short_cut_says_what_the_long_way_says(twins: Twins, reads: list[bytes]) -> None:
    twins.compare(_named(twins, reads))


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(talks(), st.lists(st.integers(SETTLED, 6), max_size=6))
@example([PLAIN, PLAIN, OWNED, PLAIN], [0, 1, 2])
@example([head(POPULAR, "Connection: close"), PLAIN], [1])
@example([head(POPULAR, "Accept: odd\x0b"), PLAIN[:20], PLAIN[20:], PLAIN], [0, 0, 0])
@example([head(POPULAR, "X-Unknown: 1"), PLAIN, OWNED], [1, 0])
@example([head(POPULAR, "Content-Length: 5", method="POST"), b"hello", PLAIN, PLAIN], [1, 1, 1])
def test_whenever_the_next_read_comes(twins: Twins, reads: list[bytes], turns: list[int]) -> None:
    twins.compare(_named(twins, reads), turns)


class BusyClient(FakeTransport):
    """Asks again the moment that its answer is written, before the handler that wrote it is done."""

    def __init__(self, reads: list[bytes]) -> None:
        super().__init__()
        self.reads = reads
        self.handler: RequestHandler

    def write(self, data: Any) -> None:
        super().write(data)
        if self.reads and self.written.endswith(b"}"):
            asyncio.get_running_loop().call_soon(self.handler.data_received, self.reads.pop(0))


def test_a_busy_connection_comes_back_to_the_short_cut(twins: Twins) -> None:
    async def talk() -> bytes:
        handler = twins.hot_handler()
        line = Connection(handler)
        line.transport = client = BusyClient(_named(twins, [PLAIN, OWNED] * 4))
        client.handler = handler
        await line.open()
        await line.read(head(POPULAR, "X-Unknown: 1"), SETTLED)
        while client.reads:
            await line.settled()
        return await line.close()

    before = twins.world.metric('atoll_edge_hot_total{outcome="answered"}')
    written = twins.loop.run_until_complete(talk())
    assert written.count(b"HTTP/1.1 200 OK") == 9
    assert twins.world.metric('atoll_edge_hot_total{outcome="answered"}') - before == 8


PLAIN_LINES = ["Accept: */*", "If-None-Match: *", "X-Forwarded-For: 10.1.1.1", "<token>"]


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(st.lists(st.sampled_from(PLAIN_LINES), max_size=4))
def test_and_it_is_taken_for_plain_requests(twins: Twins, lines: list[str]) -> None:
    twins.compare(_named(twins, [head(POPULAR, *lines), head(PERSONAL, *lines)]))


ENDINGS = st.lists(
    st.sampled_from(
        [
            "X-Forwarded-For: 10.1.1.1", "X-Forwarded-For: 10.1.1.1, ::1", "X-Forwarded-For: a\x00", "If-None-Match: *",
            'If-None-Match: "x", W/"y"', "X-Forwarded-Proto: https", "x-forwarded-for: 1", "Content-Length: 5",
            "Content-Length: 0", "Transfer-Encoding: chunked", "X-Forwarded-For: a\nContent-Length: 5", "Host: twice",
            "X-Forwarded-For: a\r\n folded", "X-Forwarded-For: a\r\n\r\nGET / HTTP/1.1", "Accept: */*", "Cookie: a=b",
            "Atoll-Request-Id: abcdefgh1", "Atoll-Session: session-1", "Upgrade: h2c", "X-Forwarded-For: ", "<token>",
            "Connection: close",
        ]
    ),
    max_size=3,
)  # fmt: skip
"""What stands behind a head that is known."""

BEGINNINGS = [(POPULAR, ""), (POPULAR, "<token>"), (PERSONAL, "<token>"), (PERSONAL, "")]


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(st.lists(st.tuples(st.sampled_from(BEGINNINGS), ENDINGS), min_size=1, max_size=5))
def test_a_known_head_with_another_end_is_another_request(
    twins: Twins, asked: list[tuple[tuple[str, str], list[str]]]
) -> None:
    reads = [head(target, *([token] if token else []), *ending) for (target, token), ending in asked]
    twins.compare(_named(twins, reads))
