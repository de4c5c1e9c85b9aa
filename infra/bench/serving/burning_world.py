"""A real world on a small made-up dataset, with two releases or more, and hands that hurt it."""

import contextlib
import os
import re
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import urllib3

from infra.bench.catalogue import BenchRequest
from infra.bench.ring import REGIONS, USERS, write_ring
from infra.bench.serving.open_load import Call
from infra.bench.serving.published import publish_ring
from infra.local.configuration import DirectoriesConfiguration, RegionConfiguration, WorldConfiguration
from infra.local.records import Part
from infra.local.wan.shaping import LinkMode, LinkShape
from infra.local.world import World, start_world
from infra.plumbing.errors import ConflictError, UnavailableError
from infra.plumbing.tokens import issue_token
from region.releases import commands
from region.releases.messages import PromoteRequest, ReleasesAnswer, SwitchAnswer

HOME, AWAY = REGIONS[0], REGIONS[1]
_ROUTING = re.compile(rb'atoll_edge_routing_total\{kind="([a-z-]+)"\} ([0-9.e+]+)')
SWITCH_S = 20.0
"""How long an operator waits for a switch while the world burns."""
OPEN = LinkShape()
SHAPES = {
    "black-hole": LinkShape(mode=LinkMode.BLACK_HOLE),
    "reset": LinkShape(mode=LinkMode.RESET),
    "errors": LinkShape(mode=LinkMode.ERRORS),
    "slow-drip": LinkShape(bandwidth_bytes_s=2_000),
    "loss": LinkShape(loss=0.3),
}


@dataclass(frozen=True, slots=True)
class BurningWorld:
    """A world, and what can be done to it."""

    world: World
    releases: tuple[str, ...]

    def calls(self, request: BenchRequest) -> list[Call]:
        """Lists of every kind that callers of the home region ask for; one in ten has to be made anew."""
        keys, calls = self.world.keys(HOME), []
        for number in range(0, USERS, len(REGIONS)):
            token = issue_token(keys, f"u{number}", clock=request.clock, life_s=3600)
            mine = {"Authorization": f"Bearer {token}", "Atoll-Client-Region": HOME}
            anyone = {"Atoll-Client-Region": HOME}
            item = f"i{number % 90}"
            calls += [Call(f"/v1/recommendations/personal?n={n}", mine) for n in (5, 8, 10, 12, 20, 25)]
            calls.append(Call("/v1/recommendations/personal?n=10&explain=1", mine))
            calls.append(Call(f"/v1/recommendations/similar?n=10&item={item}", anyone))
            calls.append(Call(f"/v1/recommendations/popular?n=10&exclude={item}", anyone))
            calls.append(Call("/v1/recommendations/trending?n=10", anyone))
        return calls

    def pids(self, part: Part, region: str) -> list[int]:
        """Processes of one kind of a region ("*": of all)."""
        return [
            process.pid
            for process in self.world.status().processes
            if process.part is part and region in ("*", process.region) and process.pid is not None
        ]

    def signal(self, part: Part, region: str, number: signal.Signals) -> None:
        """Send a signal to them."""
        for pid in self.pids(part, region):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def step_clocks(self, part: Part | None, region: str, seconds: float) -> None:
        """Let wall clocks of a region ("*": of all) be off, those of one part or of every process."""
        names = [
            process.name
            for process in self.world.status().processes
            if process.region and region in ("*", process.region) and part in (None, process.part)
        ]
        self.world.step_clocks(names, seconds)

    def shape(self, region: str, shape: LinkShape) -> None:
        """Shape every way to a region's API ("*": to all): its own edges' and the other regions'."""
        for name in self.world.configuration.region_names:
            if region in ("*", name):
                for origin in self.world.configuration.region_names:
                    self.world.shape_link(origin, name, shape)

    def switch(self, region: str = HOME) -> None:
        """Have a region ("*": all, one after the other) answer from the next of its releases, in a ring.

        A region that is down, frozen or busy does not switch: its operator is told so, and nothing else happens.
        """
        for name in self.world.configuration.region_names if region == "*" else (region,):
            with contextlib.suppress(UnavailableError, ConflictError):
                url, key, tls = self.world.operator_door(name)
                active = commands.call_region(
                    "GET", url, "releases", key, tls, ReleasesAnswer, timeout_s=SWITCH_S
                ).active
                at = self.releases.index(active) if active in self.releases else -1
                other = self.releases[(at + 1) % len(self.releases)]
                commands.call_region(
                    "POST", url, "promote", key, tls, SwitchAnswer, PromoteRequest(release=other), timeout_s=SWITCH_S
                )

    def whole(self, *, kill: bool) -> None:
        """Kill, or heal, the home region with its edges, gateway and all."""
        (self.world.kill if kill else self.world.heal)(HOME)

    def routing(self) -> dict[str, dict[str, float]]:
        """What each edge that answers has counted of its calls to regions since it started, by its URL."""
        counts: dict[str, dict[str, float]] = {}
        for name in self.world.configuration.region_names:
            for url in self.world.edge_urls(name):
                with contextlib.suppress(urllib3.exceptions.HTTPError):
                    text = urllib3.request("GET", f"{url}/metrics", timeout=5.0, retries=False).data
                    counts[url] = {kind.decode(): float(count) for kind, count in _ROUTING.findall(text)}
        return counts


@contextlib.contextmanager
def burning_world(
    request: BenchRequest, *, write: Callable[[Path], Path] = write_ring, clock_faults: bool = False, releases: int = 2
) -> Iterator[BurningWorld]:
    """Train, build releases, publish them, start two regions of two edges; everything ends with the block.

    Args:
        request: whose folder and environments are used.
        write: writes the dataset.
        releases: how many there are, of one model.
        clock_faults: whether wall clocks of its processes can be stepped.

    Raises:
        UnavailableError: a step failed; the message carries its last words.
    """
    ring = publish_ring(request, releases=releases, write=write)
    configuration = WorldConfiguration(
        regions=(RegionConfiguration(name=HOME), RegionConfiguration(name=AWAY)), home_links=True, sample_ratio=0.0,
        poll_interval_s=3600.0, clock_faults=clock_faults,
        directories=DirectoriesConfiguration(
            state=str(request.work / "world"), repository=str(ring.repository), environments=str(request.environments)
        ),
    )  # fmt: skip
    with start_world(
        configuration, request.work / "world", repository=ring.repository, dataset=ring.dataset,
        progress=request.progress,
    ) as world:  # fmt: skip
        for region in world.configuration.region_names:
            for name in ring.releases:
                commands.pull(*world.operator_door(region), release=name)
        yield BurningWorld(world, ring.releases)
