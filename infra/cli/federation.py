"""`atoll federate`: rounds over the phones of a running world, and the privacy ledger."""

import argparse
import json
import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infra.cli import bootstrap
from infra.cli.output import add_json_option, emit, progress_bar, table
from infra.cli.world import add_state_option
from infra.plumbing.files import write_atomically
from infra.plumbing.locking import locked

PHONES_END_S = 120.0
POPULATION = "everybody"
ENGINE_ROUND_S = 180.0
"""The first round in Flower's simulation engine has Ray's start in it: up to half a minute on two busy cores."""
SILO_ROUND_S = 280.0
"""A silo's region may take its own bound of four minutes over a round."""


def register(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """`atoll federate round|status|ledger|vector`."""
    text = "learn from signals that never leave the phone"
    federate = commands.add_parser(
        "federate",
        help=text,
        description=f"{text}. Example: ./atoll federate round --release bundles/ID --phones 30 --dataset data/ml-100k",
    )
    verbs = federate.add_subparsers(metavar="VERB", required=True)
    rounds = _leaf(
        verbs, "round", _round,
        "run rounds over the world's Flower deployment, or one of their own; the outcome is a new adapter",
    )  # fmt: skip
    add_state_option(rounds)
    rounds.add_argument(
        "--release", type=Path, required=True, metavar="BUNDLE", help="the release that the phones hold"
    )
    _add_training_options(rounds)
    rounds.add_argument("--phones", type=int, default=0, metavar="N", help="simulate N phones per region while it runs")
    rounds.add_argument(
        "--dataset", type=Path, default=None, metavar="DIR", help="whose users the simulated phones belong to"
    )
    rounds.add_argument("--canary", default="", help="a secret planted in every simulated phone's sensitive history")
    rounds.add_argument(
        "--silo", action="append", default=[], metavar="REGION",
        help="this region takes part over its resident features, without phones; may be repeated (default: as the"
        " world's configuration says)",
    )  # fmt: skip
    rounds.add_argument(
        "--plain", action="store_true",
        help="no TLS between SuperLink and SuperNodes, where a capture is to be read; they are this round's own then",
    )  # fmt: skip
    _add_simulate(verbs)
    for name, run, says in (
        ("status", _status, "the last run's outcome and what the ledger says"),
        ("ledger", _ledger, "verify the hash-chained privacy ledger and show it"),
    ):
        leaf = _leaf(verbs, name, run, says)
        add_state_option(leaf)
        if run is _ledger:
            leaf.add_argument("--region", default="", help="the region's own ledger instead of central's")
    vector = _leaf(verbs, "vector", _vector, "compute users' portable vectors as their phones would")
    vector.add_argument("--release", type=Path, required=True, metavar="BUNDLE")
    vector.add_argument("--dataset", type=Path, required=True, metavar="DIR")
    vector.add_argument("users", nargs="+", help="user ids of the dataset")


def _add_training_options(parser: argparse.ArgumentParser) -> None:
    """What a run trains and what it may cost, wherever it runs."""
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--epsilon-max", type=float, default=20.0, help="the budget; fixed by the ledger's first round")
    parser.add_argument("--noise", type=float, default=1.0, help="noise multiplier of each region's own noise")
    parser.add_argument(
        "--train",
        choices=("core", "items"),
        default="core",
        help="the adapter's core, or the vectors of a slice of items",
    )
    parser.add_argument(
        "--category", action="append", default=[], metavar="NAME",
        help="with --train items: the slice is the items in any of these; may be repeated",
    )  # fmt: skip


def _add_simulate(verbs: Any) -> None:
    parser = _leaf(
        verbs, "simulate", _simulate,
        "try rounds out in Flower's simulation engine, without a world: the same apps, gateways, phones and ledger",
        "--release bundles/ID --dataset data/ml-100k --phones 20",
    )  # fmt: skip
    add_state_option(parser)
    parser.add_argument("--release", type=Path, required=True, metavar="BUNDLE", help="the release that phones hold")
    parser.add_argument("--dataset", type=Path, required=True, metavar="DIR", help="whose users own the phones")
    parser.add_argument("--phones", type=int, default=10, metavar="N", help="phones per region (default 10)")
    parser.add_argument(
        "--region", action="append", default=[], help="a home region; may be repeated (default: all of the dataset)"
    )
    parser.add_argument("--dropouts", type=float, default=0.08, metavar="SHARE", help="phones that never report")
    _add_training_options(parser)


def _leaf(verbs: Any, name: str, run: Any, text: str, words: str = "") -> argparse.ArgumentParser:
    example = f"./atoll federate {name} {words}".rstrip()
    parser: argparse.ArgumentParser = verbs.add_parser(name, help=text, description=f"{text}. Example: {example}")
    add_json_option(parser)
    parser.set_defaults(run=run)
    return parser


def _directory(state: Path) -> Path:
    return state / "federation"


def _ledger_file(state: Path) -> Path:
    return _directory(state) / "ledger.jsonl"


def _round(arguments: argparse.Namespace) -> int:
    import msgspec

    from federation import commands
    from federation.flower.deployment import RunOptions
    from federation.flower.plan import PrivacyPlan, RegionLink
    from infra.local.flower import round_gateway
    from infra.local.world import open_world

    world = open_world(arguments.state)
    regions, silos = {}, _silos(arguments, world)
    for region in world.configuration.region_names:
        regions[region] = RegionLink(
            gateway_url=round_gateway(world.gateway_url(region), silo=region in silos),
            gateway_tls=world.supernode_tls(region),
            round_key_file=str(world.layout.region(region) / "gateway" / "round.key"),
            superlink_address=world.link_address(region),
        )
    state = _directory(arguments.state)
    timeouts = {"timeout_s": SILO_ROUND_S * (1 + arguments.rounds), "round_timeout_s": SILO_ROUND_S} if silos else {}
    with (
        _superlink(arguments, world, silos) as link,
        _phones(arguments, world, without=silos) as report,
        progress_bar() as progress,
    ):
        outcome = commands.run_round(
            state_directory=state,
            release_directory=arguments.release,
            regions=regions,
            rounds=arguments.rounds,
            privacy=PrivacyPlan(
                ledger_file=str(_ledger_file(arguments.state).absolute()),
                population=POPULATION,
                epsilon_max=arguments.epsilon_max,
                noise_multiplier=arguments.noise,
            ),
            training=_training(arguments),
            options=RunOptions(
                superlink_port=link.port, standing=link.standing, tls=not arguments.plain, progress=progress,
                **timeouts,
            ),
        )  # fmt: skip
    result = msgspec.to_builtins(outcome) | {"phones": report, "flower": "own" if link.why_own else "standing"}
    emit(arguments, result, f"{_said(outcome)}\n{link.said}")
    return 0 if outcome.ok else 1


@dataclass(frozen=True, slots=True)
class _Link:
    """The SuperLink of a round: the world's, or one of its own and why."""

    port: int = 0
    standing: Any = None
    why_own: str = ""

    @property
    def said(self) -> str:
        if self.why_own:
            return f"flower: SuperLink and SuperNodes of this round's own, {self.why_own}"
        return "flower: the world's standing SuperLink and SuperNodes"


@contextmanager
def _superlink(arguments: argparse.Namespace, world: Any, silos: frozenset[str]) -> Iterator[_Link]:
    """The world's standing one where it has one that fits this round, else a free port for one of the round's own."""
    from federation.flower.supervisor import free_ports
    from infra.local.flower import standing_link, why_not_standing
    from infra.local.records import Part, ProcessState

    configuration, note = world.configuration, world.layout.flower / "borrowed.json"
    with ExitStack() as stack:
        if configuration.federation:
            note.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(locked(note.with_suffix(".lock")))
            _give_back(world, note)  # what a round that was killed has left
        status = world.status()
        why = why_not_standing(status, configuration, silos=silos, plain=arguments.plain)
        if not why:
            stack.close()
            yield _Link(standing=standing_link(configuration, world.layout, world.ports))
            return
        # The standing SuperNodes' way to their own SuperLink is the same link: they are down for the time being.
        ended = [
            one.region for one in status.processes
            if one.part is Part.SUPERNODE and one.state is not ProcessState.KILLED
        ]  # fmt: skip
        if configuration.federation:
            write_atomically(note, json.dumps(ended).encode())
        try:
            for region in ended:
                world.kill(region, Part.SUPERNODE)
            (port,) = free_ports(1)
            for region in configuration.region_names:
                world.aim_link(region, port)
            yield _Link(port=port, why_own=why)
        finally:
            if configuration.federation:
                _give_back(world, note)


def _give_back(world: Any, note: Path) -> None:
    """Aim the links at the world's SuperLink again and start the SuperNodes that a round of its own had ended."""
    from infra.local.flower import SUPERLINK
    from infra.local.records import Part

    if not note.exists():
        return
    configuration, ended = world.configuration, set(json.loads(note.read_bytes()))
    for region in configuration.region_names:
        world.aim_link(region, world.ports[SUPERLINK], host=configuration.host)
    for region in configuration.region_names:
        if region in ended:
            world.heal(region, Part.SUPERNODE)
    note.unlink()


def _simulate(arguments: argparse.Namespace) -> int:
    import msgspec

    from federation.flower.deployment import RunOptions
    from federation.flower.simulating import Trial, simulate
    from federation.phones.dataset import read_regions
    from infra.plumbing.clock import SystemClock

    trial = Trial(
        release=arguments.release, dataset=arguments.dataset, phones=arguments.phones,
        regions=tuple(arguments.region) or read_regions(arguments.dataset), dropout_share=arguments.dropouts,
        noise_multiplier=arguments.noise, epsilon_max=arguments.epsilon_max,
    )  # fmt: skip
    # Ray is fetched at the first use; no other environment grows by it.
    bootstrap.prepare(("simulation",))
    engine = bootstrap.HOME / "envs" / "simulation" / "bin" / "python"
    with progress_bar() as progress:
        options = RunOptions(
            timeout_s=240.0 + ENGINE_ROUND_S * arguments.rounds, round_timeout_s=ENGINE_ROUND_S, engine=engine,
            progress=progress,
        )  # fmt: skip
        result = simulate(
            arguments.state / "simulation", trial, rounds=arguments.rounds, training=_training(arguments),
            options=options, clock=SystemClock(),
        )  # fmt: skip
    emit(arguments, msgspec.to_builtins(result.outcome) | {"phones": result.phones}, _said(result.outcome))
    return 0 if result.outcome.ok else 1


def _said(outcome: Any) -> str:
    spent = "infinite" if outcome.epsilon is None else f"{outcome.epsilon:.3g}"
    text = (
        f"{outcome.devices} updates in {len(outcome.rounds)} rounds; epsilon {spent} at delta {outcome.delta:g} in all"
    )
    items = f"\nitems: {outcome.items_path}" if outcome.items_path else ""
    return f"{text}\nadapter: {outcome.adapter_path}{items}"


def _silos(arguments: argparse.Namespace, world: Any) -> frozenset[str]:
    """The regions that take part without phones."""
    from infra.local.flower import silos_of

    named = frozenset(world.configuration.region(name).name for name in arguments.silo)
    return named or silos_of(world.configuration)


def _training(arguments: argparse.Namespace) -> Any:
    from federation.flower.plan import TrainingPlan, items_training
    from federation.messages import Part

    if arguments.train == Part.CORE:
        return TrainingPlan()
    return items_training(tuple(arguments.category), noise_multiplier=arguments.noise)


@contextmanager
def _phones(
    arguments: argparse.Namespace, world: Any, *, without: frozenset[str] = frozenset()
) -> Iterator[dict[str, Any]]:
    """Simulated phones around a block; afterwards the dictionary holds their report."""
    import msgspec

    from federation.flower.plan import TARGETS
    from federation.flower.processes import start
    from federation.settings import PhonesSettings
    from infra.local.tiers import source_root
    from infra.plumbing.environment import environment_with
    from infra.plumbing.errors import InvalidInputError
    from infra.plumbing.files import write_atomically

    report: dict[str, Any] = {}
    if not arguments.phones or without == frozenset(world.configuration.region_names):
        yield report
        return
    if arguments.dataset is None:
        raise InvalidInputError("--phones needs --dataset.", fix="Name the folder whose users the phones belong to.")
    state = _directory(arguments.state).absolute()
    report_file = state / "phones-report.json"
    report_file.unlink(missing_ok=True)
    names = [name for name in world.configuration.region_names if name not in without]
    settings = PhonesSettings(
        gateways={region: world.gateway_url(region) for region in names},
        gateways_tls=world.caller_tls,
        keys_files={region: str(world.layout.keys(region)) for region in names},
        dataset_directory=str(arguments.dataset.absolute()),
        release_directory=str(arguments.release.absolute()),
        state_directory=str(state / "phones"),
        phones_per_region=arguments.phones,
        canary=arguments.canary,
        patience_s=600.0,
        report_file=str(report_file),
        targets_file=str(state / TARGETS / "phones.json"),
        adapter_file=str(state / "outcome" / "adapter.npy"),
    )
    file = state / "phones.json"
    write_atomically(file, msgspec.json.encode(settings))
    # Small matrices: more threads than one only get in each other's way.
    process = start(
        [sys.executable, "-m", "federation.phones", "--settings", str(file)],
        log_file=state / "phones.log", environment=environment_with({"OPENBLAS_NUM_THREADS": "1"}),
        directory=source_root(),
    )  # fmt: skip
    try:
        yield report
        process.send_signal(signal.SIGTERM)
        if process.wait(timeout=PHONES_END_S) == 0 and report_file.exists():
            report |= msgspec.json.decode(report_file.read_bytes())
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def _status(arguments: argparse.Namespace) -> None:
    from federation import commands

    found = commands.status(state_directory=_directory(arguments.state), ledger_file=_ledger_file(arguments.state))
    last = "no run yet" if found.last is None else f"last run: {found.last.devices} updates, ok {found.last.ok}"
    norm = f"\nclipping norm: {found.last.norm}" if found.last is not None and found.last.norm else ""
    emit(arguments, found, f"{last}; {found.ledger.rounds} rounds booked, epsilon {found.ledger.epsilon}{norm}")


def _ledger(arguments: argparse.Namespace) -> None:
    import msgspec

    from federation import commands

    file = _ledger_file(arguments.state)
    if arguments.region:
        from federation.gateway.budget import LEDGER_FILE
        from infra.local.layout import layout_of
        from infra.plumbing.errors import InvalidInputError

        file = layout_of(arguments.state).region(arguments.region) / "gateway" / LEDGER_FILE
        if not file.parent.is_dir():
            raise InvalidInputError(f"there is no gateway of {arguments.region} in this world.", fix="Name its region.")
    found = commands.ledger(file)
    rows = [msgspec.to_builtins(entry) for entry in found.entries]
    head = (
        f"{found.rounds} rounds, epsilon {found.epsilon} of {found.epsilon_max} at delta {found.delta}; the chain holds"
    )
    emit(arguments, found, f"{table(rows)}\n{head}")


def _vector(arguments: argparse.Namespace) -> None:
    from federation.phones.vectors import portable_headers

    headers = portable_headers(arguments.release, arguments.dataset, arguments.users)
    rows = [{"user": user, **named} for user, named in headers.items()]
    emit(arguments, {"vectors": headers}, table(rows))
