"""A rolling restart: one process after the other, each only when the one before takes calls again."""

import time
from urllib.parse import urlsplit

import msgspec

from infra.local.haproxy_control import HaproxyControlError, takes_calls
from infra.local.records import Part, ProcessState
from infra.local.scraping import open_connection
from infra.local.world import World, WorldNotReadyError
from infra.plumbing.clock import Clock
from infra.plumbing.errors import AtollError, InvalidInputError
from infra.plumbing.progress import Progress

ROLLING = {
    "edges": Part.EDGE, "api": Part.API, "worker": Part.WORKER, "gateway": Part.GATEWAY, "grid": Part.GRID,
    "supernode": Part.SUPERNODE,
}  # fmt: skip
"""What can be restarted so, by the words of the command line."""
TAKEN_BACK_WITHIN_S = 30.0
_LOOK_S = 0.1
_TIMEOUT_S = 2.0


class NotTakenBackError(AtollError):
    """A process came up again, and the balancer sends it no calls."""


class Restarted(msgspec.Struct, frozen=True, kw_only=True):
    """What a rolling restart did."""

    processes: tuple[str, ...]
    seconds: float


class _Edge(msgspec.Struct, frozen=True):
    up: bool


class _Board(msgspec.Struct, frozen=True):
    edges: dict[str, _Edge]


def restart_rolling(world: World, region: str, part: str, *, clock: Clock, progress: Progress) -> Restarted:
    """Restart the processes of one part of a region, one by one, while the world serves.

    An edge says that it is not ready before it ends anything, so the balancer has moved its callers to its neighbours
    by then, and gives it its share of them back bit by bit.

    Args:
        world: the world.
        region: whose processes.
        part: one of `ROLLING`.
        clock: for deadlines.
        progress: told of every process.

    Raises:
        InvalidInputError: there is no such region or part, or a process of it is not up: nothing is restarted then.
        WorldNotReadyError: a process does not come up again; the rest goes on as it is.
        NotTakenBackError: the balancer does not take an edge back.
    """
    if part not in ROLLING:
        raise InvalidInputError(f"there is no part {part!r} to restart.", fix=f"Name one of {', '.join(ROLLING)}.")
    name = world.configuration.region(region).name
    chosen = [one for one in world.status().processes if one.region == name and one.part is ROLLING[part]]
    down = [one.name for one in chosen if one.state is not ProcessState.READY]
    if down or not chosen:
        raise InvalidInputError(
            f"{', '.join(down) or 'nothing of it'} is not ready: a restart would leave too little.",
            fix="See `./atoll world status`; start what was killed with `world heal`.",
        )
    began_s = clock.monotonic_s()
    for number, process in enumerate(chosen, 1):
        world.restart(process.name)
        _await_ready(world, process.name, clock)
        if process.part is Part.EDGE:
            _await_taken_back(world, process.name, clock)
        progress.advance(number, len(chosen), process.name)
    return Restarted(
        processes=tuple(one.name for one in chosen), seconds=round(clock.monotonic_s() - began_s, 2)
    )  # fmt: skip


def _await_ready(world: World, process: str, clock: Clock) -> None:
    end_s = clock.monotonic_s() + world.configuration.start_timeout_s
    while True:
        now = next(one for one in world.status().processes if one.name == process)
        if now.state is ProcessState.READY:
            return
        if now.state is ProcessState.GAVE_UP or clock.monotonic_s() >= end_s:
            raise WorldNotReadyError(
                f"{process} does not come up again: it is {now.state} ({now.detail}).",
                fix=f"Its logs lie in {world.layout.logs}; the others were left as they are.",
            )
        time.sleep(_LOOK_S)


def _await_taken_back(world: World, edge: str, clock: Clock) -> None:
    is_up = _is_up if world.configuration.balancer == "embedded" else _is_up_behind_haproxy
    end_s = clock.monotonic_s() + TAKEN_BACK_WITHIN_S
    while True:
        why = "Look into the balancer's log."
        try:
            if is_up(world, edge):
                return
        except HaproxyControlError as error:
            # It may be starting again itself.
            why = str(error)
        if clock.monotonic_s() >= end_s:
            raise NotTakenBackError(f"the balancer does not take {edge} back.", fix=why)
        time.sleep(_LOOK_S)


def _is_up_behind_haproxy(world: World, edge: str) -> bool:
    return takes_calls(world.layout.haproxy, edge)


def _is_up(world: World, edge: str) -> bool:
    connection = open_connection(urlsplit(world.balancer_url).netloc, world.ssl_context(), timeout_s=_TIMEOUT_S)
    try:
        connection.request("GET", "/health")
        board = msgspec.json.decode(connection.getresponse().read(), type=_Board)
    except (OSError, msgspec.DecodeError):
        return False
    finally:
        connection.close()
    return edge in board.edges and board.edges[edge].up
