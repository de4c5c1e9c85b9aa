"""`atoll world`: three regions, their edges, the balancer and central's repository on this machine."""

import argparse
from pathlib import Path
from typing import Any

from infra.cli.output import add_json_option, emit, progress_bar, table
from infra.cli.servers import STATE as SERVERS_STATE
from infra.cli.servers import bring_servers

STATE = Path(".atoll/world")


def register(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """`atoll world up|status|kill|heal|restart|rotate-certificates|down`."""
    text = "run the whole world on this machine"
    world = commands.add_parser(
        "world", help=text, description=f"{text}. Example: ./atoll world up --dataset data/ml-100k"
    )
    verbs = world.add_subparsers(metavar="VERB", required=True)
    up = _leaf(
        verbs, "up", _up, "start it and wait until every process is ready", "./atoll world up --dataset data/ml-100k"
    )
    _add_up_options(up)
    _leaf(verbs, "status", _status, "show every process", "./atoll world status")
    for name, run, says in (
        ("kill", _kill, "SIGKILL a region's processes; they stay down"),
        ("heal", _heal, "start what was killed"),
    ):
        parser = _leaf(verbs, name, run, says, f"./atoll world {name} us-east")
        parser.add_argument("region", help="or central: what no region has (its SuperLink; healed: all that is down)")
        parser.add_argument(
            "--part", default="all", help="all, core, edges, grid, store, api, worker, gateway, supernode or superlink"
        )
    rotate = _leaf(
        verbs, "rotate-certificates", _rotate, "new certificates for every process of a world with TLS, while it runs",
        "./atoll world rotate-certificates --authority",
    )  # fmt: skip
    which = rotate.add_mutually_exclusive_group()
    which.add_argument(
        "--authority", action="store_true", help="by a new authority, which is trusted beside the old one"
    )
    which.add_argument(
        "--drop-old-authority", action="store_true", help="the second step: trust the new authority only"
    )
    restart = _leaf(
        verbs, "restart", _restart, "restart a region's processes one by one while it serves; edges drain first",
        "./atoll world restart us-east",
    )  # fmt: skip
    restart.add_argument("region")
    restart.add_argument("--part", default="edges", help="edges (default), api, worker, gateway, supernode or grid")
    _leaf(verbs, "down", _down, "end everything; nothing is left running", "./atoll world down")


def _add_up_options(up: argparse.ArgumentParser) -> None:
    # Of all verbs this one alone is told another folder by FILE; the others are told by --state.
    up.set_defaults(state=None)
    up.add_argument(
        "--config", type=Path, default=None, metavar="FILE",
        help="world.toml; the default has three regions. --state goes before the state directory in FILE",
    )  # fmt: skip
    up.add_argument(
        "--repository",
        type=Path,
        default=None,
        metavar="DIR",
        help="where the published releases are, if not where FILE says",
    )
    up.add_argument(
        "--dataset", type=Path, default=None, metavar="DIR", help="fill the regions' stores from this dataset"
    )
    up.add_argument("--balancer", choices=("embedded", "haproxy"), default=None)
    up.add_argument("--store", choices=("sqlite", "cassandra"), default=None)
    up.add_argument("--grid", choices=("embedded", "hazelcast"), default=None)
    up.add_argument("--log", choices=("sqlite", "kafka"), default=None)
    up.add_argument(
        "--servers", type=Path, nargs="?", const=SERVERS_STATE, default=None, metavar="DIR",
        help="run on the servers that `./atoll servers start` started (DIR: their --state), on all three kinds unless"
        " --store, --grid or --log say which; without it a world starts servers of its own",
    )  # fmt: skip
    up.add_argument(
        "--tls", action="store_true",
        help="TLS between all processes, certificates from an authority of this world's own; callers use https",
    )  # fmt: skip
    up.add_argument(
        "--federation", action="store_true",
        help="Flower's SuperLink and a SuperNode for each region stand as long as the world does, about 190 MB"
        " each; without it each `federate round` brings its own",
    )  # fmt: skip
    up.add_argument("--print-config", action="store_true", help="print the configuration as TOML and start nothing")


def add_state_option(parser: argparse.ArgumentParser) -> None:
    """`--state DIR`, the same for every command that talks to a world."""
    parser.add_argument("--state", type=Path, default=STATE, metavar="DIR", help=f"the world's state (default {STATE})")


def _leaf(verbs: Any, name: str, run: Any, text: str, example: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = verbs.add_parser(name, help=text, description=f"{text}. Example: {example}")
    add_state_option(parser)
    add_json_option(parser)
    parser.set_defaults(run=run)
    return parser


def _configuration(arguments: argparse.Namespace) -> Any:
    import msgspec

    from infra.local.configuration import default_configuration, load_configuration, with_absolute_directories
    from infra.local.servers.of_world import kinds_of

    default = with_absolute_directories(default_configuration(), Path.cwd())
    found = load_configuration(arguments.config) if arguments.config else default
    for part in ("balancer", "store", "grid", "log"):
        if chosen := getattr(arguments, part):
            found = msgspec.structs.replace(found, **{part: chosen})
    if arguments.servers is not None:
        named = msgspec.structs.replace(found.directories, servers=str(arguments.servers.resolve()))
        found = msgspec.structs.replace(found, directories=named)
        if not kinds_of(found):
            found = msgspec.structs.replace(found, store="cassandra", grid="hazelcast", log="kafka")
    switched = {name: True for name in ("tls", "federation") if getattr(arguments, name)}
    return msgspec.structs.replace(found, **switched)


def _up(arguments: argparse.Namespace) -> None:
    from infra.local.configuration import render_configuration
    from infra.local.servers.of_world import bystanders, kinds_of
    from infra.local.world import start_world

    configuration = _configuration(arguments)
    if arguments.print_config:
        print(render_configuration(configuration), end="")
        return
    with progress_bar() as progress:
        if kinds_of(configuration) and not configuration.directories.servers:
            bring_servers(progress)
        world = start_world(
            configuration, state_of(arguments), dataset=arguments.dataset, progress=progress,
            repository=arguments.repository or Path(configuration.directories.repository),
            # Where nobody follows a channel a region has nothing to be ready with before its operator promotes it.
            wait_for="ready" if configuration.follow else "live",
        )  # fmt: skip
    world.detach()
    beside = bystanders(configuration, SERVERS_STATE.resolve())
    told = f"{_elsewhere(world.layout.state)}{beside and f'. {beside}'}{_waiting(world)}"
    _show(arguments, world, f"The world is up. {_where(world)}{told}")


def state_of(arguments: argparse.Namespace) -> Path:
    """The folder of the world to start: by `--state`, else by the configuration's file, else STATE from here."""
    from infra.local.configuration import named_state

    if arguments.state is not None:
        return Path(arguments.state)
    return (named_state(arguments.config) if arguments.config else None) or STATE


def _elsewhere(state: Path) -> str:
    """What other commands have to be told of a world that is not where they look."""
    return "" if state.resolve() == STATE.resolve() else f". Other commands find it with --state {state}"


def _waiting(world: Any) -> str:
    """Which regions wait for their operators, and with which words."""
    from infra.local.records import ProcessState

    waiting = sorted({one.region for one in world.status().processes if one.region and one.state is ProcessState.LIVE})
    if not waiting:
        return ""
    first = f"./atoll region {waiting[0]} pull, then promote RELEASE"
    return f". {', '.join(waiting)} wait for a release: {first}"


def _status(arguments: argparse.Namespace) -> None:
    from infra.local.world import open_world

    world = open_world(arguments.state)
    _show(arguments, world, _where(world))


def _where(world: Any) -> str:
    trusting = f" and trust {world.caller_tls.ca_file}" if world.caller_tls else ""
    servers = world.configuration.directories.servers
    on = f". It runs on the servers of {servers}, which `world down` leaves running" if servers else ""
    return f"Applications call {world.balancer_url}{trusting}{on}"


def _show(arguments: argparse.Namespace, world: Any, head: str) -> None:
    status = world.status()
    rows = [
        {"process": one.name, "state": one.state.value, "address": one.address, "pid": one.pid,
         "restarts": one.restarts, "MB": round(one.rss_mb), "detail": one.detail}
        for one in status.processes
    ]  # fmt: skip
    policies = ", ".join(f"{region} {policy}" for region, policy in status.export_policies.items())
    says = f"{status.rss_mb:,.0f} MB together, {status.peak_rss_mb:,.0f} at most. Export policies: {policies}. {head}"
    emit(arguments, status, f"{table(rows)}\n{says}")


def _kill(arguments: argparse.Namespace) -> None:
    from infra.local.world import open_world

    killed = open_world(arguments.state).kill(arguments.region, arguments.part)
    emit(arguments, {"killed": killed}, f"killed: {', '.join(killed) or 'nothing was running'}")


def _heal(arguments: argparse.Namespace) -> None:
    from infra.local.world import open_world

    world = open_world(arguments.state)
    healed = world.heal(arguments.region, arguments.part)
    with progress_bar() as progress:
        world.wait(region=arguments.region, progress=progress)
    emit(arguments, {"healed": healed}, f"healed: {', '.join(healed) or 'nothing was down'}")


def _restart(arguments: argparse.Namespace) -> None:
    from infra.local.restarting import restart_rolling
    from infra.local.world import open_world
    from infra.plumbing.clock import SystemClock

    with progress_bar() as progress:
        done = restart_rolling(
            open_world(arguments.state), arguments.region, arguments.part, clock=SystemClock(), progress=progress
        )
    emit(arguments, done, f"restarted: {', '.join(done.processes)}, in {done.seconds} s")


def _rotate(arguments: argparse.Namespace) -> None:
    from infra.local.world import open_world

    world = open_world(arguments.state)
    if arguments.drop_old_authority:
        world.drop_old_authority()
        emit(
            arguments, {"authority": str(world.layout.tls / "authority.pem")},
            "Only the new authority is trusted by what starts from now on; what runs forgets the old one when it is "
            "started anew: ./atoll world restart REGION --part edges|api|worker|gateway",
        )  # fmt: skip
        return
    with progress_bar() as progress:
        make = world.succeed_authority if arguments.authority else world.rotate_certificates
        done = make(progress=progress)
    if arguments.authority:
        emit(
            arguments, done,
            f"{done.issued} certificates by a new authority, {done.seconds} s; both are trusted. Give callers "
            f"{world.layout.tls / 'authority.pem'}, then: ./atoll world rotate-certificates --drop-old-authority",
        )  # fmt: skip
        return
    emit(arguments, done, f"{done.issued} new certificates; {done.listeners} listeners show theirs, {done.seconds} s")


def _down(arguments: argparse.Namespace) -> None:
    from infra.local.world import stop_world

    ended = stop_world(arguments.state)
    emit(arguments, {"leftovers_ended": ended}, "The world is down.")
