"""What an edge passes on for a traveller: a sealed box to the home region, and the box that comes back.

The edge that stands elsewhere learns the answer, for that is what it hands to its caller; the regions in between, and
anybody on the wire, see boxes only.
"""

from typing import TypeVar

import msgspec

from edge.answering.parts import Parts
from edge.routing.dispatch import Attempts
from edge.routing.port import CallFailure, RegionCallError
from infra.contracts.messages import RelayedCall, SealedAnswer, SealedCall
from infra.contracts.residency import encode_regional
from infra.plumbing.errors import InvalidInputError, UnauthorizedError
from infra.plumbing.sealing import open_reply, seal_call

M = TypeVar("M")


async def relay(
    parts: Parts, home: str, call: RelayedCall, kind: type[M], attempts: Attempts, *, timeout_s: float
) -> M:
    """The home region's answer to a traveller's call.

    Raises:
        RegionCallError: the home region gives no usable answer in time.
        UnauthorizedError: the home region refuses the token.
        InvalidInputError: the home region refuses what the call asks for.
    """
    public = parts.trust.regions.get(home)
    if public is None:
        raise RegionCallError(CallFailure.UNREACHABLE)
    box, reply_key = seal_call(public.relay_public, encode_regional(call))
    sealed = SealedCall(home=home, sealed=box)

    async def ask(url: str, timeout_s: float) -> SealedAnswer:
        return await parts.region.relay(url, sealed, timeout_s=timeout_s)

    deadline_s = parts.clock.monotonic_s() + timeout_s
    reply = await parts.dispatcher.ask(home, ask, deadline_s=deadline_s, attempts=attempts)
    return _opened(reply.answer, reply_key, kind)


def _opened(answer: SealedAnswer, reply_key: bytes, kind: type[M]) -> M:
    if answer.status == 401:
        raise UnauthorizedError("the token does not hold in its home region.", fix="Get a fresh one there.")
    if answer.status in (400, 413, 422):
        raise InvalidInputError("the home region refused what this call asks for.")
    if answer.status != 200:
        raise RegionCallError(CallFailure.SERVER_ERROR, status=answer.status)
    try:
        return msgspec.json.decode(open_reply(reply_key, answer.sealed), type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, InvalidInputError) as error:
        raise RegionCallError(CallFailure.MALFORMED, status=200) from error
