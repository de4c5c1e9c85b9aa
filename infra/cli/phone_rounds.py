"""`atoll phone key|join|vector`: one phone in a federated round, and the vector that it computes from what it knows."""

import argparse
import asyncio
import ssl
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from infra.cli.output import emit, table
from infra.plumbing.clock import SystemClock

if TYPE_CHECKING:
    from federation.device.enrolment import IdentityFile
    from federation.device.store import DeviceStore
    from federation.phones.single import Joined

CLOCK = SystemClock()
CALL_S_MAX = 60.0
"""Answers in a round are held back until the other phones have done their step."""
IDENTITY_FILE = "phone.identity"
Store = Callable[[argparse.Namespace], "DeviceStore"]
Leaf = Callable[..., argparse.ArgumentParser]


def add_verbs(verbs: Any, leaf: Leaf, store: Store) -> None:
    """Add them below `atoll phone`; `store` opens the phone's store."""
    leaf(verbs, "key", _key, "the phone's public key, to be shown to its region's issuer (./atoll keys device)", "")
    join = leaf(
        verbs, "join", lambda given: _join(given, store(given)), "take part in the next federated round",
        "--gateway http://127.0.0.1:8090 --token-file token --enrolment device.json --release bundles/ID",
    )  # fmt: skip
    join.add_argument("--gateway", required=True, metavar="URL", help="the region's device gateway")
    join.add_argument("--token-file", type=Path, required=True, help="the user's token (./atoll keys token)")
    join.add_argument("--enrolment", type=Path, required=True, help="what ./atoll keys device wrote")
    join.add_argument("--wait-s", type=float, default=60.0, help="how long to wait for a round (default 60)")
    join.add_argument(
        "--crowd", type=int, default=10, metavar="N", help="fewest phones in whose sum this one takes part (default 10)"
    )
    join.add_argument("--ca", type=Path, default=None, metavar="FILE", help="whom to trust behind https")
    vector = leaf(
        verbs, "vector", lambda given: _vector(given, store(given)),
        "the headers with the vector that any region ranks by, from all that this phone knows", "--release bundles/ID",
    )  # fmt: skip
    for parser in (join, vector):
        parser.add_argument("--release", type=Path, required=True, metavar="BUNDLE", help="the release on the phone")


def identity_file(arguments: argparse.Namespace) -> "IdentityFile":
    """The phone's own identity."""
    import secrets

    from federation.device.enrolment import IdentityFile
    from federation.device.keystore import FileKeyStore

    keys = FileKeyStore(arguments.dir / "phone.key", entropy=secrets.token_bytes)
    return IdentityFile(arguments.dir / IDENTITY_FILE, keys, secrets.token_bytes)


def _key(arguments: argparse.Namespace) -> None:
    public = identity_file(arguments).public().hex()
    emit(arguments, {"public": public}, public)


def _join(arguments: argparse.Namespace, store: "DeviceStore") -> int:
    from federation.device.enrolment import read_enrolment
    from federation.device.tower import load_device_release
    from federation.phones.single import Became
    from federation.secure_aggregation.client import Trust

    enrolment = read_enrolment(arguments.enrolment)
    identity = identity_file(arguments).enrolled(enrolment, now_ms=CLOCK.now_ms())
    trust = Trust(enrolment.certificate.region, enrolment.issuer_public, cohort_min=arguments.crowd)
    release = load_device_release(arguments.release)
    parts = {"store": store, "release": release, "identity": identity, "trust": trust}
    joined = asyncio.run(_joined(arguments, parts))
    result: dict[str, Any] = {"became": str(joined.became), "reason": joined.reason}
    if joined.trained is not None:
        result |= {"examples": joined.trained.examples, "clipped": joined.trained.clipped}
    emit(arguments, result, " ".join(filter(None, (f"{joined.became}.", joined.reason))))
    return 0 if joined.became in (Became.IN_SUM, Became.HELPED) else 1


async def _joined(arguments: argparse.Namespace, parts: dict[str, Any]) -> "Joined":
    from concurrent.futures import ThreadPoolExecutor

    import aiohttp

    from federation.phones.link import GatewayLink
    from federation.phones.single import Taking

    context = ssl.create_default_context(cafile=arguments.ca) if arguments.ca else True
    timeout = aiohttp.ClientTimeout(total=CALL_S_MAX)
    with ThreadPoolExecutor(1) as worker:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context), timeout=timeout) as session:
            link = GatewayLink(session, arguments.gateway, worker)
            token = arguments.token_file.read_text().strip()
            taking = Taking(link=link, token=token, clock=CLOCK, **parts)
            return await taking.join(
                wait_s=arguments.wait_s, told=lambda reason: print(f"not yet: {reason}", file=sys.stderr)
            )


def _vector(arguments: argparse.Namespace, store: "DeviceStore") -> None:
    import secrets

    import numpy as np

    from federation.device.tower import load_device_release
    from federation.device.vector import personal_part, portable_vector
    from infra.plumbing.errors import InvalidInputError

    release = load_device_release(arguments.release)
    history = store.history(release)
    if not len(history):
        raise InvalidInputError(
            "this phone knows no item of this release.", fix="Note what happened on it: ./atoll phone note."
        )
    rng = np.random.default_rng(int.from_bytes(secrets.token_bytes(16), "big"))
    personal = personal_part(release, history, rng=rng)
    headers = portable_vector(release, history, now_s=CLOCK.now_ms() / 1000, personal=personal).headers()
    rows = [{"header": name, "value": value} for name, value in headers.items()]
    emit(arguments, {"headers": headers, "events": len(history)}, table(rows))
