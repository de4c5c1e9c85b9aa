"""The grid that an address names."""

from pathlib import Path

from prometheus_client import CollectorRegistry

from infra.plumbing.addresses import parse_address, scheme_of
from infra.plumbing.clock import Clock
from infra.plumbing.errors import SettingsError
from infra.plumbing.grid.client import SocketGrid
from infra.plumbing.grid.memory import MemoryGrid
from infra.plumbing.grid.port import Grid


def connect_grid(address: str, *, clock: Clock, registry: CollectorRegistry | None = None) -> Grid:
    """A grid by its address. It is connected at the first use and again whenever it is lost; absence is no error.

    `memory`: a grid of this process alone. `hazelcast://HOST:PORT[,HOST:PORT]/CLUSTER`: Hazelcast. Anything else: the
    path of the embedded grid's Unix socket.

    Raises:
        SettingsError: the address is empty or cannot be one.
    """
    if not address:
        raise SettingsError("the grid has no address.", fix="Set `grid` to `memory` or to the path of its socket.")
    if address == "memory":
        return MemoryGrid(clock=clock)
    if scheme_of(address):
        from infra.plumbing.grid.hazelcast import HazelcastGrid  # noqa: PLC0415 - who does not use it need not load it

        return HazelcastGrid(parse_address(address, scheme="hazelcast"), clock=clock, registry=registry)
    return SocketGrid(Path(address), clock=clock, registry=registry)
