"""`atoll release init|renew|rotate-key|delegate`: the repository's keys. Runs in the central environment."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from infra.cli.output import add_json_option, emit
from infra.plumbing.clock import SystemClock
from infra.plumbing.errors import InvalidInputError
from infra.plumbing.tuf_client.signing import read_passphrase, read_public

if TYPE_CHECKING:
    from central.release.keys import RootKeys

REPOSITORY, RELEASE_KEYS = Path(".atoll/repository"), Path(".atoll/release-keys")
ROLES = ("root", "targets", "snapshot", "timestamp")


def leaf(commands: Any, name: str, run: Any, text: str, example: str) -> argparse.ArgumentParser:
    """A verb with `--json`, `--help` and an example."""
    parser: argparse.ArgumentParser = commands.add_parser(name, help=text, description=f"{text}. Example: {example}")
    add_json_option(parser)
    parser.set_defaults(run=run)
    return parser


def leaf_repository(verbs: Any, name: str, run: Any, text: str, example: str) -> argparse.ArgumentParser:
    """A verb over a repository and its keys."""
    parser = leaf(verbs, name, run, text, example)
    parser.add_argument("--repository", type=Path, default=REPOSITORY, metavar="DIR")
    parser.add_argument(
        "--keys", type=Path, default=RELEASE_KEYS, metavar="DIR", help="the signing keys; keep them safe"
    )
    return parser


def register_keys(verbs: Any) -> None:
    """`init`, `renew`, `rotate-key` and `delegate`."""
    init = leaf_repository(
        verbs, "init", _init, "make a repository and its signing keys",
        "./atoll release init --root-keys /media/safe/root-keys --root-passphrase-file FILE",
    )  # fmt: skip
    init.add_argument(
        "--root-threshold", default="2/3", metavar="M/N", help="M of N root keys must sign a root (default 2/3)"
    )
    init.add_argument(
        "--threshold", action="append", default=[], metavar="ROLE=M/N", dest="thresholds",
        help="M of N keys of another role must sign (default 1/1), as in targets=2/3; may be repeated",
    )  # fmt: skip
    renew = leaf_repository(
        verbs, "renew", _renew, "sign what will expire anew; run it daily (twice a year it needs the root keys)",
        "./atoll release renew",
    )  # fmt: skip
    rotate = leaf_repository(
        verbs, "rotate-key", _rotate, "replace the keys of a role; readers go on, and believe the old ones no more",
        "./atoll release rotate-key timestamp",
    )  # fmt: skip
    rotate.add_argument("role", choices=ROLES)
    rotate.add_argument(
        "--number", type=int, default=None, metavar="N",
        help="replace only key N of the role (it may be lost); all of them otherwise",
    )  # fmt: skip
    for parser in (init, renew, rotate):
        parser.add_argument(
            "--root-keys",
            type=Path,
            default=None,
            metavar="DIR",
            help="where the root keys are, if not with the others",
        )
        parser.add_argument(
            "--root-passphrase-file",
            type=Path,
            default=None,
            metavar="FILE",
            help="what the root keys are encrypted with",
        )
    delegate = leaf_repository(
        verbs, "delegate", _delegate, "let a region's own keys sign its rules, and nothing else",
        "./atoll release delegate us-east --public-key us-east.pub.pem",
    )  # fmt: skip
    delegate.add_argument("region")
    delegate.add_argument(
        "--public-key", type=Path, action="append", default=[], metavar="FILE", dest="public_keys",
        help="as `./atoll rules key` hands it out; may be repeated: exactly these keys count from now on",
    )  # fmt: skip
    delegate.add_argument("--threshold", type=int, default=1, help="how many of them must sign (default 1)")
    delegate.add_argument("--withdraw", action="store_true", help="leave nothing to the region any more")


def _root_keys(arguments: argparse.Namespace) -> "RootKeys | None":
    from central.release.keys import RootKeys

    passphrase = read_passphrase(arguments.root_passphrase_file)
    if arguments.root_keys is None and passphrase is None:
        return None
    return RootKeys(arguments.root_keys or arguments.keys, passphrase)


def _threshold(text: str) -> tuple[str, int, int]:
    """Role, how many keys must sign, and how many there are, of `ROLE=M/N`."""
    role, _, share = text.partition("=")
    needed, _, count = share.partition("/")
    if role not in ROLES or not (needed.isdecimal() and count.isdecimal()):
        raise InvalidInputError(f"{text[:40]!r} is no threshold.", fix=f"Say M/N of {', '.join(ROLES)}: targets=2/3.")
    return role, int(needed), int(count)


def _init(arguments: argparse.Namespace) -> None:
    from central.release.keys import DEFAULT_PLAN, Role, RolePlan
    from central.release.repository import init_repository

    plan = dict(DEFAULT_PLAN)
    for text in (f"root={arguments.root_threshold}", *arguments.thresholds):
        role, needed, count = _threshold(text)
        plan[Role(role)] = RolePlan(keys=count, threshold=needed)
    root_keys = _root_keys(arguments)
    init_repository(
        repository=arguments.repository, keys=arguments.keys, clock=SystemClock(), plan=plan, root_keys=root_keys
    )
    apart = f"; the root keys are in {root_keys.directory}: take them away" if root_keys is not None else ""
    emit(
        arguments, {"repository": str(arguments.repository), "keys": str(arguments.keys)},
        f"{arguments.repository} is ready; its keys are in {arguments.keys}{apart}",
    )  # fmt: skip


def _renew(arguments: argparse.Namespace) -> None:
    from central.release.repository import renew

    view = renew(
        repository=arguments.repository, keys=arguments.keys, clock=SystemClock(), root_keys=_root_keys(arguments)
    )
    version = view.timestamp.version
    emit(arguments, {"version": version}, f"{arguments.repository} is signed anew (version {version})")


def _rotate(arguments: argparse.Namespace) -> None:
    from central.release.keys import Role
    from central.release.rotation import rotate_keys

    done = rotate_keys(
        repository=arguments.repository, keys=arguments.keys, role=Role(arguments.role), clock=SystemClock(),
        number=arguments.number, root_keys=_root_keys(arguments),
    )  # fmt: skip
    new, retired = (", ".join(keyid[:16] for keyid in keyids) for keyids in (done.new, done.retired))
    emit(
        arguments, done,
        f"root {done.root_version}: {new} sign for {done.role} from now on ({done.threshold} of {done.keys} must); "
        f"{retired} count no more",
    )  # fmt: skip


def _delegate(arguments: argparse.Namespace) -> None:
    from central.release.delegating import delegate, withdraw_delegation

    where: dict[str, Any] = {
        "repository": arguments.repository, "keys": arguments.keys, "region": arguments.region, "clock": SystemClock(),
    }  # fmt: skip
    if arguments.withdraw:
        if arguments.public_keys:
            raise InvalidInputError("--withdraw takes no key.", fix="Leave --public-key out.")
        emit(arguments, withdraw_delegation(**where), f"nothing is left to {arguments.region} any more")
        return
    public_keys = [read_public(path) for path in arguments.public_keys]
    done = delegate(**where, public_keys=public_keys, threshold=arguments.threshold)
    ids = ", ".join(keyid[:16] for keyid in done.key_ids)
    emit(arguments, done, f"{done.threshold} of the keys {ids} sign for {done.folder}; rules without it are refused")
