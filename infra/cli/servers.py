"""`atoll servers`: Cassandra, Hazelcast and Kafka on this machine, without containers."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from infra.cli import bootstrap
from infra.cli.output import add_json_option, emit, progress_bar, table
from infra.plumbing.clock import SystemClock
from infra.plumbing.errors import InvalidInputError

STATE = Path(".atoll/servers/state")
HOME = bootstrap.HOME / "servers"
ENVIRONMENTS = bootstrap.HOME / "envs"
KINDS = ("cassandra", "hazelcast", "kafka")


def register(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """`atoll servers install|start|stop|status`."""
    text = "Cassandra, Hazelcast and Kafka on this machine, without containers"
    parser = commands.add_parser(
        "servers", help=text, description=f"{text}. Example: ./atoll servers install && ./atoll servers start"
    )
    verbs = parser.add_subparsers(metavar="VERB", required=True)
    _leaf(verbs, "install", _install, "bring them by Maven, with a Java if the machine has none", "install")
    start = _leaf(verbs, "start", _start, "start one Cassandra and one Hazelcast per region, and one Kafka", "start")
    start.add_argument(
        "--regions", default="us-east,us-central,us-west", metavar="NAMES", help="regions, separated by commas"
    )
    start.add_argument(
        "--tls", action="store_true",
        help="Cassandra and Kafka over mutual TLS: an authority of each, and certificates, in the state's tls/servers/",
    )  # fmt: skip
    start.add_argument("--only", action="append", choices=KINDS, default=None, help="only this kind; may be repeated")
    _leaf(verbs, "stop", _stop, "end what `start` started, and nothing else", "stop")
    _leaf(verbs, "status", _status, "show what was started", "status")


def _leaf(verbs: Any, name: str, run: Any, text: str, example: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = verbs.add_parser(
        name, help=text, description=f"{text}. Example: ./atoll servers {example}"
    )
    parser.add_argument(
        "--state", type=Path, default=STATE, metavar="DIR", help=f"their data and logs (default {STATE})"
    )
    add_json_option(parser)
    parser.set_defaults(run=run)
    return parser


def ready_java() -> str:
    """A Java that the servers run on; brings one when the machine has none."""
    from infra.local.servers.installing import find_java
    from infra.local.servers.kinds import ServerError

    try:
        return find_java(ENVIRONMENTS)
    except ServerError:
        bootstrap.prepare(("java",))
        return find_java(ENVIRONMENTS)


def bring_servers(progress: Any) -> dict[str, Any]:
    """Install what is missing; says what was brought and how long each part took."""
    from infra.local.servers.archiving import make_archives
    from infra.local.servers.installing import Home, install

    clock, home = SystemClock(), Home(HOME)
    java = ready_java()
    began_s = clock.monotonic_s()
    fetched = install(home, progress=progress)
    fetched_s = clock.monotonic_s()
    archived = make_archives(home, java=java, clock=clock, progress=progress)
    return {
        "fetched": [kind.value for kind in fetched], "archived": [kind.value for kind in archived], "java": java,
        "download_s": round(fetched_s - began_s, 1), "archive_s": round(clock.monotonic_s() - fetched_s, 1),
    }  # fmt: skip


def _install(arguments: argparse.Namespace) -> None:
    from infra.local.servers.records import ServersRecord

    with progress_bar() as progress:
        brought = bring_servers(progress)
    if brought["archived"]:
        arguments.state.mkdir(parents=True, exist_ok=True)
        record = ServersRecord.load(arguments.state)
        record.timings.cold_s, record.timings.archive_s = None, brought["archive_s"]
        record.save(arguments.state)
    text = f"installed in {HOME}: {brought['download_s']} s to fetch, {brought['archive_s']} s to archive classes"
    emit(arguments, brought, text if brought["fetched"] or brought["archived"] else f"everything is there in {HOME}")


def _start(arguments: argparse.Namespace) -> None:
    from infra.local.servers.authorities import ensure_certificates
    from infra.local.servers.installing import Home
    from infra.local.servers.kinds import ServerKind
    from infra.local.servers.plans import ServerInput, plan_servers
    from infra.local.servers.running import start_servers

    clock, state = SystemClock(), arguments.state.resolve()
    kinds = frozenset(ServerKind(word) for word in arguments.only or KINDS)
    given = ServerInput(
        home=Home(HOME), state=state, regions=_regions(arguments.regions), java=ready_java(), kinds=kinds,
        tls=state / "tls" if arguments.tls else None,
    )  # fmt: skip
    plans = plan_servers(given)
    if given.tls is not None:
        # `client.pem` beside a server's own is for whoever calls it.
        callers = {plan.name: ("client",) for plan in plans}
        ensure_certificates(given.tls, plans, callers, host="127.0.0.1", clock=clock)
    cold = not any(plan.data.exists() for plan in plans)
    began_s = clock.monotonic_s()
    with progress_bar() as progress:
        started = start_servers(plans, state, clock=clock, progress=progress)
    timings = _note(state, round(clock.monotonic_s() - began_s, 2), cold=cold, any_started=_any_new(started))
    _show(arguments, started, timings, f"{_what_for(plans, given.regions)}\n")


def _what_for(plans: list[Any], regions: Sequence[str]) -> str:
    """What the settings of a region's processes call these servers."""
    from infra.local.servers.kinds import ServerKind
    from infra.local.servers.plans import grid_address, log_address, store_address

    lines = [
        "`./atoll world up --servers DIR` runs a world on these. In the settings of regions that you run yourself:"
    ]
    for plan in plans:
        if plan.kind is ServerKind.KAFKA:
            lines += [f'  {region}: log = "{log_address(plan, region)}"' for region in regions]
        else:
            called = ("store", store_address) if plan.kind is ServerKind.CASSANDRA else ("grid", grid_address)
            lines.append(f'  {plan.region}: {called[0]} = "{called[1](plan)}"')
    return "\n".join(lines)


def _any_new(started: list[Any]) -> bool:
    return any(server.seconds is not None for server in started)


def _note(state: Path, seconds: float, *, cold: bool, any_started: bool) -> dict[str, float | None]:
    """Remember how long this start took; what was not seen yet is None."""
    from infra.local.servers.records import ServersRecord

    record = ServersRecord.load(state)
    if any_started:
        if cold:
            record.timings.cold_s = round(seconds + record.timings.archive_s, 2)
        else:
            record.timings.warm_s = seconds
        record.save(state)
    return {"cold_s": record.timings.cold_s, "warm_s": record.timings.warm_s}


def _regions(words: str) -> tuple[str, ...]:
    from infra.local.configuration import REGIONS_MAX, RegionConfiguration, WorldConfiguration, validate_configuration

    names = tuple(word.strip() for word in words.split(",") if word.strip())
    if not 1 <= len(names) <= REGIONS_MAX:
        raise InvalidInputError(f"--regions names {len(names)} regions.", fix=f"Name 1 to {REGIONS_MAX}.")
    validate_configuration(WorldConfiguration(regions=tuple(RegionConfiguration(name=name) for name in names)))
    return names


def _stop(arguments: argparse.Namespace) -> None:
    from infra.local.servers.running import stop_servers

    ended = stop_servers(arguments.state.resolve(), clock=SystemClock())
    emit(arguments, {"stopped": ended}, f"stopped: {', '.join(ended) or 'nothing ran'}")


def _status(arguments: argparse.Namespace) -> None:
    from infra.local.servers.records import ServersRecord
    from infra.local.servers.running import status_of

    state = arguments.state.resolve()
    timings = ServersRecord.load(state).timings
    _show(arguments, status_of(state), {"cold_s": timings.cold_s, "warm_s": timings.warm_s})


def _show(arguments: argparse.Namespace, servers: list[Any], timings: dict[str, float | None], head: str = "") -> None:
    rows = [
        {"server": one.name, "state": "running" if one.running else "gone", "address": one.address, "pid": one.pid,
         "seconds": one.seconds, "MB": round(one.rss_mb)}
        for one in servers
    ]  # fmt: skip
    together = round(sum(one.rss_mb for one in servers), 1)
    result = {"servers": servers, "rss_mb": together, **timings}
    text = f"{table(rows)}\n{head}{together:,.0f} MB together" if servers else "no servers were started here"
    emit(arguments, result, text)
