"""The embedded balancer: routes, health, headers as pure functions; then the whole of it against fake edges."""

import asyncio
import contextlib
import math
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from infra.local.balancer import patience as patience_module
from infra.local.balancer.edges import EdgeBoard
from infra.local.balancer.headers import add_via, body_length, end_to_end
from infra.local.balancer.health import EdgeHealth, Outcome, after_call, after_probe, warmth
from infra.local.balancer.patience import Patience
from infra.local.balancer.process import build_app, run_balancer
from infra.local.balancer.proxy import new_session
from infra.local.balancer.routing import affinity, attempt_order, build_routes, client_region
from infra.local.balancer.settings import AddressRange, BalancedRegion, BalancerSettings, EdgeAddress
from infra.local.configuration import PortsConfiguration
from infra.local.ports import assign_ports, is_port_free
from infra.plumbing.clock import SystemClock
from infra.plumbing.errors import SettingsError
from infra.plumbing.telemetry import Telemetry, TelemetrySettings, start_telemetry
from tests.unit.local.waiting import until

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
NAMES = ("east-1", "east-2", "west-1")


def region(name: str, *edges: str, nearest: tuple[str, ...] = ()) -> BalancedRegion:
    return BalancedRegion(
        name=name, edges=tuple(EdgeAddress(name=edge, host="127.0.0.1", port=1) for edge in edges), nearest=nearest
    )


PLAIN = BalancerSettings(
    port=1,
    regions=(region("east", "east-1", "east-2", nearest=("west",)), region("west", "west-1", nearest=("east",))),
    addresses=tuple(AddressRange(network=network, region="west") for network in ("10.1.0.0/16", "2001:db8::/32")),
)


@pytest.mark.parametrize(
    ("named", "address", "expected"),
    [
        ("west", "127.0.0.1", "west"),
        ("WEST", "127.0.0.1", "east"),
        ("nowhere", "10.1.2.3", "west"),
        (None, "10.1.2.3", "west"),
        (None, "2001:db8::1", "west"),
        (None, "10.2.2.3", "east"),
        (None, "not an address", "east"),
        (None, None, "east"),
    ],
)
def test_a_client_belongs_to_the_region_it_names_or_to_its_network(
    named: str | None, address: str | None, expected: str
) -> None:
    assert client_region(build_routes(PLAIN), named, address) == expected


def order_of(
    call: str, *, out: frozenset[str] = frozenset(), loads: dict[str, int] | None = None, region: str = "east"
) -> list[str]:
    held = loads or {}
    edges = attempt_order(
        build_routes(PLAIN), region, call, is_up=lambda name: name not in out, load=lambda name: held.get(name, 0),
        load_factor=PLAIN.load_factor,
    )  # fmt: skip
    return [edge.name for edge in edges]


def call_of(edge: str) -> str:
    """A call that hashes to `edge`."""
    return next(call for call in map(str, range(100)) if order_of(call)[0] == edge)


def test_a_call_keeps_its_edge_and_dark_ones_come_last() -> None:
    call = call_of("east-1")
    assert order_of(call) == ["east-1", "east-2", "west-1"]
    assert order_of(call, loads={"east-1": 9}) == ["east-2", "east-1", "west-1"]
    assert order_of(call, out=frozenset({"east-1"})) == ["east-2", "west-1", "east-1"]
    assert order_of(call, out=frozenset({"east-1", "east-2"})) == ["west-1", "east-1", "east-2"]


def test_an_edge_that_goes_moves_its_own_calls_only() -> None:
    many = BalancerSettings(port=1, regions=(region("r", *(f"edge-{number}" for number in range(5))),))

    def first(call: str, out: str) -> str:
        routes, settings = build_routes(many), many
        return attempt_order(
            routes, "r", call, is_up=lambda name: name != out, load=lambda _: 0, load_factor=settings.load_factor
        )[0].name

    calls = [f"call-{number}" for number in range(500)]
    before = {call: first(call, "") for call in calls}
    counts = Counter(before.values())
    assert min(counts.values()) > 60, counts
    assert all(first(call, "edge-3") == edge for call, edge in before.items() if edge != "edge-3")


@given(st.lists(st.text(min_size=1, max_size=3), min_size=1, max_size=200))
def test_no_edge_carries_more_than_its_bounded_share(calls: list[str]) -> None:
    """Calls that never end: the worst case for load."""
    loads = {"east-1": 0, "east-2": 0}
    for number, call in enumerate(calls):
        loads[order_of(call, loads=loads)[0]] += 1
        assert max(loads.values()) <= math.ceil(PLAIN.load_factor * (number + 1) / 2)


def test_an_edge_that_came_back_gets_its_calls_bit_by_bit_and_the_same_ones_first() -> None:
    assert warmth(back_s=None, slow_start_s=3.0) == warmth(back_s=3.0, slow_start_s=3.0) == 1.0
    assert warmth(back_s=1.5, slow_start_s=3.0) == 0.5
    assert warmth(back_s=0.0, slow_start_s=3.0) == 0.1
    assert warmth(back_s=0.0, slow_start_s=0.0) == 1.0

    def own(share: float) -> set[str]:
        return {
            call
            for call in map(str, range(2000))
            if attempt_order(
                build_routes(PLAIN), "east", call, is_up=lambda _: True, load=lambda _: 0, load_factor=1.25,
                warmth=lambda name: share if name == "east-1" else 1.0,
            )[0].name == "east-1"
        }  # fmt: skip

    whole = own(1.0)
    before = set[str]()
    for share in (0.1, 0.3, 0.6):
        now = own(share)
        assert before < now < whole
        assert abs(len(now) / len(whole) - share) < 0.08
        before = now
    # A cold edge is better than one of another region.
    order = attempt_order(
        build_routes(PLAIN), "east", "x", is_up=lambda name: name != "east-2", load=lambda _: 0, load_factor=1.25,
        warmth=lambda _: 0.0,
    )  # fmt: skip
    assert [edge.name for edge in order] == ["east-1", "west-1", "east-2"]


def test_what_belongs_to_somebody_goes_by_who_and_the_rest_by_what() -> None:
    mine = {"Authorization": "Bearer x", "Atoll-Session": "s"}
    assert affinity("/v1/recommendations/personal?n=3", mine) == "Bearer x"
    assert affinity("/v1/recommendations/session", {"Atoll-Session": "s"}) == "s"
    assert affinity("/v1/events", mine) == "Bearer x"
    assert affinity("/v1/recommendations/popular?n=3", mine) == "/v1/recommendations/popular?n=3"
    assert affinity("/v1/recommendations/personal", {}) == "/v1/recommendations/personal"


@given(st.lists(st.booleans(), max_size=400))
def test_few_calls_are_given_up_early_however_slow_the_edges_are(calls: list[bool]) -> None:
    patience, given_up = Patience(), 0
    for silent in calls:
        patience.note_call()
        if patience.may_give_up_early() and silent:
            patience.note_given_up()
            given_up += 1
    assert given_up <= patience_module.SHARE * len(calls) + patience_module.RESERVE + 1e-6


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (BalancerSettings(port=1, regions=(region("a", "x"), region("a", "y"))), "listed twice"),
        (BalancerSettings(port=1, regions=(region("a"),)), "no edges"),
        (BalancerSettings(port=1, regions=(region("a", "x", nearest=("b",)),)), "unknown region 'b'"),
        (
            BalancerSettings(port=1, regions=(region("a", "x"),), addresses=(AddressRange(network="x", region="a"),)),
            "not a network",
        ),
        (
            BalancerSettings(
                port=1, regions=(region("a", "x"),), addresses=(AddressRange(network="::/0", region="b"),)
            ),
            "unknown region 'b'",
        ),
    ],
)
def test_settings_that_contradict_themselves_are_told(settings: BalancerSettings, words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        build_routes(settings)


def test_a_broken_call_takes_an_edge_out_and_only_a_probe_brings_it_back() -> None:
    health = after_call(EdgeHealth(), Outcome.BROKEN)
    assert (health.up, health.ejections) == (False, 1)
    assert after_call(health, Outcome.ANSWERED) == health
    assert after_probe(health, Outcome.ANSWERED).up
    slow = after_call(EdgeHealth(), Outcome.SILENT)
    assert slow.up
    assert after_call(slow, Outcome.ANSWERED) == EdgeHealth()
    assert not after_probe(slow, Outcome.UNREADY).up
    # What an edge says of itself is believed at once: it drains, and its callers are moved while it still answers.
    assert not after_probe(EdgeHealth(), Outcome.UNREADY).up
    assert after_call(EdgeHealth(), Outcome.UNREADY).up
    assert after_probe(slow, Outcome.ANSWERED).failures == 0


@given(st.lists(st.tuples(st.booleans(), st.sampled_from(Outcome)), max_size=30))
def test_an_edge_is_up_after_every_good_probe_and_ejections_only_grow(steps: list[tuple[bool, Outcome]]) -> None:
    health = EdgeHealth()
    for is_probe, outcome in steps:
        before = health
        health = (after_probe if is_probe else after_call)(health, outcome)
        assert health.ejections >= before.ejections
        assert health.ejections - before.ejections == int(before.up and not health.up)
        if is_probe and outcome is Outcome.ANSWERED:
            assert health.up


def test_headers_of_the_connection_stay_there() -> None:
    headers = end_to_end(
        [("Connection", "close, X-Hop"), ("X-Hop", "1"), ("TE", "x"), ("Accept", "a"), ("Accept", "b"), ("Host", "h")],
        also=frozenset({"host"}),
    )
    assert list(headers.items()) == [("Accept", "a"), ("Accept", "b")]
    headers["Via"] = "1.1 outer"
    add_via(headers)
    assert headers["Via"] == "1.1 outer, 1.1 atoll-balancer"
    assert (body_length({"Content-Length": "12"}), body_length({"Content-Length": "-1"}), body_length({})) == (
        12, None, None,
    )  # fmt: skip


@dataclass
class FakeEdge:
    """An edge whose manners a test sets; `stop` is as sudden as SIGKILL."""

    name: str
    port: int
    handler: Handler | None = None
    calls: list[dict[str, str]] = field(default_factory=list)
    runner: web.AppRunner | None = None
    ready: int = 200

    async def start(self) -> None:
        app = web.Application(client_max_size=8 << 20)
        app.router.add_get("/health/ready", self._ready)
        app.router.add_route("*", "/{path:.*}", self._answer)
        self.runner = web.AppRunner(app, shutdown_timeout=0)
        await self.runner.setup()
        await web.TCPSite(self.runner, "127.0.0.1", self.port).start()

    async def stop(self) -> None:
        if self.runner and self.runner.server:
            for connection in list(self.runner.server.connections):
                if connection.transport:
                    connection.transport.abort()
            await self.runner.cleanup()
            self.runner = None

    async def _ready(self, _request: web.Request) -> web.Response:
        return web.Response(status=self.ready)

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        self.calls.append({"method": request.method, "path": request.raw_path, **request.headers})
        if self.handler:
            return await self.handler(request)
        body = await request.read()
        return web.Response(text=f"{self.name} {len(body)}", headers={"X-Edge": self.name, "Keep-Alive": "x"})


@dataclass
class World:
    url: str
    edges: dict[str, FakeEdge]
    board: EdgeBoard
    client: aiohttp.ClientSession
    telemetry: Telemetry

    async def get(self, path: str = "/x", **headers: str) -> tuple[int, str]:
        async with self.client.get(self.url + path, headers=headers) as answer:
            return answer.status, await answer.text()


@asynccontextmanager
async def balanced(tmp_path: Path, **changes: object) -> AsyncIterator[World]:
    ports = assign_ports(
        ["balancer", *NAMES], configured=PortsConfiguration(), previous={}, seed=str(tmp_path),
        is_free=lambda port: is_port_free("127.0.0.1", port),
    )  # fmt: skip
    edges = {name: FakeEdge(name, ports[name]) for name in NAMES}

    def addresses(*names: str) -> tuple[EdgeAddress, ...]:
        return tuple(EdgeAddress(name=name, host="127.0.0.1", port=ports[name]) for name in names)

    fields: dict[str, object] = {"answer_timeout_s": 5.0, "probe_interval_s": 0.05, **changes}
    settings = BalancerSettings(
        port=ports["balancer"],
        regions=(
            BalancedRegion(name="east", edges=addresses("east-1", "east-2"), nearest=("west",)),
            BalancedRegion(name="west", edges=addresses("west-1"), nearest=("east",)),
        ),
        **fields,  # type: ignore[arg-type]
    )
    telemetry = start_telemetry(
        service="balancer", region="", node="b",
        settings=TelemetrySettings(
            log_file=str(tmp_path / "log"), spans_file=str(tmp_path / "spans"), sample_ratio=1.0
        ),
    )  # fmt: skip
    async with contextlib.AsyncExitStack() as stack:
        for edge in edges.values():
            await edge.start()
            stack.push_async_callback(edge.stop)
        session = await stack.enter_async_context(new_session(settings, addresses(*NAMES)))
        app, board = build_app(settings=settings, session=session, telemetry=telemetry, clock=SystemClock())
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        await web.TCPSite(runner, "127.0.0.1", ports["balancer"]).start()
        client = await stack.enter_async_context(aiohttp.ClientSession())
        yield World(f"http://127.0.0.1:{ports['balancer']}", edges, board, client, telemetry)
    telemetry.close()


async def test_calls_reach_the_region_with_what_they_need(tmp_path: Path) -> None:
    async with balanced(tmp_path) as world:
        status, text = await world.get(
            "/a%2Fb?q=%20x", **{"Atoll-Client-Region": "west", "Connection": "keep-alive, X-Hop", "X-Hop": "1"}
        )
        assert (status, text) == (200, "west-1 0")
        seen = world.edges["west-1"].calls[0]
        assert seen["path"] == "/a%2Fb?q=%20x"
        assert seen["Atoll-Client-Region"] == "west"
        assert seen["Via"] == "1.1 atoll-balancer"
        assert seen["Host"] == world.url.removeprefix("http://")  # As the caller wrote it: signatures cover it.
        assert seen["traceparent"].startswith("00-")
        assert "X-Hop" not in seen
        async with world.client.get(world.url + "/x", headers={"Atoll-Request-Id": "my-request-1"}) as answer:
            assert answer.headers["Atoll-Request-Id"] == "my-request-1"
            assert answer.headers["Via"] == "1.1 atoll-balancer"
            assert answer.headers["X-Edge"].startswith("east")
            assert "Keep-Alive" not in answer.headers
        assert {(await world.get(f"/x?{n}"))[1] for n in range(12)} == {"east-1 0", "east-2 0"}
        assert len({(await world.get("/y"))[1] for _ in range(6)}) == 1
        async with world.client.head(world.url + "/x") as answer:
            assert answer.status == 200
    assert "SpanKind.SERVER" in (tmp_path / "spans").read_text()


async def test_an_edge_killed_under_load_fails_nobody(tmp_path: Path) -> None:
    async with balanced(tmp_path) as world:

        async def slowly(request: web.Request) -> web.Response:
            await asyncio.sleep(0.002)
            return web.Response(text=world.edges["east-1"].name)

        world.edges["east-1"].handler = slowly
        answers: list[int] = []

        async def load(count: int) -> None:
            for number in range(count):
                answers.append((await world.get(f"/x?{number}"))[0])
                if len(answers) == 150:
                    await world.edges["east-1"].stop()

        await asyncio.gather(*(load(40) for _ in range(10)))
        assert answers == [200] * 400
        assert not world.board.is_up("east-1")
        # The whole region goes: its neighbour answers.
        await world.edges["east-2"].stop()
        assert [await world.get() for _ in range(5)] == [(200, "west-1 0")] * 5
        assert "atoll_balancer_away_total" in (await world.get("/metrics"))[1]
        await world.edges["west-1"].stop()
        status, text = await world.get()
        assert status == 503
        assert "no edge answered" in text


async def test_an_answer_that_breaks_in_the_middle_is_asked_for_again(tmp_path: Path) -> None:
    async def breaks(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "100"})
        await response.prepare(request)
        await response.write(b"half")
        assert request.transport
        request.transport.abort()
        return response

    async with balanced(tmp_path) as world:
        world.edges["east-1"].handler = world.edges["east-2"].handler = breaks
        assert await world.get() == (200, "west-1 0")


async def test_a_silent_edge_is_given_up_and_an_unready_one_is_passed_by(tmp_path: Path) -> None:
    leave = asyncio.Event()

    async def silent(_request: web.Request) -> web.Response:
        await leave.wait()
        return web.Response()

    async def unready(_request: web.Request) -> web.Response:
        return web.Response(status=503, text="draining")

    async with balanced(tmp_path, answer_timeout_s=0.2) as world:
        world.edges["east-1"].handler = silent
        world.edges["east-2"].handler = unready
        assert await world.get() == (200, "west-1 0")
        world.edges["west-1"].handler = world.edges["east-1"].handler = unready
        assert await world.get() == (503, "draining")
        leave.set()


async def test_events_may_be_repeated_and_other_posts_only_when_nothing_was_sent(tmp_path: Path) -> None:
    async def breaks(request: web.Request) -> web.StreamResponse:
        await request.read()
        assert request.transport
        request.transport.abort()
        return web.Response()

    async with balanced(tmp_path) as world:
        world.edges["east-1"].handler = world.edges["east-2"].handler = breaks
        async with world.client.post(world.url + "/v1/events", data=b"12345") as answer:
            assert (answer.status, await answer.text()) == (200, "west-1 5")
        for edge in ("east-1", "east-2"):
            world.board.note_probe(edge, Outcome.ANSWERED)
        async with world.client.post(world.url + "/other", data=b"12345") as answer:
            assert answer.status == 503
        await world.edges["east-1"].stop()
        await world.edges["east-2"].stop()
        async with world.client.post(world.url + "/other", data=b"12345") as answer:
            assert (answer.status, await answer.text()) == (200, "west-1 5")


async def test_bodies_and_calls_are_bounded(tmp_path: Path) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield b"x" * 1000

    async with balanced(tmp_path, request_bytes_max=10_000, calls_in_flight_max=1) as world:
        async with world.client.post(world.url + "/v1/events", data=b"x" * 10_001) as answer:
            assert answer.status == 413
            assert "at most 10000 bytes" in await answer.text()
        async with world.client.post(world.url + "/v1/events", data=chunks()) as answer:
            assert answer.status == 413

        entered, leave = asyncio.Event(), asyncio.Event()

        async def wait(_request: web.Request) -> web.Response:
            entered.set()
            await leave.wait()
            return web.Response(text="late")

        for edge in world.edges.values():
            edge.handler = wait
        first = asyncio.create_task(world.get())
        await entered.wait()
        status, text = await world.get()
        assert (status, "as many calls" in text) == (503, True)
        leave.set()
        assert await first == (200, "late")


async def test_large_answers_are_streamed_and_a_break_is_seen(tmp_path: Path) -> None:
    cut = asyncio.Event()

    async def large(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for _ in range(64):
            await response.write(b"y" * 65536)
        if cut.is_set():
            assert request.transport
            request.transport.abort()
        return response

    async with balanced(tmp_path, answer_held_bytes_max=1000) as world:
        for edge in world.edges.values():
            edge.handler = large
        status, text = await world.get()
        assert (status, len(text)) == (200, 64 * 65536)
        cut.set()
        with pytest.raises(aiohttp.ClientError):
            await world.get()


async def test_probes_take_edges_out_and_bring_them_back(tmp_path: Path) -> None:
    async with balanced(tmp_path, probe_timeout_s=0.2) as world, asyncio.timeout(20):
        session = aiohttp.ClientSession()
        task = asyncio.create_task(world.board.probe_for_ever(session))
        world.edges["east-1"].ready = 503
        await world.edges["west-1"].stop()
        await until(lambda: not world.board.is_up("east-1") and not world.board.is_up("west-1"))
        assert (await world.get("/health/ready"))[0] == 200
        world.edges["east-1"].ready = 200
        await world.edges["west-1"].start()
        await until(lambda: world.board.is_up("east-1") and world.board.is_up("west-1"))
        async with world.client.get(world.url + "/health") as answer:
            edges = (await answer.json())["edges"]
        assert edges["east-1"] == {"up": True, "ejections": 1, "in_flight": 0}
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        await session.close()
        for name in NAMES:
            world.board.note_call(name, Outcome.BROKEN)
        assert "an edge that answers" in (await world.get("/health/ready"))[1]


async def test_a_target_that_is_no_path_is_refused(tmp_path: Path) -> None:
    async with balanced(tmp_path) as world:
        host, port = world.url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"OPTIONS * HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        status = (await reader.readline()).split()[1]
        writer.close()
        assert status in (b"400", b"404")


async def test_the_process_serves_until_it_is_stopped(tmp_path: Path) -> None:
    async with balanced(tmp_path) as world:
        ports = assign_ports(
            ["other"], configured=PortsConfiguration(), previous={}, seed=str(tmp_path) + "x",
            is_free=lambda port: is_port_free("127.0.0.1", port),
        )  # fmt: skip
        edge = EdgeAddress(name="e", host="127.0.0.1", port=world.edges["east-1"].port)
        settings = BalancerSettings(port=ports["other"], regions=(BalancedRegion(name="east", edges=(edge,)),))
        telemetry = start_telemetry(
            service="b", region="", node="b", settings=TelemetrySettings(log_file=str(tmp_path / "b"))
        )
        stop = asyncio.Event()
        task = asyncio.create_task(run_balancer(settings, stop=stop, telemetry=telemetry, clock=SystemClock()))
        url = f"http://127.0.0.1:{ports['other']}/x"

        async def answers() -> bool:
            try:
                async with world.client.get(url) as answer:
                    return answer.status == 200
            except aiohttp.ClientError:
                return False

        await until(answers)
        stop.set()
        await task
        telemetry.close()
