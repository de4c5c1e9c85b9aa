"""Bringing a phone's errands to its region: what is taken or refused for good leaves the outbox, the rest stays.

Replies of rounds go to the gateway, events and choices to an edge; each in its order, and neither waits for the other.
No answer, an answer that asks for patience (429, 5xx) or a token that does not hold any more ends the attempt: nothing
is skipped, so nothing overtakes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import aiohttp
import msgspec

from federation.device.outbox import Errand, Kind, Outbox
from federation.messages import TICKET_HEADER
from infra.contracts.events import EventAck
from infra.plumbing.clock import Clock

UNTAKEN = frozenset({401, 403, 408, 425, 429})
"""Statuses of an edge, beside 5xx, after which the same errand can be taken later."""
ANSWER_BYTES_MAX = 1 << 16


@dataclass(slots=True)
class Delivered:
    """What became of one attempt."""

    taken: int = 0
    refused: int = 0
    stopped: str = ""
    """Why it ended with errands left; empty when it did not."""


class Delivery:
    """One phone's ways to its region. An empty address: there is no such way now.

    Args:
        session: for the calls.
        gateway: base address of the region's device gateway.
        edge: base address of an edge.
        token: the user's, for the edge.
    """

    def __init__(self, session: aiohttp.ClientSession, *, gateway: str = "", edge: str = "", token: str = "") -> None:
        self._session = session
        self._gateway = gateway.rstrip("/")
        self._edge = edge.rstrip("/")
        self._token = token

    async def run(self, outbox: Outbox, *, clock: Clock) -> Delivered:
        """Send what waits, as far as it goes now."""
        done = Delivered()
        if self._gateway:
            await self._way(outbox, (Kind.REPLY,), done, clock)
        if self._edge:
            await self._way(outbox, (Kind.EVENT, Kind.CHOICE), done, clock)
        return done

    async def _way(self, outbox: Outbox, kinds: Sequence[Kind], done: Delivered, clock: Clock) -> None:
        while errands := outbox.head(kinds, now_ms=clock.now_ms()):
            try:
                status, answer = await self._sent(errands)
            except (aiohttp.ClientError, TimeoutError) as error:
                done.stopped = type(error).__name__
                return
            # A gateway's refusal is for good: the round is over, or knows the reply.
            if status >= 500 or (status in UNTAKEN and errands[0].kind is not Kind.REPLY):
                done.stopped = f"answered {status}"
                return
            refused = _refused(status, answer, errands)
            outbox.settle(errands, refused=refused)
            done.taken += len(errands) - refused
            done.refused += refused

    async def _sent(self, errands: Sequence[Errand]) -> tuple[int, bytes]:
        first = errands[0]
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {self._token}"}
        method, url, body = "POST", f"{self._edge}/v1/events", first.body
        if first.kind is Kind.EVENT:
            body = b'{"events":[%s]}' % b",".join(one.body for one in errands)
        elif first.kind is Kind.CHOICE:
            method, url = "PUT", f"{self._edge}/v1/privacy/opt-out"
        else:
            url = f"{self._gateway}/v1/device/update"
            headers = {"Content-Type": "application/json", TICKET_HEADER: first.ticket}
        async with self._session.request(method, url, data=body, headers=headers) as response:
            return response.status, await response.content.read(ANSWER_BYTES_MAX)


def _refused(status: int, answer: bytes, errands: Sequence[Errand]) -> int:
    """How many of the errands were not taken."""
    if status >= 400:
        return len(errands)
    if errands[0].kind is not Kind.EVENT:
        return 0
    try:
        return min(len(errands), len(msgspec.json.decode(answer, type=EventAck).rejected))
    except msgspec.DecodeError:
        return 0
