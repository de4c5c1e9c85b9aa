"""One region of real processes: up, called, killed, healed, down; what crossed and what was logged names nobody."""

import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from central.release.publish import publish
from central.release.repository import init_repository
from infra.local.children import marked_processes
from infra.local.configuration import RegionConfiguration, WorldConfiguration, with_absolute_directories
from infra.local.records import ProcessState
from infra.local.residency import grep_telemetry, scan
from infra.local.tiers import source_root
from infra.local.world import World, start_world
from infra.plumbing.clock import SystemClock
from infra.plumbing.tokens import issue_token
from tests.support.bundles import make_bundle
from tests.support.worlds import until_edges_ready

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("world")
    clock = SystemClock()
    repository, keys = folder / "repository", folder / "keys"
    init_repository(repository=repository, keys=keys, clock=clock)
    bundle = folder / "bundles" / make_bundle(folder / "bundles")
    publish(bundle=bundle, repository=repository, keys=keys, channel="stable", clock=clock)
    dataset = folder / "dataset"
    dataset.mkdir()
    (dataset / "dataset.json").write_text("{}")
    (dataset / "users.csv").write_text("user_id,region\n7001,here\n7002,here\n")
    (dataset / "interactions.csv").write_text(
        "user_id,item_id,timestamp,event_type,value\n"
        + "".join(f"{user},item-{item},{1000 + item},rating,5\n" for user in (7001, 7002) for item in range(9))
    )
    configuration = with_absolute_directories(
        WorldConfiguration(regions=(RegionConfiguration(name="here", edges=1),), sample_ratio=1.0), source_root()
    )
    # The towers of this release are dummies, which a region refuses: it lives, and its edge answers from the lists.
    with start_world(
        configuration, folder / "state", repository=repository, dataset=dataset, wait_for="live"
    ) as started:
        until_edges_ready(started)
        yield started
    assert marked_processes(started.layout.mark) == []


def call(world: World, user: str) -> dict[str, object]:
    token = issue_token(world.keys("here"), user, clock=SystemClock())
    request = urllib.request.Request(
        f"{world.balancer_url}/v1/recommendations/personal?n=5", headers={"Authorization": f"Bearer {token}"}
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        assert answer.headers["Via"] == "1.1 atoll-balancer"
        content: dict[str, object] = json.loads(answer.read())
        return content


def test_the_world_answers_and_what_crossed_names_nobody(world: World) -> None:
    assert len(world.status().processes) == 2 + 5 + 1
    edge = next(process for process in world.status().processes if process.name == "here/edge-1")
    assert edge.state is ProcessState.READY
    for user in ("7001", "7002"):
        assert call(world, user)["items"]
    secrets = {
        "user_id": ["7001", "7002"],
        "pseudonym": [world.keys("here").pseudonym("user", user) for user in ("7001", "7002")],
    }
    report = scan(world.captures(), secrets)
    assert report.bytes_scanned > 10_000
    assert report.messages > 4
    assert report.clean, report.leaks
    telemetry = grep_telemetry(world.state, secrets, metrics=world.metrics())
    assert telemetry.bytes_scanned > 1000
    assert telemetry.leaks == ()
    assert 0 < world.rss_mb() <= world.peak_rss_mb() < 2000


def test_a_region_is_killed_and_comes_back(world: World) -> None:
    before = {process.name: process.pid for process in world.status().processes}
    assert len(world.kill("here")) == 5
    assert {process.state for process in world.status().processes if process.region} == {ProcessState.KILLED}
    world.heal("here")
    world.wait(region="here", wait_for="live")
    until_edges_ready(world)
    after = {process.name: process.pid for process in world.status().processes}
    assert all(after[name] != before[name] for name in before if name.startswith("here/"))
    assert after["balancer"] == before["balancer"]
    assert call(world, "7001")["items"]


def test_files_of_the_state_are_where_the_layout_says(world: World) -> None:
    layout = world.layout
    assert layout.keys("here").stat().st_mode & 0o777 == 0o600
    for path in (layout.world, layout.root, layout.trust, layout.capture / "here--central.bin", layout.log("wan")):
        assert path.stat().st_size > 0
    assert Path(layout.control).is_socket()
