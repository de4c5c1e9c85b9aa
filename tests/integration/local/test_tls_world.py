"""Two regions of real processes that speak TLS only: who gets in, what is recorded, new certificates under load."""

import asyncio
import http.client
import json
import re
import ssl
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from central.release.publish import publish
from central.release.repository import init_repository
from infra.cli.__main__ import main
from infra.local.certificates import certificate_file
from infra.local.children import marked_processes
from infra.local.configuration import RegionConfiguration, WorldConfiguration, with_absolute_directories
from infra.local.residency import scan
from infra.local.securing import Securing
from infra.local.tiers import source_root
from infra.local.world import World, start_world
from infra.plumbing.clock import SystemClock
from infra.plumbing.http.tls import ClientTls, client_context
from infra.plumbing.tokens import issue_token
from tests.support.bundles import make_bundle

pytestmark = pytest.mark.slow
POPULAR = "/v1/recommendations/popular?n=5"
CLOCK = SystemClock()
CALLS_AT_ONCE, PAUSE_S = 4, 0.02


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("world")
    repository, keys = folder / "repository", folder / "keys"
    init_repository(repository=repository, keys=keys, clock=CLOCK)
    bundle = folder / "bundles" / make_bundle(folder / "bundles")
    publish(bundle=bundle, repository=repository, keys=keys, channel="stable", clock=CLOCK)
    regions = (RegionConfiguration(name="here", edges=2), RegionConfiguration(name="there", edges=1))
    configuration = with_absolute_directories(WorldConfiguration(regions=regions, tls=True), source_root())
    # The towers of this release are dummies, which a region refuses: it lives, and its edge answers from the lists.
    with start_world(configuration, folder / "state", repository=repository, wait_for="live") as started:
        until_answered(started)
        yield started
    assert marked_processes(started.layout.mark) == []


def until_answered(world: World) -> None:
    """Edges live before they have the release's lists."""
    end_s = CLOCK.monotonic_s() + 20
    while status_of(world.balancer_url, "GET", POPULAR, shown(world, "operator")) != 200:
        assert CLOCK.monotonic_s() < end_s
        time.sleep(0.1)


def shown(world: World, name: str) -> ssl.SSLContext:
    """What the process `name` would show, calling anybody."""
    tls = Securing(world.layout.tls, enabled=True).connect(name)
    assert tls is not None
    return client_context(tls, clock=CLOCK).context


def status_of(url: str, method: str, path: str, context: ssl.SSLContext, **headers: str) -> int:
    host, _, port = url.partition("://")[2].partition(":")
    connection = http.client.HTTPSConnection(host, int(port), timeout=5, context=context)
    try:
        connection.request(method, path, body="{}" if method == "POST" else None, headers=headers)
        return connection.getresponse().status
    finally:
        connection.close()


def test_a_caller_needs_no_certificate_and_is_answered(world: World) -> None:
    assert world.balancer_url.startswith("https://")
    trusting = world.caller_tls
    assert trusting is not None
    context = client_context(trusting, clock=CLOCK).context
    token = issue_token(world.keys("here"), "7001", clock=CLOCK)
    assert status_of(world.balancer_url, "GET", POPULAR, context) == 200
    assert (
        status_of(
            world.balancer_url, "GET", "/v1/recommendations/personal?n=5", context, Authorization=f"Bearer {token}"
        )
        == 200
    )
    # `/metrics` is not for everybody; to the operator every process shows its own.
    assert status_of(world.balancer_url, "GET", "/metrics", context) == 403
    names = {process.name for process in world.status().processes}
    assert names <= world.metrics().keys()


def test_who_shows_no_certificate_is_refused_and_it_is_written_down(world: World) -> None:
    trusting = client_context(ClientTls(ca_file=str(world.layout.tls / "authority.pem")), clock=CLOCK).context
    for url in (world.edge_urls("here")[0], world.region_url("here"), world.repository_url):
        with pytest.raises((ssl.SSLError, ConnectionError, http.client.HTTPException)):
            status_of(url, "GET", "/health/live", trusting)
    said = [json.loads(line) for line in world.layout.log("here/api").read_text().splitlines()]
    (refused,) = [line for line in said if line.get("why") == "no-certificate"][:1]
    assert refused["message"] == "a connection was refused"
    assert refused["who"] == "a client that showed no certificate"
    assert 'atoll_tls_refused_total{why="no-certificate"} 1.0' in world.metrics()["here/api"]


@pytest.mark.parametrize(
    ("who", "target", "path", "expected"),
    [
        ("here/edge-1", "here/api", "/v1/recommend", {401, 400}),
        ("there/edge-1", "here/api", "/v1/recommend", None),
        ("link/there--here", "here/api", "/v1/recommend", {403}),
        ("link/there--here", "here/api", "/v1/away", {400}),
        ("here/edge-1", "here/api", "/v1/away", {403}),
        ("here/edge-1", "here/api", "/operator/v1/rollback", {403}),
        ("operator", "here/api", "/operator/v1/rollback", {401}),
        ("here/supernode", "here/gateway", "/v1/rounds", {401}),
        ("there/supernode", "here/gateway", "/v1/rounds", {403}),
        ("here/api", "here/edge-1", "/v1/events", None),
    ],
)
def test_a_name_opens_its_own_doors_only(
    world: World, who: str, target: str, path: str, expected: set[int] | None
) -> None:
    """`expected` None: refused in the handshake."""
    url = f"https://{world.configuration.host}:{world.ports[target]}"
    if expected is None:
        with pytest.raises((ssl.SSLError, ConnectionError, http.client.HTTPException)):
            status_of(url, "POST", path, shown(world, who))
    else:
        assert status_of(url, "POST", path, shown(world, who)) in expected


def test_a_process_is_not_taken_for_another(world: World) -> None:
    """Every certificate is good for this address; its name says that it is not the region."""
    securing = Securing(world.layout.tls, enabled=True)
    edge = securing.connect("here/edge-1", "here/api")
    assert edge is not None
    gateway = world.gateway_url("here")
    with pytest.raises(ssl.SSLCertVerificationError, match="none of here/api"):
        status_of(gateway, "GET", "/health/live", client_context(edge, clock=CLOCK).context)


def test_what_crosses_is_recorded_as_it_was_said(world: World) -> None:
    captured = world.captures()
    assert b"GET /metadata/" in captured["here--central"]
    assert b"GET /health/ready" in captured["here--there"]
    report = scan(captured, {"user id": ["7001"]})
    assert report.messages > 4
    assert report.clean, report.leaks


def atoll(world: World, *words: str) -> int:
    """`atoll world ...` as an operator types it."""
    return main(["world", *words, "--state", str(world.state)])


def serial(world: World, name: str) -> bytes:
    return certificate_file(world.layout.tls, name).read_bytes()


@asynccontextmanager
async def load(world: World) -> AsyncIterator[Counter[int]]:
    """Callers who ask again and again; what became of their calls, by status (0: none)."""
    outcomes: Counter[int] = Counter()
    done = asyncio.Event()
    trusting = world.caller_tls
    assert trusting is not None
    following = client_context(trusting, clock=CLOCK)
    context = following.context

    async def calls(number: int) -> None:
        # Half of the callers make a new connection for each call, which is a handshake each.
        connector = aiohttp.TCPConnector(ssl=context, force_close=number % 2 == 0)
        async with aiohttp.ClientSession(connector=connector) as session:
            while not done.is_set():
                await asyncio.sleep(PAUSE_S)
                try:
                    async with session.get(world.balancer_url + POPULAR) as answer:
                        await answer.read()
                        outcomes[answer.status] += 1
                except aiohttp.ClientError:
                    outcomes[0] += 1

    loads = [asyncio.create_task(calls(number)) for number in range(CALLS_AT_ONCE)]
    follow = asyncio.create_task(following.follow())  # who trusts an authority has to hear of the next one
    try:
        yield outcomes
    finally:
        done.set()
        await asyncio.gather(*loads)
        follow.cancel()
        await asyncio.gather(follow, return_exceptions=True)


async def test_new_certificates_under_load_cost_nobody_an_answer(world: World) -> None:
    before = {name: serial(world, name) for name in ("balancer", "here/edge-1")}
    async with load(world) as outcomes:
        first = await asyncio.to_thread(world.rotate_certificates)
        assert await asyncio.to_thread(atoll, world, "rotate-certificates") == 0
    assert first.listeners == len(world.status().processes) + 4
    assert all(serial(world, name) != old for name, old in before.items())
    assert outcomes.keys() == {200}, outcomes
    assert outcomes[200] > 50
    # Its peers took them in too: what was refused is what this module's tests had refused.
    assert 'why="bad-certificate"' not in "".join(world.metrics().values())


async def test_edges_are_restarted_one_by_one_and_forget_the_authority_before_and_cost_nobody_an_answer(
    world: World,
) -> None:
    old = shown(world, "operator")
    before = {process.name: process.pid for process in world.status().processes}
    async with load(world) as outcomes:
        assert await asyncio.to_thread(atoll, world, "rotate-certificates", "--authority") == 0
        assert await asyncio.to_thread(atoll, world, "rotate-certificates", "--drop-old-authority") == 0
        assert await asyncio.to_thread(atoll, world, "restart", "here") == 0
    after = {process.name: process.pid for process in world.status().processes}
    assert [name for name, pid in before.items() if after[name] != pid] == ["here/edge-1", "here/edge-2"]
    assert outcomes.keys() == {200}, outcomes
    assert outcomes[200] > 50
    # What was started anew knows the new authority only.
    with pytest.raises((ssl.SSLError, ConnectionError, http.client.HTTPException)):
        status_of(world.edge_urls("here")[0], "GET", "/health/live", old)
    # Each was taken out at its own word, before a call had to fail for it.
    metrics = world.metrics()["balancer"]
    broken = re.findall(r'atoll_balancer_attempts_total\{edge="here/edge-\d",outcome="broken"\} (\S+)', metrics)
    assert sum(map(float, broken)) == 0.0
    assert 'atoll_balancer_ejections_total{edge="here/edge-1"} ' in metrics


def test_a_region_is_killed_and_comes_back(world: World) -> None:
    killed = world.kill("here")
    assert len(killed) == 6
    world.heal("here")
    world.wait(region="here", wait_for="live")


def test_private_keys_are_their_owners_only(world: World) -> None:
    files: list[Path] = sorted(world.layout.tls.iterdir())
    assert {path.name for path in files} >= {"authority.pem", "authority.key", "here.edge-1.pem", "operator.pem"}
    assert {path.stat().st_mode & 0o077 for path in files if path.name != "authority.pem"} == {0}
