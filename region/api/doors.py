"""Who may use which door: the region's own processes, its operators, anybody with a sealed or anonymous call."""

import hmac
from collections.abc import Callable, Collection
from pathlib import Path

from aiohttp import web

from infra.plumbing.clock import Clock
from infra.plumbing.errors import ForbiddenError, UnauthorizedError
from infra.plumbing.keys import RegionKeys
from infra.plumbing.operators import operator_of
from infra.plumbing.reloading import Reloading

SERVICE_KEY_HEADER = "Atoll-Service-Key"
OPERATOR_SCHEMES = ("Operator ", "Bearer ")
"""`Bearer` as well, for tools that know no other."""

Door = Callable[[web.Request], str]
"""Who passes; raises `UnauthorizedError` or `ForbiddenError` for those who may not."""


def service_door(service_key: str) -> Door:
    """For the region's own edges and jobs, by `Atoll-Service-Key`."""

    def admit(request: web.Request) -> str:
        offered = request.headers.get(SERVICE_KEY_HEADER)
        if offered is None:
            raise UnauthorizedError(
                "this door is for the region's own processes.", fix=f"They show {SERVICE_KEY_HEADER}."
            )
        _compare(offered, service_key)
        return "service"

    return admit


def operator_door(operator_key: str) -> Door:
    """For the region's operators, by `Authorization: Operator <key>`: the region's, or one of a name."""
    return _operators(lambda: (operator_key, ()))


def live_operator_door(keys_file: Path, clock: Clock) -> Door:
    """`operator_door` by what the region's file of keys says now: who is retired passes no more within seconds.

    Raises:
        SettingsError: it cannot be read.
    """
    source = Reloading(keys_file, RegionKeys.load, clock=clock)

    def known() -> tuple[str, Collection[str]]:
        keys = source.get()
        return keys.operator_key, keys.operators_retired

    return _operators(known)


def _operators(known: Callable[[], tuple[str, Collection[str]]]) -> Door:
    def admit(request: web.Request) -> str:
        offered = request.headers.get("Authorization", "")
        scheme = next((scheme for scheme in OPERATOR_SCHEMES if offered.startswith(scheme)), None)
        if scheme is None:
            raise UnauthorizedError(
                "this door is for the region's operators.", fix="They send Authorization: Operator <operator key>."
            )
        operator_key, retired = known()
        name = operator_of(offered.removeprefix(scheme), operator_key, retired=retired)
        if name is None:
            raise ForbiddenError("the key does not open this door.")
        return name

    return admit


def either_door(first: Door, second: Door) -> Door:
    """For whom one of the two admits; who has a key for neither hears what the second says."""

    def admit(request: web.Request) -> str:
        try:
            return first(request)
        except (UnauthorizedError, ForbiddenError):
            return second(request)

    return admit


def _compare(offered: str, expected: str) -> None:
    # Constant time: how far a guess is right must not show in how long the refusal takes.
    # What no UTF-8 is stands for itself in what aiohttp reads.
    if not hmac.compare_digest(offered.encode(errors="surrogateescape"), expected.encode()):
        raise ForbiddenError("the key does not open this door.")
