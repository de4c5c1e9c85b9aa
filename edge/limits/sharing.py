"""The edges of a region tell each other what heavy callers took, over the grid and never on a request's way.

Every SHARE_S an edge publishes how many calls each heavy caller made here since the last time, and charges what the
others publish to its own buckets. A message that is lost costs exactness only. Callers are named by the region's
pseudonyms: the message can be written for the grid of their own region and for nothing else.
"""

import asyncio
from collections.abc import Callable

import msgspec

from edge.limits.buckets import HEAVY_MAX, CallerLimits
from infra.contracts.residency import Global, Regional, RegionalMessage, encode_regional
from infra.plumbing.clock import Clock
from infra.plumbing.grid.port import Grid, GridUnavailableError

LIMITS_TOPIC = "limits"
SHARE_S = 0.25
RESUBSCRIBE_S = 0.5


class TakenNotice(RegionalMessage, frozen=True, kw_only=True):
    """Calls that heavy callers made at one edge since its last notice."""

    node: Global[str]
    taken: Regional[dict[str, int]]


async def tell_taken(grid: Grid, limits: CallerLimits, *, node: str, counted: Callable[[str], None]) -> None:
    """Publish until cancelled; `counted` is told `told` and `lost`."""
    while True:
        await asyncio.sleep(SHARE_S)
        taken = {str(caller): calls for caller, calls in limits.take().items()}
        if not taken:
            continue
        try:
            await grid.publish(LIMITS_TOPIC, encode_regional(TakenNotice(node=node, taken=taken)))
            counted("told")
        except GridUnavailableError:
            counted("lost")


async def hear_taken(
    grid: Grid, limits: CallerLimits, *, node: str, clock: Clock, counted: Callable[[str], None]
) -> None:
    """Charge what other edges publish until cancelled; `counted` is told `heard` and `malformed`."""
    while True:
        try:
            async for raw in grid.subscribe(LIMITS_TOPIC):
                if raw is not None:
                    counted(_charge(raw, limits, node=node, now_s=clock.monotonic_s()))
        except GridUnavailableError:
            pass
        await asyncio.sleep(RESUBSCRIBE_S)


def _charge(raw: bytes, limits: CallerLimits, *, node: str, now_s: float) -> str:
    try:
        notice = msgspec.json.decode(raw, type=TakenNotice)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return "malformed"
    if notice.node != node:
        for caller, calls in list(notice.taken.items())[:HEAVY_MAX]:
            limits.charge(caller, calls, now_s=now_s)
    return "heard"
