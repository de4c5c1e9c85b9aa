"""Connections that would carry something from region to region past the recorded links: their bytes no search sees.

Looked for between the acts, in the kernel's tables of each process of the world: pools keep connections for longer than
an act takes. A connection between processes of one region, or with one that belongs to no region (balancer, links,
supervisor), is in order; one that a region's process has to a process of another region, or to central's repository
itself, is not.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import psutil

from infra.local.records import Part, ProcessStatus
from infra.local.world import World

Address = tuple[str, int]
CENTRAL = "central"


@dataclass(slots=True)
class Watch:
    """What was seen so far."""

    seen: int = 0
    """Connections between processes of the world that were looked at."""
    past_links: set[tuple[str, str]] = field(default_factory=set)
    """From process, to process."""

    def look(self, world: World) -> None:
        """Look at every connection of now."""
        processes = {one.name: one for one in world.status().processes if one.pid is not None}
        listening: dict[Address, str] = {}
        connected: list[tuple[str, Address]] = []
        for name, process in processes.items():
            for one in _sockets_of(process):
                if one.status == psutil.CONN_LISTEN:
                    listening[one.laddr] = name
                elif one.raddr:
                    connected.append((name, one.raddr))
        seen, past = judge(listening, connected, {name: _place_of(one) for name, one in processes.items()})
        self.seen += seen
        self.past_links |= past


def judge(
    listening: Mapping[Address, str], connected: Iterable[tuple[str, Address]], place_of: Mapping[str, str]
) -> tuple[int, set[tuple[str, str]]]:
    """How many connections lead to a process of the world, and the pairs of those that go past the links.

    Args:
        listening: whose an address is.
        connected: (process, far end's address) of each connection.
        place_of: the region of each process, or CENTRAL; "": none.
    """
    known = [(name, listening[address]) for name, address in connected if address in listening]
    past = {(name, other) for name, other in known if place_of[name] and place_of[other] not in ("", place_of[name])}
    return len(known), past


def _place_of(process: ProcessStatus) -> str:
    return CENTRAL if process.part is Part.REPOSITORY else process.region


def _sockets_of(process: ProcessStatus) -> "list[psutil._common.pconn]":
    try:
        whole = psutil.Process(process.pid)
        return [one for each in (whole, *whole.children(recursive=True)) for one in each.net_connections(kind="tcp")]
    except psutil.NoSuchProcess:
        return []  # ended meanwhile
