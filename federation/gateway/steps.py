"""What a phone's calls do, whichever way they came: a body in, the answer out once the round has moved on.

An answer that needs the other phones is held back, at most until the phase's deadline. Shared by the calls over HTTP
(`federation.gateway.app`) and by visits (`federation.gateway.visits`).
"""

import asyncio
import contextlib
from collections.abc import Callable

import msgspec

from federation.gateway.bodies import M, Reader, decoded
from federation.gateway.service import Gateway
from federation.messages import CheckIn, CheckInAnswer, Phase, RegionalSum
from federation.secure_aggregation.messages import (
    MaskedUpdate,
    SealedShares,
    Seat,
    SurvivorsAsked,
    SurvivorsSigned,
    Unmasking,
)
from infra.contracts.residency import RegionalMessage
from infra.plumbing.clock import Clock
from infra.plumbing.errors import NotFoundError


class Steps:
    """The gateway with its waiting: who asks for what is not there yet is answered when it is."""

    def __init__(self, gateway: Gateway, *, clock: Clock) -> None:
        self.gateway = gateway
        self._clock = clock
        self._moved = asyncio.Event()
        """Set and replaced whenever a round has moved."""
        self._seen: tuple[Phase | None, int, float | None] = (None, 0, None)

    async def check_in(self, subject: str, body: bytes, *, read: Reader = decoded) -> CheckInAnswer:
        """A check-in of `subject`; one that is selected is answered when the cohort is drawn. Raises as `Gateway`."""
        answer = self.gateway.check_in(subject, read(body, CheckIn))
        self.wake_if_moved()
        if not answer.ticket:
            return answer
        placed = await self._moved_on(lambda: self.gateway.place(answer.ticket))
        return msgspec.structs.replace(answer, roster=placed.roster, gathering=placed.gathering)

    async def take(self, step: str, ticket: str, body: bytes, *, read: Reader = decoded) -> RegionalMessage:
        """Take `seat`, `shares`, `update` (or `survivors`, when that was late), `signature` or `unmask` under a ticket.

        Raises:
            AtollError: as the gateway's method of this step.
            InvalidInputError: the body is not what the step asks for.
            NotFoundError: there is no such step.
        """
        look: Callable[[], RegionalMessage | None]
        match step:
            case "seat":
                drawn = self.gateway.draw
                self.gateway.seat(ticket, read(body, Seat))
                look = lambda: self.gateway.place(ticket, drawn=drawn)  # noqa: E731 - one of a kind with the rest
            case "shares":
                self.gateway.shares(ticket, read(body, SealedShares))
                look = lambda: self.gateway.mailbox(ticket)  # noqa: E731 - four of a kind
            case "update":
                self.gateway.update(ticket, read(body, MaskedUpdate))
                look = lambda: self.gateway.survivors(ticket)  # noqa: E731 - four of a kind
            case "signature":
                self.gateway.sign(ticket, read(body, SurvivorsSigned))
                look = lambda: self.gateway.signatures(ticket)  # noqa: E731 - four of a kind
            case "unmask":
                receipt = self.gateway.unmask(ticket, read(body, Unmasking))
                look = lambda: receipt  # noqa: E731 - four of a kind
            case "survivors":
                read(body, SurvivorsAsked)
                look = lambda: self.gateway.survivors(ticket)  # noqa: E731 - four of a kind
            case _:
                fix = "Take seat, shares, update, signature and unmask in order."
                raise NotFoundError("there is no such step.", fix=fix)
        self.wake_if_moved()
        return await self._moved_on(look)

    def left(self, ticket: str) -> None:
        """The phone with this ticket hung up."""
        self.gateway.left(ticket)
        self.wake_if_moved()

    async def standing(self, round_id: str, wait_s: float) -> RegionalSum:
        """How a round stands when it has ended, or after `wait_s`."""
        ends_s = self._clock.monotonic_s() + wait_s
        while True:
            moved = self._moved
            standing = self.gateway.standing(round_id)
            left_s = ends_s - self._clock.monotonic_s()
            if standing.phase in ("closed", "void") or left_s <= 0.0:
                return standing
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left_s):
                    await moved.wait()

    async def keep_time(self) -> None:
        """End rounds at their deadlines, though nobody asks."""
        while True:
            change_s = self.gateway.next_change_s()
            delay_s = None if change_s is None else max(0.0, change_s - self._clock.monotonic_s()) + 0.001
            moved = self._moved
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(delay_s):
                    await moved.wait()
            self.gateway.tick()
            self.wake_if_moved()

    def wake_if_moved(self) -> None:
        """Only a change of phase is news; every message would wake a thousand waiting phones for nothing."""
        standing = (self.gateway.phase(), self.gateway.draw, self.gateway.next_change_s())
        if standing != self._seen:
            self._seen = standing
            moved, self._moved = self._moved, asyncio.Event()
            moved.set()

    async def _moved_on(self, look: Callable[[], M | None]) -> M:
        """What `look` finds once the round has moved on; the round's own deadlines bound the wait."""
        while True:
            moved = self._moved
            found = look()
            if found is not None:
                return found
            await moved.wait()
