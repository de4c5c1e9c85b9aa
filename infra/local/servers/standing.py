"""Servers that `atoll servers start` started, for a world that runs on them instead of starting its own.

They outlive the world, and what they hold outlives it too: rows under the world's keys, its log, its lists. So they are
one world's, from its first start on: another one is refused, also one that lies where the first one lay and was made
anew, for its keys open nothing of what is there.
"""

from collections.abc import Sequence
from pathlib import Path

import msgspec

from infra.local.servers.kinds import ServerError, ServerKind
from infra.local.servers.plans import ServerPlan
from infra.local.servers.records import ServersRecord, StartedServer, is_running
from infra.plumbing.files import write_atomically
from infra.plumbing.ids import new_request_id

CLAIM_FILE = "world.json"
IDENTITY_FILE = "world-identity"


class _Claim(msgspec.Struct, frozen=True, kw_only=True):
    """Whose the servers of a folder are."""

    identity: str
    state: str
    """Where that world lay when it came."""


def standing_plans(servers: Path, kinds: frozenset[ServerKind], regions: Sequence[str]) -> list[ServerPlan]:
    """The servers of `servers` that a world of these regions runs on, as they run.

    Raises:
        ServerError: one of them does not run, or takes TLS only; says how to start it.
    """
    running = {one.name: one for one in ServersRecord.load(servers).servers if is_running(one)}
    plans = []
    for name in _names(kinds, regions):
        found = running.get(name)
        if found is None:
            raise ServerError(
                f"{name} does not run among the servers of {servers}.",
                fix=f"./atoll servers start --regions {','.join(regions)} --state {servers}",
            )
        if found.tls:
            raise ServerError(
                f"{name} takes TLS only, with certificates that the world has not.",
                fix="Start the servers without --tls, or leave --servers away: a world with TLS starts its own.",
            )
        plans.append(_as_it_runs(found, servers))
    return plans


def claim(servers: Path, state: Path) -> None:
    """Make the servers of `servers` those of the world at `state`.

    Raises:
        ServerError: they are another world's.
    """
    identity = _identity_of(state)
    file = servers / CLAIM_FILE
    try:
        held = msgspec.json.decode(file.read_bytes(), type=_Claim)
    except FileNotFoundError:
        write_atomically(file, msgspec.json.encode(_Claim(identity=identity, state=str(state))))
        return
    except (OSError, msgspec.DecodeError) as error:
        raise ServerError(f"{file} does not say whose these servers are.", fix="Name another --servers.") from error
    if held.identity != identity:
        raise ServerError(
            f"the servers of {servers} hold what the world at {held.state} put there, which this world cannot open.",
            fix=f"To let go of it: ./atoll servers stop --state {servers}, and remove that folder. "
            "Or start others with another --state.",
        )


def _identity_of(state: Path) -> str:
    """A name of the world at `state`, made once."""
    file = state / IDENTITY_FILE
    try:
        return file.read_text("ascii")
    except FileNotFoundError:
        identity = new_request_id()
        write_atomically(file, identity.encode())
        return identity


def _names(kinds: frozenset[ServerKind], regions: Sequence[str]) -> list[str]:
    of_regions = [kind for kind in (ServerKind.CASSANDRA, ServerKind.HAZELCAST) if kind in kinds]
    shared = ["kafka"] if ServerKind.KAFKA in kinds else []
    return [*(f"{region}/{kind.value}" for kind in of_regions for region in regions), *shared]


def _as_it_runs(found: StartedServer, servers: Path) -> ServerPlan:
    host, _, port = found.address.rpartition(":")
    return ServerPlan(
        name=found.name, kind=found.kind, region=found.region, host=host, port=int(port), other_ports=(),
        folder=servers / found.name, command=(), files={},
    )  # fmt: skip
