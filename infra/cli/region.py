"""`atoll region REGION ...`: the operator's day."""

import argparse
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from infra.cli.extracts import register_extract
from infra.cli.items import register_items
from infra.cli.output import add_json_option, emit, table
from infra.cli.region_looks import register_region_looks
from infra.cli.world import add_state_option
from infra.plumbing.errors import AtollError, InvalidInputError

KEY_CHARACTERS_MAX = 100

if TYPE_CHECKING:
    from infra.plumbing.http.tls import ClientTls
    from region.releases.trial import TrialPlan


def register(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """`atoll region`."""
    text = "operate one region's releases"
    region = commands.add_parser("region", help=text, description=f"{text}. Example: ./atoll region us-east releases")
    region.add_argument("region", help="the region's name")
    verbs = region.add_subparsers(metavar="VERB", required=True, prog="atoll region REGION")
    releases = _leaf(verbs, "releases", _releases, "what the region has and runs")
    releases.add_argument("--published", action="store_true", help="what central has published, which can be pulled")
    _leaf(verbs, "status", _status, "the node at a glance: what it runs, what its answers missed, memory for tables")
    pull = _leaf(verbs, "pull", _pull, "bring a release to the region; only what it does not have yet is fetched")
    pull.add_argument("release", nargs="?", default=None, help="a release id; the channel's release if not given")
    pull.add_argument("--channel", default="stable")
    register_region_looks(verbs, _leaf, door_of)
    _release(_leaf(verbs, "verify", _verify, "hash every file of a pulled release anew"))
    promote = _leaf(verbs, "promote", _promote, "make a pulled release the active one")
    _release(promote)
    promote.add_argument("--dry-run", action="store_true", help="check everything, change nothing")
    _leaf(verbs, "rollback", _rollback, "go back to the release before; a second time changes nothing")
    _leaf(verbs, "pin", _pin, "refuse every promotion until unpinned")
    _leaf(verbs, "unpin", _unpin, "allow promotions again")
    _leaf(verbs, "freeze", _freeze, "refuse every change but a roll-back until unfrozen")
    _leaf(verbs, "unfreeze", _unfreeze, "allow changes again")
    for name, says in (
        ("shadow", "ask a pulled release what callers ask, answer nobody with it, and compare"),
        (
            "canary",
            "answer a share of the subjects from a pulled release; it is promoted, held or rolled back by itself",
        ),
    ):
        _trial_plan(_leaf(verbs, name, _begin_trial, says), name)
    _leaf(verbs, "trial", _trial, "how the shadow or canary stands, or how the last one ended")
    _leaf(verbs, "stop-trial", _stop_trial, "end the shadow or canary; the active release goes on")
    audit = _leaf(verbs, "audit", _audit, "who did what, latest last")
    audit.add_argument("--last", type=int, default=100, metavar="N", help="how many entries, up to 1,000 (default 100)")
    _items(_leaf(verbs, "withdraw", _withdraw, "show these items to nobody in this region, from the next answer on"))
    _items(_leaf(verbs, "restore", _restore, "let withdrawn items be shown again"))
    register_items(verbs, add_door_options, door_of)
    register_extract(verbs)
    purge = _leaf(verbs, "purge", _purge, "have cached lists made anew that hold an item or carry a tag")
    purge.add_argument("--item", action="append", default=[], dest="items", metavar="ITEM", help="may be repeated")
    purge.add_argument(
        "--tag",
        action="append",
        default=[],
        dest="tags",
        metavar="KIND:NAME",
        help="category:drama, brand:acme",
    )


def _leaf(verbs: Any, name: str, run: Any, text: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = verbs.add_parser(
        name, help=text, description=f"{text}. Example: ./atoll region us-east {name}"
    )
    add_door_options(parser)
    add_json_option(parser)
    parser.set_defaults(run=run)
    return parser


def add_door_options(parser: argparse.ArgumentParser) -> None:
    """Where the region is: in a world on this machine, or behind a URL."""
    add_state_option(parser)
    parser.add_argument("--url", default=None, help="the region's API, when it is not in a world on this machine")
    parser.add_argument(
        "--key-file", type=Path, default=None, metavar="FILE",
        help="with --url: the region's keys, or the key that `keys operator add` made for you",
    )  # fmt: skip
    parser.add_argument(
        "--as", default=None, metavar="NAME", dest="operator",
        help="who is at work, for the audit; whoever has the region's keys may say any name",
    )  # fmt: skip
    parser.add_argument("--ca", type=Path, default=None, metavar="FILE", help="whom to trust, with --url https://...")
    parser.add_argument(
        "--certificate", type=Path, default=None, metavar="FILE", help="the operator's certificate and key, with --ca"
    )


def _release(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("release", help="a release id, as `releases` lists it")


def _items(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("items", nargs="+", metavar="ITEM")


def _trial_plan(parser: argparse.ArgumentParser, kind: str) -> None:
    _release(parser)
    parser.set_defaults(kind=kind)
    parser.add_argument("--share", type=float, default=0.1, help="of the subjects or calls, up to 0.5 (default 0.1)")
    parser.add_argument("--minutes", type=float, default=60.0, help="how long at most (default 60)")
    if kind == "canary":
        parser.add_argument(
            "--slow-ms", type=float, default=75.0, help="an answer that takes longer is slow (default 75)"
        )
        parser.add_argument(
            "--click-loss-max", type=float, default=0.1, help="share of clicks that may be lost (default 0.1)"
        )


def door_of(arguments: argparse.Namespace) -> "tuple[str, str, ClientTls | None]":
    """URL and operator key of the region, and what to trust and show where it speaks TLS."""
    from infra.local.world import open_world
    from infra.plumbing.operators import named_key

    if arguments.url and arguments.key_file is None:
        raise InvalidInputError("--url needs --key-file.", fix="Name your key, or the region's keys.json.")
    if arguments.url:
        url, key, tls = arguments.url, _key_in(arguments.key_file), _tls_of(arguments)
    else:
        url, key, tls = open_world(arguments.state).operator_door(arguments.region)
    if arguments.operator is None:
        return url, key, tls
    if ":" in key:
        raise InvalidInputError("your key says who you are already.", fix="Leave --as out.")
    return url, named_key(key, arguments.operator), tls


def _key_in(file: Path) -> str:
    """An operator's own key (one line of text), or the operator key in a region's file of keys."""
    from infra.plumbing.keys import RegionKeys
    from infra.plumbing.private_files import check_private

    check_private(file)
    try:
        with file.open(encoding="ascii") as opened:
            first = opened.read(KEY_CHARACTERS_MAX + 1).strip()
    except (OSError, UnicodeDecodeError):
        first = ""  # What is wrong with it is said below.
    if ":" in first and len(first) <= KEY_CHARACTERS_MAX and not first.startswith("{"):
        return first
    return RegionKeys.load(file).operator_key


def _tls_of(arguments: argparse.Namespace) -> "ClientTls | None":
    from infra.plumbing.http.tls import ClientTls

    if arguments.ca is None:
        return None
    shown = str(arguments.certificate or "")
    return ClientTls(ca_file=str(arguments.ca), certificate_file=shown, key_file=shown)


def _releases(arguments: argparse.Namespace) -> None:
    from region.releases import commands

    if arguments.published:
        _published(arguments)
        return
    answer = commands.releases(*door_of(arguments))
    rows = [
        {"release": one.release, "origin": one.origin, "dataset": one.dataset, "ndcg10": one.metrics.get("ndcg10"),
         "role": {answer.active: "active", answer.previous: "previous"}.get(one.release, ""),
         "in memory": "yes" if one.warm else ""}
        for one in answer.releases
    ]  # fmt: skip
    marks = [word for word, holds in (("pinned", answer.pinned), ("frozen", answer.frozen)) if holds]
    doing = f"\nbusy: {answer.in_progress}" if answer.in_progress else ""
    emit(arguments, answer, f"{table(rows)}\n{' and '.join(marks) or 'neither pinned nor frozen'}{doing}")


def _published(arguments: argparse.Namespace) -> None:
    from region.releases import commands

    answer = commands.published(*door_of(arguments))
    rows = [
        {"release": one.release, "channels": ",".join(one.channels) or "-", "here": "yes" if one.here else ""}
        for one in answer.releases
    ]  # fmt: skip
    emit(arguments, answer, table(rows))


def _status(arguments: argparse.Namespace) -> None:
    from region.releases import commands

    status = commands.status(*door_of(arguments))
    missed = ", ".join(f"{part} {times:,}" for part, times in sorted(status.degraded.items())) or "nothing"
    lines = (
        f"{status.region}, node {status.node}: {(status.waiting_for and f'waits for {status.waiting_for}') or 'ready'}",
        f"active release: {status.active or 'none'}; before it: {status.previous or 'none'}",
        f"withdrawn items: {status.withdrawn:,}; lists being made: {status.computing}",
        f"answers since the start missed: {missed}",
        f"mapped files may take {status.mapped_mb_max:,} MB of its memory: {status.mapped_because}",
    )
    emit(arguments, status, "\n".join(lines))


def _pull(arguments: argparse.Namespace) -> None:
    from region.releases import commands

    channel = None if arguments.release else arguments.channel
    answer = commands.pull(*door_of(arguments), channel=channel, release=arguments.release)
    emit(
        arguments,
        answer,
        f"{answer.release}: {answer.bytes_fetched:,} bytes fetched, {answer.bytes_reused:,} were here already"
        + (f"\nno longer here, as the disk keeps a few: {', '.join(answer.collected)}" if answer.collected else ""),
    )


def _verify(arguments: argparse.Namespace) -> None:
    from region.releases import commands

    answer = commands.verify(*door_of(arguments), release=arguments.release)
    if not answer.ok:
        raise AtollError(
            f"{arguments.release} is damaged on disk: {', '.join(answer.damaged)}.",
            fix="Pull it again: what is damaged is fetched anew.",
        )
    emit(arguments, answer, f"{arguments.release}: all {answer.files} files are what was signed")


def _promote(arguments: argparse.Namespace) -> None:
    from region.releases import commands

    answer = commands.promote(*door_of(arguments), release=arguments.release, dry_run=arguments.dry_run)
    if answer.dry_run:
        emit(arguments, answer, f"{arguments.region} would answer from {arguments.release}; nothing was changed")
        return
    emit(arguments, answer, f"{arguments.region} answers from {arguments.release}")


def _rollback(arguments: argparse.Namespace) -> None:
    from region.releases import commands

    answer = commands.rollback(*door_of(arguments))
    if answer.from_release == answer.to_release:
        says = "the latest switch was a roll-back already, and nothing was changed. To go elsewhere promote a release."
        emit(arguments, answer, f"{arguments.region} answers from {answer.to_release}: {says}")
        return
    emit(arguments, answer, f"{arguments.region} answers from {answer.to_release} again")


def _pin(arguments: argparse.Namespace) -> None:
    from region.releases import commands

    emit(arguments, commands.pin(*door_of(arguments)), f"{arguments.region} refuses promotions until it is unpinned")


def _unpin(arguments: argparse.Namespace) -> None:
    from region.releases import commands

    emit(arguments, commands.unpin(*door_of(arguments)), f"{arguments.region} can be promoted again")


def _freeze(arguments: argparse.Namespace) -> None:
    from region.releases import commands

    emit(arguments, commands.freeze(*door_of(arguments)), f"{arguments.region} takes no change but a roll-back")


def _unfreeze(arguments: argparse.Namespace) -> None:
    from region.releases import commands

    emit(arguments, commands.unfreeze(*door_of(arguments)), f"{arguments.region} takes changes again")


def _begin_trial(arguments: argparse.Namespace) -> None:
    from region.releases import commands
    from region.releases.trial import TrialKind

    plan = _plan(arguments)
    report = commands.begin_trial(*door_of(arguments), kind=TrialKind(arguments.kind), plan=plan)
    emit(
        arguments,
        report,
        f"{arguments.region} tries {arguments.release}; see `./atoll region {arguments.region} trial`",
    )


def _plan(arguments: argparse.Namespace) -> "TrialPlan":
    """The trial that the options ask for.

    Raises:
        InvalidInputError: one of them is out of bounds; says which.
    """
    import msgspec

    from region.releases.trial import TrialPlan

    asked = {"release": arguments.release, "share": arguments.share, "duration_s": 60.0 * arguments.minutes}
    if arguments.kind == "canary":
        asked |= {"slow_ms": arguments.slow_ms, "click_loss_max": arguments.click_loss_max}
    try:
        return msgspec.convert(asked, TrialPlan)
    except msgspec.ValidationError as error:
        wanted, _, where = str(error).partition(" - at ")
        field = where.strip("`$.")
        option = "minutes, in seconds," if field == "duration_s" else field.replace("_", "-")
        raise InvalidInputError(
            f"--{option} is {asked.get(field)}: {wanted[:1].lower()}{wanted[1:]}.", fix="See --help."
        ) from error


def _trial(arguments: argparse.Namespace) -> None:
    from region.releases import commands

    report = commands.trial(*door_of(arguments))
    emit(arguments, report, _trial_text(report))


def _stop_trial(arguments: argparse.Namespace) -> None:
    from region.releases import commands

    report = commands.stop_trial(*door_of(arguments))
    emit(arguments, report, _trial_text(report))


def _trial_text(report: Any) -> str:
    rows = [
        {"watched": name, "active release": control, "tried": tried, "e-value": report.evidence[name],
         "acts at": report.acts_at.get(name)}
        for name, (control, tried) in report.rates.items()
    ]  # fmt: skip
    head = f"{report.kind.value} of {report.plan.release}, {report.elapsed_s:.0f} s, {report.answers} answers"
    means = "\nof the first four the mean of the e-values has to get there" if report.acts_at else ""
    overlap = "" if report.overlap is None else f"\n{report.overlap:.0%} of the first ten items are the same"
    return f"{head}\n{table(rows)}{means}{overlap}\n{report.decision}: {report.why}"


def _audit(arguments: argparse.Namespace) -> None:
    from region.releases import commands

    answer = commands.audit(*door_of(arguments), count=arguments.last)
    rows = [
        {"at": datetime.fromtimestamp(entry.at_ms / 1000, tz=UTC).isoformat(" ", "seconds"), "operator": entry.operator,
         "action": entry.action, "from": entry.from_release, "to": entry.to_release, "outcome": entry.outcome,
         "detail": entry.detail}
        for entry in answer.entries
    ]  # fmt: skip
    emit(arguments, answer, table(rows))


def _withdraw(arguments: argparse.Namespace) -> None:
    from region.releases import commands

    answer = commands.withdraw(*door_of(arguments), items=arguments.items)
    emit(arguments, answer, f"{answer.withdrawn_total} are withdrawn now. {_told(answer.edges_told)}")


def _restore(arguments: argparse.Namespace) -> None:
    from region.releases import commands

    answer = commands.restore(*door_of(arguments), items=arguments.items)
    emit(arguments, answer, f"{answer.withdrawn_total} are still withdrawn. {_told(answer.edges_told)}")


def _purge(arguments: argparse.Namespace) -> None:
    from region.releases import commands

    answer = commands.purge(*door_of(arguments), items=arguments.items, tags=arguments.tags)
    emit(arguments, answer, f"{answer.purged} names purged. {_told(answer.edges_told)}")


def _told(edges_told: bool) -> str:  # noqa: FBT001 - a sentence for a fact
    return "The edges know." if edges_told else "The grid does not answer: the edges ask within a second or two."
