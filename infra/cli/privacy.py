"""`atoll privacy`: the data protection officer's day: choices, exports, erasures, receipts."""

import argparse
from pathlib import Path
from typing import Any

from infra.cli.output import add_json_option, emit, table
from infra.cli.region import add_door_options, door_of
from infra.cli.world import add_state_option
from infra.plumbing.errors import AtollError, InvalidInputError, UnavailableError

_LETS_OUT = {
    "none": "nothing leaves but noised sums of federated rounds, which have budgets of their own",
    "aggregates": "counts of items and pairs may leave, with noise, above a least number of people",
    "pseudonymous": "such counts, and histories of who has not opted out, under keys that the region changes and keeps",
}
"""What each export policy means (`infra.contracts.residency.ExportPolicy`)."""


class AccountChangedError(AtollError):
    """The account of accesses was changed, cut off or written anew."""


def register(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """`atoll privacy opt-out|export|erase|receipt|verify-receipt|audit|why|policy`."""
    text = "a user's rights: no personal lists, everything handed out, everything erased"
    privacy = commands.add_parser(
        "privacy", help=text, description=f"{text}. Example: ./atoll privacy erase --region us-east --user 42"
    )
    verbs = privacy.add_subparsers(metavar="VERB", required=True)
    opt_out = _leaf(
        verbs, "opt-out", _opt_out, "answer a user from popularity only, from the next answer on; --undo takes it back"
    )
    _whom(opt_out, add_state_option)
    opt_out.add_argument("--undo", action="store_true")
    export = _leaf(verbs, "export", _export, "write everything that the region has of a user as JSON")
    _whom(export, add_door_options)
    export.add_argument("--out", type=Path, default=None, metavar="FILE", help="where to; else it is printed")
    erase = _leaf(verbs, "erase", _erase, "erase a user everywhere in the region; writes a signed receipt")
    _whom(erase, add_door_options)
    erase.add_argument("--receipt", type=Path, default=None, metavar="FILE", help="where the receipt is written")
    again = _leaf(
        verbs, "receipt", _receipt, "a new signed receipt of an earlier erasure: counted anew, and what has gone since"
    )
    _whom(again, add_door_options)
    again.add_argument("--receipt", type=Path, default=None, metavar="FILE", help="where the receipt is written")
    audit = _leaf(verbs, "audit", _audit, "who read or changed whose data, and whether that account is whole")
    audit.add_argument("--region", required=True)
    add_door_options(audit)
    audit.add_argument("--n", type=int, default=20, help="how many entries are shown, the latest (default 20)")
    audit.add_argument(
        "--verify", action="store_true", help="exit 2 when the account was changed, cut off or reordered"
    )
    audit.add_argument(
        "--head", type=Path, action="append", default=[], metavar="FILE",
        help="a receipt, or a head saved earlier, that the account must still hold; may be repeated",
    )  # fmt: skip
    audit.add_argument(
        "--heads", type=Path, default=None, metavar="DIR",
        help="where this command keeps, by node, the head that it found whole last, to hold the next one against "
        "(default audit-heads/ in the world's state; keep it where the nodes cannot write)",
    )  # fmt: skip
    audit.add_argument("--save-head", type=Path, default=None, metavar="FILE", help="keep where the account stands now")
    audit.add_argument("--trust", type=Path, default=None, metavar="FILE", help="the trust directory, without a world")
    why = _leaf(verbs, "why", _why, "which of a user's own signals put an item on their list, and what they can do")
    _whom(why, add_door_options)
    why.add_argument("--item", required=True)
    why.add_argument("--locale", default="en", help="the language of the answer (default en)")
    policy = _leaf(verbs, "policy", _policy, "what the region lets out for central to learn from")
    policy.add_argument("--region", required=True)
    add_door_options(policy)
    verify = _leaf(verbs, "verify-receipt", _verify, "say whether a region signed a receipt, and what it says")
    verify.add_argument("receipt", type=Path, metavar="FILE")
    add_state_option(verify)
    verify.add_argument("--trust", type=Path, default=None, metavar="FILE", help="the trust directory, without a world")


def _leaf(verbs: Any, name: str, run: Any, text: str) -> argparse.ArgumentParser:
    words = {
        "verify-receipt": "receipt.json",
        "audit": "--region us-east --verify",
        "policy": "--region us-east",
        "why": "--region us-east --user 42 --item 7",
    }.get(name, "--region us-east --user 42")
    parser: argparse.ArgumentParser = verbs.add_parser(
        name, help=text, description=f"{text}. Example: ./atoll privacy {name} {words}"
    )
    add_json_option(parser)
    parser.set_defaults(run=run)
    return parser


def _whom(parser: argparse.ArgumentParser, add_where: Any) -> None:
    parser.add_argument("--region", required=True, help="the user's home region")
    parser.add_argument("--user", required=True, help="the user's id, as the application knows it")
    add_where(parser)


def _opt_out(arguments: argparse.Namespace) -> None:
    import urllib3

    from infra.local.world import open_world
    from infra.plumbing.clock import SystemClock
    from infra.plumbing.tokens import issue_token

    world = open_world(arguments.state)
    token = issue_token(world.keys(arguments.region), arguments.user, clock=SystemClock(), life_s=60)
    opted_out = not arguments.undo
    with urllib3.PoolManager(ssl_context=world.ssl_context()) as pool:
        answer = pool.request(
            "PUT", f"{world.edge_urls(arguments.region)[0]}/v1/privacy/opt-out", json={"opted_out": opted_out},
            headers={"Authorization": f"Bearer {token}"}, timeout=10.0, retries=False,
        )  # fmt: skip
    if answer.status != 200:
        raise UnavailableError(f"the edge answered {answer.status}: {answer.data[:300].decode(errors='replace')}")
    text = "The user's lists are not personal any more." if opted_out else "The user's lists are personal again."
    emit(arguments, {"region": arguments.region, "opted_out": opted_out}, text)


def _export(arguments: argparse.Namespace) -> None:
    import msgspec

    from infra.plumbing.private_files import write_private
    from region.privacy import commands

    answer = commands.export(*door_of(arguments), user=arguments.user)
    if not answer.complete:
        raise AtollError(
            "the log holds more events of this user than one export takes.",
            fix="Export the region's log: ./atoll events export.",
        )
    if arguments.out is None:
        print(msgspec.json.format(msgspec.json.encode(answer), indent=2).decode())
        return
    # All that there is of a person: theirs who asked, whatever the umask.
    write_private(arguments.out, msgspec.json.encode(answer))
    counts = {"events": len(answer.events), "samples": len(answer.samples), "requests": len(answer.requests)}
    emit(arguments, counts, f"{len(answer.events)} events and all else are in {arguments.out}")


def _erase(arguments: argparse.Namespace) -> None:
    from region.privacy import commands

    _keep(arguments, commands.erase(*door_of(arguments), user=arguments.user))


def _receipt(arguments: argparse.Namespace) -> None:
    from region.privacy import commands

    _keep(arguments, commands.receipt(*door_of(arguments), user=arguments.user))


def _keep(arguments: argparse.Namespace, signed: Any) -> None:
    """Write a receipt into its file and say what it says."""
    import msgspec

    path = arguments.receipt or Path(f"erasure-{signed.receipt.mark[:12]}.json")
    try:
        path.write_bytes(msgspec.json.encode(signed))
    except OSError as error:
        raise InvalidInputError(f"the receipt could not be written: {error}. The user is erased.") from error
    emit(arguments, {**msgspec.to_builtins(signed), "file": str(path)}, f"{_text(signed.receipt)}\nreceipt: {path}")


def _why(arguments: argparse.Namespace) -> None:
    from region.privacy import commands

    found = commands.why(
        *door_of(arguments), user=arguments.user, item=arguments.item, locale=arguments.locale
    )  # fmt: skip
    lines = [found.text]
    for signal in found.signals:
        place = f"place {signal.position_without}" if signal.position_without else "not on the list"
        lines.append(f"  {signal.text} (without it: {place})")
    where = f"place {found.position}" if found.position else "not on the list"
    reason = f" ({found.reason.text})" if found.reason else ""
    lines += [
        f"now: {where}{reason}",
        *(f"- {way.text}  {way.method} {way.path} {way.body}".rstrip() for way in found.ways),
    ]
    emit(arguments, found, "\n".join(lines))


def _policy(arguments: argparse.Namespace) -> None:
    from region.releases import commands

    status = commands.status(*door_of(arguments))
    found = {"region": status.region, "export_policy": status.export_policy}
    emit(arguments, found, f"{status.region}: {status.export_policy}: {_LETS_OUT.get(status.export_policy, '')}")


def _audit(arguments: argparse.Namespace) -> None:
    import msgspec

    from infra.local.layout import Layout
    from infra.plumbing.files import write_atomically
    from infra.plumbing.keys import TrustDirectory
    from region.privacy import accesses, commands

    page = commands.accesses(*door_of(arguments))
    trust = TrustDirectory.load(arguments.trust or Layout(state=arguments.state).trust)
    heads = arguments.heads or arguments.state / "audit-heads"
    last = heads / f"{page.head.region}.{page.head.node.replace('/', '.')}.json"
    held = [_head_in(path) for path in (*arguments.head, *((last,) if last.exists() else ()))]
    problems = accesses.verify(page.entries, page.head, trust, held=held)
    if not problems:  # else what was whole last is the evidence
        write_atomically(last, msgspec.json.encode(page.head))
    if arguments.save_head is not None:
        arguments.save_head.write_bytes(msgspec.json.encode(page.head))
    shown = page.entries[-max(0, arguments.n) :] if arguments.n else ()
    rows = [
        {"number": one.number, "at_ms": one.at_ms, "who": one.who, "action": one.action, "outcome": one.outcome,
         "mark": one.mark[:12], "detail": one.detail[:40]}
        for one in shown
    ]  # fmt: skip
    kept = f"{len(page.entries)} entries, {page.head.first} to {page.head.last}; {len(held)} heads held"
    says = (
        "\n".join(f"NOT WHOLE: {problem}" for problem in problems) or "whole: every entry follows from the one before"
    )
    result = {"entries": len(page.entries), "head": page.head, "problems": problems, "latest": rows}
    emit(arguments, result, f"{table(rows)}\n{kept}\n{says}")
    if problems and arguments.verify:
        raise AccountChangedError(
            "the account of accesses is not what the region signed.", fix="Ask who had its files."
        )


def _head_in(path: Path) -> Any:
    """The head in a file that `--save-head` wrote, or in a receipt."""
    import msgspec

    from region.privacy.accesses import AccessHead
    from region.privacy.messages import SignedReceipt

    try:
        content = path.read_bytes()
        document = msgspec.json.decode(content)
        if isinstance(document, dict) and "receipt" in document:
            head = msgspec.json.decode(content, type=SignedReceipt).receipt.accesses
        else:
            head = msgspec.json.decode(content, type=AccessHead)
    except (OSError, msgspec.DecodeError) as error:
        raise InvalidInputError(
            f"{path} holds no head: {error}.", fix="Name a receipt or what --save-head wrote."
        ) from None
    if head is None:
        raise InvalidInputError(f"the receipt {path} is of before there were heads.")
    return head


def _verify(arguments: argparse.Namespace) -> None:
    from infra.local.layout import Layout
    from infra.plumbing.keys import TrustDirectory
    from region.privacy.receipts import read_receipt

    trust = TrustDirectory.load(arguments.trust or Layout(state=arguments.state).trust)
    try:
        content = arguments.receipt.read_bytes()
    except OSError as error:
        raise InvalidInputError(f"{arguments.receipt} cannot be read: {error.strerror}.") from error
    receipt = read_receipt(content, trust)
    emit(arguments, receipt, f"signed by {receipt.region}\n{_text(receipt)}")


def _text(receipt: Any) -> str:
    rows = [
        {"place": one.place, "what": one.what, "before": one.before, "removed": one.removed, "after": one.after,
         "remains": one.remains}
        for one in receipt.places
    ]  # fmt: skip
    state = "complete" if receipt.complete else "NOT complete: see `after`, `remains` and the deposits' fates"
    looked_ms = receipt.looked_ms or 0  # UNSET is false
    took = (
        f"looked at {(looked_ms - receipt.erased_ms) / 86_400_000:.1f} days later"
        if looked_ms
        else (f"in {(receipt.finished_ms - receipt.erased_ms) / 1000:.2f} s")
    )
    told = "" if receipt.edges_told else "\nthe grid does not answer: edges hear of it when it does"
    deposits = [
        {"place": one.place, "deposit": deposit.where, "fate": deposit.fate.value, "until": deposit.until,
         "proof": deposit.proof}
        for one in receipt.places for deposit in one.deposits or ()
    ]  # fmt: skip
    lies = f"\n{table(deposits)}" if deposits else ""
    untouched = "\n".join(f"not touched: {one}" for one in receipt.not_reached)
    return f"{table(rows)}{lies}\n{state}, {took}, mark {receipt.mark}{told}\n{untouched}"
