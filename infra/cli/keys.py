"""`atoll keys`: tokens of users, certificates of devices, keys of services, operators, issuers and what a region keeps.

Works on the files of a world on this machine (`--state`), running or not; running processes follow within seconds.
"""

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infra.cli.output import add_json_option, emit, table
from infra.cli.world import add_state_option
from infra.plumbing.clock import Clock, SystemClock
from infra.plumbing.errors import InvalidInputError
from infra.plumbing.files import write_atomically
from infra.plumbing.keys import ACTIVATION_S, RegionKeys, TrustDirectory
from infra.plumbing.locking import locked
from infra.plumbing.operators import named_key
from infra.plumbing.service_keys import Scope, ServiceKeys
from infra.plumbing.tokens import LIFE_S_MAX, issue_token

CLOCK: Clock = SystemClock()
DEVICE_DAYS_MAX = 400


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a region's keys lie, and the trust directory that everybody reads."""

    region: str
    keys: Path
    services: Path
    trust: Path


def register(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """`atoll keys token|device|rotate|retire|list|rotate-rest|service|operator`."""
    text = "tokens of users, keys of services and operators, issuer keys of a region, keys of what it keeps"
    keys = commands.add_parser(
        "keys", help=text, description=f"{text}. Example: ./atoll keys token --region us-east --user 42"
    )
    verbs = keys.add_subparsers(metavar="VERB", required=True)
    token = _leaf(verbs, "token", _token, "a token for a user, as the region's issuer gives it out", "--user 42")
    token.add_argument("--user", required=True, help="the application's own id of the user")
    token.add_argument("--hours", type=float, default=1.0, help="how long it holds (default 1)")
    device = _leaf(
        verbs, "device", _device, "certify a phone's key, as the region's issuer does when it signs a user in",
        "--public HEX --out device.json",
    )  # fmt: skip
    device.add_argument("--public", required=True, metavar="HEX", help="what ./atoll phone key prints")
    device.add_argument("--out", type=Path, required=True, metavar="FILE", help="for the phone: its enrolment")
    device.add_argument("--days", type=float, default=30.0, help="how long it holds (default 30)")
    _leaf(verbs, "list", _list, "the region's issuer keys", "")
    _leaf(verbs, "rotate", _rotate, "make a new issuer key; tokens of the others still hold", "")
    retire = _leaf(verbs, "retire", _retire, "let an issuer key's tokens hold no more", "--kid us-east")
    retire.add_argument("--kid", required=True)
    rest = _leaf(
        verbs, "rotate-rest", _rotate_rest, "a new key of what the region keeps: all keys under it, the old ones go", ""
    )
    rest.add_argument(
        "--settings", type=Path, default=None, metavar="FILE", help="of a node with a key service, without a world"
    )
    service = verbs.add_parser("service", help="keys of services", description="keys of services")
    services = service.add_subparsers(metavar="VERB", required=True)
    add = _leaf(services, "add", _add, "make a key", "--name shop --scope read --scope events")
    add.add_argument("--name", required=True)
    add.add_argument(
        "--scope", action="append", required=True, choices=[scope.value for scope in Scope], help="may be repeated"
    )
    add.add_argument("--days", type=float, default=None, help="how long it holds; without it until it is revoked")
    _leaf(services, "list", _services, "every key, without secrets", "")
    operator = verbs.add_parser("operator", help="keys of operators", description="keys of operators, by name")
    operators = operator.add_subparsers(metavar="VERB", required=True)
    named = _leaf(
        operators, "add", _add_operator, "make an operator's own key: what is done with it stands in the audit by name",
        "--name ada --out ada.key",
    )  # fmt: skip
    named.add_argument("--out", type=Path, default=None, metavar="FILE", help="write it there, readable by you only")
    gone = _leaf(
        operators, "retire", _retire_operator, "let an operator's key open nothing any more, for good", "--name ada"
    )
    for parser in (named, gone):
        parser.add_argument("--name", required=True)
    revoke = _leaf(services, "revoke", _revoke, "let a key hold no more", "--id ATOLL...")
    revoke.add_argument("--id", required=True)


def _leaf(verbs: Any, name: str, run: Any, text: str, options: str) -> argparse.ArgumentParser:
    example = f"./atoll {' '.join(verbs._prog_prefix.split()[1:])} {name} --region us-east {options}".rstrip()  # noqa: SLF001 - argparse tells it nowhere else
    parser: argparse.ArgumentParser = verbs.add_parser(name, help=text, description=f"{text}. Example: {example}")
    parser.add_argument("--region", required=True)
    add_state_option(parser)
    add_json_option(parser)
    parser.set_defaults(run=run)
    return parser


def _token(arguments: argparse.Namespace) -> None:
    if not 0 < arguments.hours * 3600 <= LIFE_S_MAX:
        raise InvalidInputError("the life is out of range.", fix=f"A token holds at most {LIFE_S_MAX // 86_400} days.")
    if not arguments.user:
        raise InvalidInputError("the user has no id.", fix="Name one with --user.")
    keys = RegionKeys.load(_place(arguments).keys)
    token = issue_token(keys, arguments.user, clock=CLOCK, life_s=round(arguments.hours * 3600))
    emit(arguments, {"token": token, "region": keys.region, "hours": arguments.hours}, token)


def _device(arguments: argparse.Namespace) -> None:
    from federation.device.enrolment import Enrolment
    from federation.secure_aggregation.identity import certified
    from infra.contracts.residency import encode_regional
    from infra.plumbing.files import write_atomically

    try:
        public = bytes.fromhex(arguments.public)
    except ValueError:
        public = b""
    if len(public) != 32 or not 0 < arguments.days <= DEVICE_DAYS_MAX:
        raise InvalidInputError(
            "that is no device's key, or its life is out of range.",
            fix=f"Give the 64 hex digits of ./atoll phone key, and at most {DEVICE_DAYS_MAX} days.",
        )
    place = _place(arguments)
    keys = RegionKeys.load(place.keys)
    expires_ms = CLOCK.now_ms() + round(arguments.days * 86_400_000)
    certificate = certified(public, region=keys.region, issuer_private=keys.issuer_private, expires_ms=expires_ms)
    issuer_public = TrustDirectory.load(place.trust).regions[keys.region].issuer_public
    enrolment = Enrolment(certificate=certificate, issuer_public=issuer_public)
    write_atomically(arguments.out, encode_regional(enrolment))
    emit(arguments, {"enrolment": str(arguments.out), "expires_ms": expires_ms}, f"certified: {arguments.out}")


def _list(arguments: argparse.Namespace) -> None:
    _show_issuers(arguments, RegionKeys.load(_place(arguments).keys), "")


def _rotate(arguments: argparse.Namespace) -> None:
    with _changing(arguments) as place:
        keys = RegionKeys.load(place.keys).with_new_issuer(now_ms=CLOCK.now_ms())
        _spread(place, keys)
    says = f"The new key signs in {ACTIVATION_S} s; retire the old one when its tokens have run out."
    _show_issuers(arguments, keys, says)


def _retire(arguments: argparse.Namespace) -> None:
    with _changing(arguments) as place:
        keys = RegionKeys.load(place.keys).without_issuer(arguments.kid)
        _spread(place, keys)
    _show_issuers(arguments, keys, f"Tokens of {arguments.kid} hold no more.")


def _rotate_rest(arguments: argparse.Namespace) -> None:
    """Make a key, wrap everything by it, let the others go: whoever breaks off in between does it again."""
    from infra.cli.events import run_tool

    if arguments.settings is not None:
        _rotate_service(arguments, arguments.settings.resolve())
        return
    with _changing(arguments) as place:
        RegionKeys.load(place.keys).with_new_rest_key(now_ms=CLOCK.now_ms()).save(place.keys)
        settings = place.keys.with_name("region.json")
        done = run_tool("region", "region.keeping", ["rewrap", "--settings", str(settings)])
        keys = RegionKeys.load(place.keys).with_latest_rest_key_only()
        keys.save(place.keys)
    held, version = list(keys.rest_keys()), done.pop("version")
    root = f"version {version} of the key in the key service" if version else f"rest key {held[-1]}"
    text = f"{done['files']} files and {done['subjects']} subjects lie under {root}; other rest keys are gone."
    emit(arguments, {**done, "rest_keys": held}, text)


def _rotate_service(arguments: argparse.Namespace, settings: Path) -> None:
    """A new version of the key in the key service. Versions that are older are the service's to retire."""
    from infra.cli.events import run_tool

    done = run_tool("region", "region.keeping", ["rotate", "--settings", str(settings)])
    text = (
        f"{done['files']} files and {done['subjects']} subjects lie under version {done['version']} of the key in the"
        " key service.\nOlder versions still open. Retire them there (min_decryption_version) when every node has run a"
        " day since, and not before: what a node wrapped meanwhile without reaching the service lies under one."
    )
    emit(arguments, done, text)


def _add(arguments: argparse.Namespace) -> None:
    scopes = tuple(Scope(scope) for scope in arguments.scope)
    with _changing(arguments) as place:
        keys = ServiceKeys.load(place.services).with_new(arguments.name, scopes, clock=CLOCK, days=arguments.days)
        keys.save(place.services)
    made = keys.keys[-1]
    text = (
        f"{made.text}\n\nSend it in `Atoll-Key` (Gorse clients: as API key). For AWS clients the access key id is\n"
        f"{made.id} and the secret access key is {made.secret}"
    )
    emit(arguments, {"key": made.text, "id": made.id, "secret": made.secret, "scopes": made.scopes}, text)


def _services(arguments: argparse.Namespace) -> None:
    now_ms = CLOCK.now_ms()
    rows = [
        {"id": key.id, "name": key.name, "scopes": " ".join(key.scopes), "holds": key.holds(now_ms=now_ms)}
        for key in ServiceKeys.load(_place(arguments).services).keys
    ]
    emit(arguments, rows, table(rows))


def _revoke(arguments: argparse.Namespace) -> None:
    with _changing(arguments) as place:
        ServiceKeys.load(place.services).without(arguments.id).save(place.services)
    emit(arguments, {"revoked": arguments.id}, f"{arguments.id} holds no more.")


def _add_operator(arguments: argparse.Namespace) -> None:
    keys = RegionKeys.load(_place(arguments).keys)
    key = named_key(keys.operator_key, arguments.name)
    if arguments.name in keys.operators_retired:
        raise InvalidInputError(f"the key of {arguments.name} was retired.", fix="Give them another name.")
    if arguments.out is not None:
        write_atomically(arguments.out, f"{key}\n".encode(), mode=0o600)
    where = f"It lies in {arguments.out}." if arguments.out is not None else key
    told = {"name": arguments.name, "region": keys.region, "key": key, "file": str(arguments.out or "")}
    emit(arguments, told, f"{where}\nThey send `Authorization: Operator <key>`, or name the file with --key-file.")


def _retire_operator(arguments: argparse.Namespace) -> None:
    with _changing(arguments) as place:
        RegionKeys.load(place.keys).without_operator(arguments.name).save(place.keys)
    emit(arguments, {"retired": arguments.name}, f"The key of {arguments.name} opens nothing any more.")


def _show_issuers(arguments: argparse.Namespace, keys: RegionKeys, says: str) -> None:
    signing, _ = keys.signing_key(now_ms=CLOCK.now_ms())
    rows = [{"kid": kid, "signs": kid == signing} for kid in keys.issuer_keys()]
    emit(arguments, {"issuers": rows, "retired": keys.retired}, f"{table(rows)}\n{says}".rstrip())


def _spread(place: _Place, keys: RegionKeys) -> None:
    """Keys first: a directory without a key that signs would refuse good tokens."""
    trust = TrustDirectory.load(place.trust)
    own = TrustDirectory.of([keys]).regions
    keys.save(place.keys)
    TrustDirectory(regions={**trust.regions, **own}).save(place.trust)


def _place(arguments: argparse.Namespace) -> _Place:
    from infra.local.layout import layout_of

    layout = layout_of(arguments.state)
    place = _Place(
        region=arguments.region, keys=layout.keys(arguments.region), trust=layout.trust,
        services=layout.service_keys(arguments.region),
    )  # fmt: skip
    if not place.keys.is_file():
        raise InvalidInputError(
            "there is no such region in this world's state.", fix="Start it with `./atoll world up`, or name --state."
        )
    return place


@contextmanager
def _changing(arguments: argparse.Namespace) -> Iterator[_Place]:
    """The place, changed by one command at a time."""
    place = _place(arguments)
    with locked(place.trust.with_suffix(".lock")):
        yield place
