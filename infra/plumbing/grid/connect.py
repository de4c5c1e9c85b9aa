"""The grid that an address names."""

from pathlib import Path

from prometheus_client import CollectorRegistry

from infra.plumbing.clock import Clock
from infra.plumbing.errors import SettingsError
from infra.plumbing.grid.client import SocketGrid
from infra.plumbing.grid.memory import MemoryGrid
from infra.plumbing.grid.port import Grid


def connect_grid(address: str, *, clock: Clock, registry: CollectorRegistry | None = None) -> Grid:
    """`memory`: a grid of this process alone; else the path of the embedded grid's Unix socket.

    The socket is connected at the first use and again whenever it is lost; a server that is not there yet is no error.

    Raises:
        SettingsError: the address is empty or no socket can have it.
    """
    if not address:
        raise SettingsError("the grid has no address.", fix="Set `grid` to `memory` or to the path of its socket.")
    if address == "memory":
        return MemoryGrid(clock=clock)
    return SocketGrid(Path(address), clock=clock, registry=registry)
