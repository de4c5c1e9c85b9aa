"""A world of one region with two edges on servers or embedded parts, over a release that was published in this run."""

import contextlib
from collections.abc import Iterator

import msgspec

from infra.bench.catalogue import BenchRequest
from infra.bench.ring import REGIONS, USERS
from infra.bench.servers import bring
from infra.bench.serving.published import PublishedRing
from infra.local.configuration import DirectoriesConfiguration, RegionConfiguration, WorldConfiguration
from infra.local.world import World, start_world
from infra.plumbing.clock import Clock
from infra.plumbing.tokens import issue_token

HOME = REGIONS[0]
REAL = {"store": "cassandra", "grid": "hazelcast", "log": "kafka"}
EMBEDDED = {"store": "sqlite", "grid": "embedded", "log": "sqlite"}


@contextlib.contextmanager
def real_world(
    request: BenchRequest, ring: PublishedRing, *, name: str, parts: dict[str, str] | None = None
) -> Iterator[World]:
    """The world, ready, until the block ends.

    Args:
        request: whose folder and environments are used.
        ring: the release and the users.
        name: of its folder.
        parts: `store`, `grid` and `log`; None: all real.

    Raises:
        ServerError: a server could not be brought.
        WorldNotReadyError: it did not come up.
    """
    chosen, state = REAL if parts is None else parts, request.work / name
    if chosen != EMBEDDED:
        bring(request)
    configuration = WorldConfiguration(
        regions=(RegionConfiguration(name=HOME),), sample_ratio=0.0, poll_interval_s=3600.0,
        directories=DirectoriesConfiguration(
            state=str(state), repository=str(ring.repository), environments=str(request.environments)
        ),
    )  # fmt: skip
    configuration = msgspec.structs.replace(configuration, **chosen)
    with start_world(
        configuration, state, repository=ring.repository, dataset=ring.dataset, progress=request.progress
    ) as world:
        yield world


def headers_of(world: World, clock: Clock) -> list[dict[str, str]]:
    """What each user of the region sends with every call."""
    users = [f"u{number}" for number in range(0, USERS, len(REGIONS))]
    keys = world.keys(HOME)
    return [
        {
            "Authorization": f"Bearer {issue_token(keys, user, clock=clock, life_s=3600)}",
            "Atoll-Client-Region": HOME,
        }
        for user in users
    ]  # fmt: skip
