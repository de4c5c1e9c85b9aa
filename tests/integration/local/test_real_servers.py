"""A region on Cassandra, Hazelcast and Kafka: seeded, fed, its store killed with -9, and whole again."""

import asyncio
import json
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path

import msgspec
import pytest

from central.release.publish import publish
from central.release.repository import init_repository
from infra.cli.servers import bring_servers
from infra.contracts.events import Event, EventAck, EventBatch, EventType
from infra.contracts.residency import encode_regional
from infra.local.children import marked_processes
from infra.local.configuration import RegionConfiguration, WorldConfiguration, with_absolute_directories
from infra.local.records import ProcessState
from infra.local.tiers import source_root
from infra.local.world import World, start_world
from infra.plumbing.clock import SystemClock
from infra.plumbing.progress import SilentProgress
from infra.plumbing.settings import load_settings
from infra.plumbing.tokens import issue_token
from region.api.doors import SERVICE_KEY_HEADER
from region.settings import RegionSettings
from region.store.opening import open_store
from region.store.port import UserRow
from tests.support.bundles import make_bundle
from tests.support.worlds import until_edges_ready

pytestmark = pytest.mark.slow
USER = "7001"
APPLIED_WITHIN_S = 90.0
TAKEN_WITHIN_S = 30.0


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder, clock = tmp_path_factory.mktemp("real"), SystemClock()
    bring_servers(SilentProgress())
    repository, keys = folder / "repository", folder / "keys"
    init_repository(repository=repository, keys=keys, clock=clock)
    bundle = folder / "bundles" / make_bundle(folder / "bundles")
    publish(bundle=bundle, repository=repository, keys=keys, channel="stable", clock=clock)
    dataset = folder / "dataset"
    dataset.mkdir()
    (dataset / "dataset.json").write_text("{}")
    (dataset / "users.csv").write_text(f"user_id,region\n{USER},here\n")
    (dataset / "interactions.csv").write_text(
        "user_id,item_id,timestamp,event_type,value\n"
        + "".join(f"{USER},item-{item},{clock.now_ms() // 1000 - 99},rating,5\n" for item in range(3))
    )
    configuration = WorldConfiguration(
        regions=(RegionConfiguration(name="here", edges=1),), store="cassandra", grid="hazelcast", log="kafka"
    )
    with start_world(
        with_absolute_directories(configuration, source_root()), folder / "state", repository=repository,
        dataset=dataset, wait_for="live",
    ) as started:  # fmt: skip
        until_edges_ready(started)
        yield started
    assert marked_processes(started.layout.mark) == []


def ask(world: World) -> dict[str, object]:
    token = issue_token(world.keys("here"), USER, clock=SystemClock())
    request = urllib.request.Request(
        f"{world.balancer_url}/v1/recommendations/personal?n=5", headers={"Authorization": f"Bearer {token}"}
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        content: dict[str, object] = json.loads(answer.read())
        return content


def view(world: World, number: int) -> EventAck:
    """An event as an edge hands it on. (The towers of this release are dummies: edges do not count on its region.)"""
    keys = world.keys("here")
    event = Event(
        event_id=f"event-{number:05d}", type=EventType.VIEW, item=f"new-{number}", at_ms=SystemClock().now_ms()
    )
    batch = EventBatch(events=(event,), subject=keys.pseudonym("user", USER))
    request = urllib.request.Request(
        f"{world.region_url('here')}/v1/events", data=encode_regional(batch),
        headers={SERVICE_KEY_HEADER: keys.service_key, "Content-Type": "application/json"},
    )  # fmt: skip
    with urllib.request.urlopen(request, timeout=30) as answer:
        return msgspec.json.decode(answer.read(), type=EventAck)


def view_until_taken(world: World, number: int) -> EventAck:
    """As a sender does that is told to come again: for moments after a start the subjects' keys are out of reach."""
    end_s = SystemClock().monotonic_s() + TAKEN_WITHIN_S
    while True:
        try:
            return view(world, number)
        except urllib.error.HTTPError as error:
            if error.code != HTTPStatus.SERVICE_UNAVAILABLE or SystemClock().monotonic_s() > end_s:
                raise
            time.sleep(min(float(error.headers["Retry-After"]), 1.0))


def row_of(world: World) -> UserRow | None:
    async def read() -> UserRow | None:
        path: Path = world.layout.region("here") / "region.json"
        store = open_store(load_settings(path, RegionSettings), read_timeout_s=20.0)
        try:
            return await store.read(world.keys("here").pseudonym("user", USER))
        finally:
            await store.close()

    return asyncio.run(read())


def until_items(world: World, wanted: set[str]) -> list[str]:
    end_s = SystemClock().monotonic_s() + APPLIED_WITHIN_S
    while True:
        row = row_of(world)
        items = [entry.item for entry in row.history] if row is not None else []
        if wanted <= set(items) or SystemClock().monotonic_s() > end_s:
            return items
        time.sleep(0.2)  # the store tells nobody; the deadline above bounds it


def test_events_reach_the_row_also_those_that_came_while_its_store_was_dead(world: World) -> None:
    names = {process.name for process in world.status().processes}
    assert {"kafka", "here/cassandra", "here/grid"} <= names
    assert until_items(world, set()) == ["item-0", "item-1", "item-2"], "seeded before anything started"
    assert view(world, 1).accepted == 1
    assert "new-1" in until_items(world, {"new-1"})
    assert world.kill("here", "store") == ["here/cassandra"]
    assert view(world, 2).accepted == 1, "the log has it; the store can wait"
    assert view(world, 2).duplicates == 1
    assert ask(world)["items"], "an answer, always"
    world.heal("here", "store")
    world.wait(region="here", wait_for="live")
    items = until_items(world, {"new-1", "new-2"})
    assert items == ["item-0", "item-1", "item-2", "new-1", "new-2"], "nothing lost, nothing twice"


def test_a_region_goes_dark_with_its_servers_and_comes_back(world: World) -> None:
    killed = world.kill("here")
    assert {"here/cassandra", "here/grid"} <= set(killed)
    states = {process.name: process.state for process in world.status().processes}
    assert states["kafka"] is not ProcessState.KILLED, "the broker is the whole machine's"
    world.heal("here")
    world.wait(region="here", wait_for="live")
    assert view_until_taken(world, 3).accepted == 1
    assert "new-3" in until_items(world, {"new-3"})
