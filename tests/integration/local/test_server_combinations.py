"""A world with one real server beside embedded parts: told, killed, healed, exported, erased, and gone at the end."""

import asyncio
import contextlib
import json
import socket
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import pytest

from central.release.publish import publish
from central.release.repository import init_repository
from infra.cli.servers import bring_servers
from infra.contracts.events import Event, EventAck, EventBatch, EventType
from infra.contracts.residency import encode_regional
from infra.local.certificates import certificate_file
from infra.local.children import marked_processes
from infra.local.configuration import RegionConfiguration, WorldConfiguration, with_absolute_directories
from infra.local.securing import OPERATOR, Securing
from infra.local.tiers import source_root
from infra.local.world import World, start_world
from infra.plumbing.clock import SystemClock
from infra.plumbing.errors import UnavailableError
from infra.plumbing.http.identity import name_of
from infra.plumbing.http.tls import client_context
from infra.plumbing.progress import SilentProgress
from infra.plumbing.settings import load_settings
from infra.plumbing.tokens import issue_token
from region.api.doors import SERVICE_KEY_HEADER
from region.privacy import commands
from region.settings import RegionSettings
from region.store.opening import open_store
from tests.support.bundles import make_bundle

pytestmark = pytest.mark.slow
USER = "7001"
WITHIN_S = 60.0
T = TypeVar("T")
CLOCK = SystemClock()


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("published")
    bring_servers(SilentProgress())
    init_repository(repository=folder / "repository", keys=folder / "keys", clock=CLOCK)
    bundle = folder / "bundles" / make_bundle(folder / "bundles")
    publish(bundle=bundle, repository=folder / "repository", keys=folder / "keys", channel="stable", clock=CLOCK)
    return folder / "repository"


def shown(world: World, name: str) -> ssl.SSLContext | None:
    """What the process `name` shows, calling anybody; None in a world without TLS."""
    tls = securing(world).connect(name)
    return client_context(tls, clock=CLOCK).context if tls is not None else None


def securing(world: World) -> Securing:
    return Securing(world.layout.tls, enabled=world.caller_tls is not None)


def ask(world: World) -> list[object]:
    """A list, as an application gets it from the balancer: an edge that just started may have no release's yet."""
    token = issue_token(world.keys("here"), USER, clock=CLOCK)
    request = urllib.request.Request(
        f"{world.balancer_url}/v1/recommendations/personal?n=5", headers={"Authorization": f"Bearer {token}"}
    )
    items: list[object] = json.loads(when_available(lambda: send(request, shown(world, OPERATOR))))["items"]
    return items


def send(request: urllib.request.Request, context: ssl.SSLContext | None) -> bytes:
    """What is answered.

    Raises:
        UnavailableError: the answer asks to come again.
    """
    try:
        with urllib.request.urlopen(request, timeout=30, context=context) as answer:
            body: bytes = answer.read()
            return body
    except urllib.error.HTTPError as error:
        with error:
            if error.status != 503 or "Retry-After" not in error.headers:
                raise
            raise UnavailableError(error.reason) from error


def view(world: World, number: int) -> None:
    """An event as an edge hands it on. (The towers of this release are dummies: edges do not count on its region.)"""
    keys = world.keys("here")
    event = Event(event_id=f"event-{number:05d}", type=EventType.VIEW, item=f"new-{number}", at_ms=CLOCK.now_ms())
    batch = EventBatch(events=(event,), subject=keys.pseudonym("user", USER))
    request = urllib.request.Request(
        f"{world.region_url('here')}/v1/events", data=encode_regional(batch),
        headers={SERVICE_KEY_HEADER: keys.service_key, "Content-Type": "application/json"},
    )  # fmt: skip
    ack = msgspec.json.decode(when_available(lambda: send(request, shown(world, "here/edge-1"))), type=EventAck)
    assert (ack.accepted + ack.duplicates, ack.rejected) == (1, ())


def until_items(world: World, wanted: list[str]) -> None:
    """Wait until the store's row of the user holds `wanted`, and nothing twice."""

    async def read() -> list[str]:
        store = open_store(
            load_settings(world.layout.region("here") / "region.json", RegionSettings), read_timeout_s=20
        )
        try:
            row = await store.read(world.keys("here").pseudonym("user", USER))
            return [entry.item for entry in row.history] if row is not None else []
        finally:
            await store.close()

    ends_s = CLOCK.monotonic_s() + WITHIN_S
    while (items := asyncio.run(read())) != wanted:
        assert CLOCK.monotonic_s() < ends_s, items
        time.sleep(0.2)  # the store tells nobody; the deadline above bounds it


def when_available(call: Callable[[], T]) -> T:
    """What `call` gives as soon as the region has found its servers again: it looks for them every two seconds."""
    ends_s = CLOCK.monotonic_s() + WITHIN_S
    while True:
        try:
            return call()
        except UnavailableError:
            if CLOCK.monotonic_s() > ends_s:
                raise
        time.sleep(0.2)  # nobody tells; the deadline above bounds it


def check_server_tls(world: World) -> None:
    """The real server of the world shows its own name, and lets in whom its own authority signed, nobody else."""
    (server,) = [one for one in world.status().processes if one.name in ("here/cassandra", "kafka")]
    host, _, port = server.address.rpartition(":")
    settings = load_settings(world.layout.region("here") / "region.json", RegionSettings)
    own = settings.store_tls or settings.log_tls
    assert own is not None
    member = client_context(own, clock=CLOCK).context
    nobody = ssl.create_default_context(cafile=own.ca_file)
    # Every other process of the world, by a certificate of the world's own authority.
    edge = str(certificate_file(world.layout.tls, "here/edge-1"))
    stranger = ssl.create_default_context(cafile=own.ca_file)
    stranger.load_cert_chain(edge, edge)
    for context in (member, nobody, stranger):
        with (
            socket.create_connection((host, int(port)), timeout=10) as plain,
            context.wrap_socket(plain, server_hostname=host) as connection,
        ):
            assert name_of(connection.getpeercert()) == server.name
            if context is not member:
                # In TLS 1.3 a client hears of its refusal when it reads.
                with contextlib.suppress(ssl.SSLError, ConnectionError):
                    assert connection.recv(1) == b""


@pytest.mark.parametrize(
    "part", [{"store": "cassandra", "tls": True}, {"grid": "hazelcast"}, {"log": "kafka", "tls": True}], ids=str
)
def test_one_real_server_beside_embedded_parts(part: dict[str, Any], repository: Path, tmp_path: Path) -> None:
    configuration = msgspec.structs.replace(
        WorldConfiguration(regions=(RegionConfiguration(name="here", edges=1),)), **part
    )
    with start_world(
        with_absolute_directories(configuration, source_root()), tmp_path / "state", repository=repository,
        wait_for="live",
    ) as world:  # fmt: skip
        assert ask(world)
        if "tls" in part:
            check_server_tls(world)
        view(world, 1)
        until_items(world, ["new-1"])
        world.kill("here")
        world.heal("here")
        world.wait(region="here", wait_for="live")
        assert ask(world)
        view(world, 2)
        until_items(world, ["new-1", "new-2"])
        door = (world.region_url("here"), world.keys("here").operator_key, securing(world).connect(OPERATOR))
        exported = when_available(lambda: commands.export(*door, user=USER))
        assert [one.logged.event.item for one in exported.events] == ["new-1", "new-2"]
        erased = when_available(lambda: commands.erase(*door, user=USER)).receipt
        assert [one.after for one in erased.places if one.place == "store"] == [0]
        until_items(world, [])
        mark = world.layout.mark
    assert marked_processes(mark) == []
