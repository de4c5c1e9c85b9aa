"""The hot path: the same bytes as the long way, and nothing that the long way would not do."""

import asyncio
import re
from pathlib import Path

import pytest

from edge.hot.heads import HARMLESS_NAMES, VARIED_NAMES
from edge.hot.path import ROUTE, TRACES_PER_S_MAX
from infra.contracts.messages import Invalidation, Lifetime
from infra.local.balancer.routing import CLIENT_REGION_HEADER
from infra.plumbing.clock import SystemClock
from tests.unit.edge.conftest import Client, World
from tests.unit.edge.raw import Wire, comparable, head, wire
from tests.unit.edge.test_api import tell, until

PERSONAL = "/v1/recommendations/personal?n=3"
POPULAR = "/v1/recommendations/popular?n=2"
ROOT = Path(__file__).parents[3]
LONG_WAY = "X-Long-Way: 1"
"""A header that the hot path does not know: it declines."""


class Answered:
    """How many reads the hot path answered."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._before = 0.0

    def now(self) -> float:
        """Since the last time it was asked."""
        total = self._world.metric('atoll_edge_hot_total{outcome="answered"}')
        new, self._before = total - self._before, total
        return new


async def handed_over(world: World, line: Wire, data: bytes) -> None:
    """Send `data`, and wait until the server has read it and given it to aiohttp."""
    name = 'atoll_edge_hot_total{outcome="handed-over"}'
    before = world.metric(name)
    line.send(data)

    async def read() -> bool:
        return world.metric(name) > before

    await until(read)


async def warmed(client: Client, *targets: str, **headers: str) -> None:
    """Have the lists of `targets` filled, then learned by the hot path, the short form too."""
    for target in targets:
        for more in ({}, {}, {"If-None-Match": "*"}):
            response = await client.get(target, headers={**headers, **more})
            assert response.status in (200, 304)
            await response.read()


def line_of(token: dict[str, str]) -> str:
    return "Authorization: " + token["Authorization"]


def bearer(world: World, user: str = "alice") -> str:
    return line_of(world.token(user))


BALANCED = (
    f"{CLIENT_REGION_HEADER}: us-east", "Via: 1.1 atoll-balancer", f"traceparent: 00-{'5' * 32}-{'7' * 16}-02",
)  # fmt: skip
"""What the balancers of a world put on every call."""


@pytest.fixture
def answered(world: World) -> Answered:
    return Answered(world)


async def test_the_answer_is_the_long_way_s_byte_for_byte(world: World, answered: Answered) -> None:
    client = await world.edge()
    shown = world.token()
    token = line_of(shown)
    await warmed(client, PERSONAL, **shown)
    await warmed(client, POPULAR)
    async with wire(client) as line:
        for target in (PERSONAL, POPULAR):
            for extra in (
                (),
                ("If-None-Match: *",),
                ('If-None-Match: "other"', "Cookie: a=b"),
                ("accept: */*",),
                BALANCED,
            ):
                answered.now()
                long_way = await line.ask(head(target, token, *extra, LONG_WAY))
                assert answered.now() == 0
                short_cut = await line.ask(head(target, token, *extra))
                assert answered.now() == 1, (target, extra)
                assert comparable(short_cut) == comparable(long_way)
        known = await line.ask(head(POPULAR, "Atoll-Request-Id: abcdefgh1"))
        assert b"\r\nAtoll-Request-Id: abcdefgh1\r\n" in known
        fresh = await line.ask(head(POPULAR, "Atoll-Request-Id: <b>"))
        assert re.search(rb"\r\nAtoll-Request-Id: [0-9a-f]{24}\r\n", fresh)
        assert answered.now() == 2


async def test_it_counts_what_the_long_way_counts(world: World) -> None:
    client = await world.edge()
    await warmed(client, POPULAR)
    lines = (
        f'atoll_http_requests_total{{method="GET",route="{ROUTE}",status="200"}}',
        f'atoll_http_requests_total{{method="GET",route="{ROUTE}",status="304"}}',
        f'atoll_http_request_seconds_count{{route="{ROUTE}"}}',
        'atoll_edge_answers_total{step="fresh",type="popular"}',
        "atoll_edge_not_modified_total",
    )
    async with wire(client) as line:
        counts = []
        for extra in ((LONG_WAY,), ()):
            before = [world.metric(name) for name in lines]
            await line.ask(head(POPULAR, *extra))
            await line.ask(head(POPULAR, "If-None-Match: *", *extra))
            counts.append([world.metric(name) - was for name, was in zip(lines, before, strict=True)])
    assert counts[0] == counts[1] == [1, 1, 2, 2, 1]


@pytest.mark.parametrize(
    "lines",
    [
        ("Content-Length: 0",), ("Transfer-Encoding: chunked",), ("Connection: close",), ("Upgrade: h2c",),
        ("Expect: 100-continue",), ("Atoll-Deadline-Ms: soon",), ("Atoll-User-Vector: AAAA",),
        ("Atoll-Session: session-1",), ("Host: twice",), ("If-None-Match: *", "If-None-Match: *"),
        ("Accept : */*",), ("Accept:*/*",), ("Accept:  */*",), ("Accept: */* ",), ("Accept: a\x7fb",), ("Accept:",),
        ("Atoll-Subject: me",), ("traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",),
        ("Unknown: 1",), ("Authorization: Bearer nonsense",), ("Authorization: Basic abc",),
    ],
)  # fmt: skip
async def test_what_is_unusual_is_aiohttp_s(world: World, answered: Answered, lines: tuple[str, ...]) -> None:
    client = await world.edge()
    await warmed(client, POPULAR)
    answered.now()
    async with wire(client) as line:
        line.send(head(POPULAR, *lines))
        line.writer.write_eof()
        await line.rest()
    assert answered.now() == 0


async def test_more_or_less_than_one_request_in_a_read_is_aiohttp_s(world: World, answered: Answered) -> None:
    client = await world.edge()
    await warmed(client, POPULAR)
    answered.now()
    one = head(POPULAR)
    async with wire(client) as line:
        line.send(one + one)
        first, second = await line.answer(), await line.answer()
        assert comparable(first) == comparable(second)
        # The parser was given two heads at once: what it keeps is no longer known on this connection.
        assert comparable(await line.ask(one)) == comparable(first)
    assert answered.now() == 0
    async with wire(client) as line:
        await handed_over(world, line, one[:40])
        assert comparable(await line.ask(one[40:])) == comparable(first)
    assert answered.now() == 0


async def test_a_body_that_comes_in_pieces_is_counted_to_its_end(world: World, answered: Answered) -> None:
    client = await world.edge()
    await warmed(client, POPULAR)
    answered.now()
    body = b'{"events":[]}'
    post = head("/v1/events", f"Content-Length: {len(body)}", bearer(world), method="POST")
    async with wire(client) as line:
        await handed_over(world, line, post)
        await handed_over(world, line, body[:5])
        line.send(body[5:])
        assert (await line.answer()).startswith(b"HTTP/1.1 ")
        # The first may come before the handler is back in its place.
        for _ in range(3):
            assert (await line.ask(head(POPULAR))).startswith(b"HTTP/1.1 200")
        assert answered.now() >= 2
        # What comes behind a body in the same read could be anything: this connection is aiohttp's from now on.
        line.send(post + body + head(POPULAR)[:30])
        assert (await line.answer()).startswith(b"HTTP/1.1 ")
        assert (await line.ask(head(POPULAR)[30:])).startswith(b"HTTP/1.1 200")
        assert (await line.ask(head(POPULAR))).startswith(b"HTTP/1.1 200")
        assert answered.now() == 0


async def test_what_was_heard_since_holds_here_too(world: World, answered: Answered) -> None:
    client = await world.edge()
    shown = world.token()
    token = line_of(shown)
    await warmed(client, PERSONAL, **shown)
    await warmed(client, POPULAR)
    async with wire(client) as line:
        assert b'"p-0"' in await line.ask(head(PERSONAL, token))
        assert answered.now() == 1
        await tell(world, Invalidation(subject=world.subject(), subject_version=0, consumed=("p-0",)))
        assert b'"p-0"' not in await line.ask(head(PERSONAL, token))
        assert answered.now() == 0
        assert b'"p-0"' not in await line.ask(head(PERSONAL, token))
        assert answered.now() == 1
        # Everybody's list under somebody's filters is made for them, and nobody else gets it.
        await tell(world, Invalidation(subject=world.subject(), subject_version=0, consumed=("popular-0",)))
        assert b'"popular-0"' not in await line.ask(head(POPULAR, token))
        assert b'"popular-0"' in await line.ask(head(POPULAR))
        await tell(world, Invalidation(withdrawn=("popular-0",)))
        assert b'"popular-0"' not in await line.ask(head(POPULAR))
        answered.now()
        assert b"\r\nAtoll-Step: fresh\r\n" in await line.ask(head(PERSONAL, token))
        world.home.versions[world.subject()] = 1
        await tell(world, Invalidation(subject=world.subject(), subject_version=1))
        assert b"\r\nAtoll-Step: home\r\n" in await line.ask(head(PERSONAL, token))
        assert answered.now() == 0


async def test_a_token_is_taken_while_it_lives_and_only_for_its_own(world: World, answered: Answered) -> None:
    client = await world.edge()
    await warmed(client, PERSONAL, **world.token())
    async with wire(client) as line:
        assert b" 401 " in await line.ask(head(PERSONAL))
        mine = bearer(world)
        assert b" 401 " in await line.ask(head(PERSONAL, mine[:-4] + "AAAA"))
        world.home.personal_prefix = "bobs"
        bob = await line.ask(head(PERSONAL, bearer(world, "bob")))
        assert b'"bobs-0"' in bob
        old = "Authorization: " + world.token(life_s=-10)["Authorization"]
        answered.now()
        for _ in range(3):
            assert b" 200 " in await line.ask(head(PERSONAL, old))  # Inside the clock's skew: verified every time.
        assert answered.now() == 0


async def test_a_caller_s_limit_is_one_for_both_ways(world: World, answered: Answered) -> None:
    client = await world.edge(requests_per_caller_s=0.001, burst_per_caller=6.0)
    shown = world.token()
    await warmed(client, PERSONAL, **shown)
    async with wire(client) as line:
        token = line_of(shown)
        codes = [(await line.ask(head(PERSONAL, token, *extra)))[9:12] for extra in ((), (), (), (), (LONG_WAY,))]
    assert codes == [b"200", b"200", b"200", b"429", b"429"]
    assert answered.now() == 3


async def test_age_goes_on_and_what_has_run_out_is_made_anew(world: World, answered: Answered) -> None:
    client = await world.edge()
    world.home.lifetime = Lifetime(max_age_s=0.4, stale_while_revalidate_s=0.0, stale_if_error_s=5.0)
    await warmed(client, POPULAR)
    steps = set()
    async with wire(client) as line, asyncio.timeout(10):
        while len(world.home.calls("/v1/recommend")) < 2:
            answer = await line.ask(head(POPULAR))
            steps.update(re.findall(r"Atoll-Step: ([a-z]+)", answer.decode()))
    assert answered.now() >= 1
    assert steps <= {"fresh", "grid", "home"}


async def test_a_client_that_does_not_read_is_waited_for(world: World, answered: Answered) -> None:
    client = await world.edge()
    target = "/v1/recommendations/popular?n=100"
    await warmed(client, target)
    answered.now()
    one = head(target)
    async with wire(client) as line:
        size = len(await line.ask(one))
        line.writer.transport.pause_reading()  # type: ignore[attr-defined]
        sent = 1
        async with asyncio.timeout(20):
            while answered.now() or sent < 3:
                line.send(one)
                sent += 1
                for _ in range(3):
                    await (await client.get("/health/live")).read()
        line.writer.transport.resume_reading()  # type: ignore[attr-defined]
        total = 0
        while total < (sent - 1) * size:
            total += len(await asyncio.wait_for(line.reader.read(1 << 20), 10))
    assert total == (sent - 1) * size


async def test_switched_off_nothing_takes_the_short_cut(world: World, answered: Answered) -> None:
    client = await world.edge(hot_path=False)
    await warmed(client, POPULAR)
    async with wire(client) as line:
        assert b"\r\nAtoll-Step: fresh\r\n" in await line.ask(head(POPULAR))
    assert answered.now() == 0


async def test_ready_answers_go_with_their_entries(world: World) -> None:
    client = await world.edge(cache_bytes_max=60_000)
    for number in range(60):
        for _ in range(2):
            await (await client.get(POPULAR + f"&category=c{number}")).read()
    assert 0 < world.metric("atoll_edge_ready_answers") <= world.metric("atoll_edge_cache_entries")


def test_no_handler_reads_a_header_that_the_short_cut_ignores() -> None:
    rooms = ("edge/http", "edge/answering", "infra/plumbing/http")
    text = "\n".join(path.read_text() for room in rooms for path in (ROOT / room).glob("*.py"))
    read = {name.lower() for name in re.findall(r"headers(?:\.get\(|\[|\.getall\()\s*\"([A-Za-z-]+)\"", text)}
    read |= {name.lower() for name in re.findall(r"\"([A-Za-z-]+)\" (?:not )?in (?:\w+\.)?headers", text)}
    assert "atoll-session" in read
    assert not read & {*HARMLESS_NAMES, *VARIED_NAMES}


async def test_what_is_sampled_beyond_a_bound_a_second_is_counted_and_not_kept(world: World) -> None:
    client = await world.edge(requests_per_address_s=1e9, burst_per_address=1e9)
    await warmed(client, POPULAR)
    answered = Answered(world)
    answered.now()
    began_s = SystemClock().monotonic_s()
    async with wire(client) as line:
        for _ in range(300):
            await line.ask(head(POPULAR))
    seconds = int(SystemClock().monotonic_s() - began_s) + 2
    total, spared = answered.now(), world.metric('atoll_edge_hot_spared_total{what="span"}')
    assert total == 300
    assert total - TRACES_PER_S_MAX * seconds <= spared < total
