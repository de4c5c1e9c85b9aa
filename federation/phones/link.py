"""A simulated phone at its gateway's: one visit a round, and single calls where a visit breaks off."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TypeVar

import aiohttp
import msgspec

from federation.device.rounds import DeviceRound
from federation.device.training import LocalTraining
from federation.messages import PACKED, TICKET_HEADER, CheckIn, CheckInAnswer, RoundPlan, UpdateReceipt
from federation.secure_aggregation.messages import (
    Mailbox,
    MaskedUpdate,
    Placed,
    Roster,
    Signatures,
    Survivors,
    SurvivorsAsked,
)
from federation.secure_aggregation.seats import DRAWS_MAX
from infra.contracts.residency import RegionalMessage, encode_regional, pack_regional

A = TypeVar("A", bound=RegionalMessage)
R = TypeVar("R")
SESSION, OK = b"session", b"200"
FRAME_BYTES_MAX = 16 << 20
"""Of what the gateway says: the largest plan and the largest roster."""


class RefusedError(Exception):
    """The gateway did not take a message, or did not answer."""


class LateError(RefusedError):
    """The round has moved on without this message."""


class AwayError(RefusedError):
    """The gateway did not answer."""


class UnsentError(AwayError):
    """The phone is done and cannot say so: `update` may still be of use until the round ends."""

    def __init__(self, update: MaskedUpdate, ticket: str) -> None:
        super().__init__("update: no answer")
        self.update = update
        self.ticket = ticket


@dataclass(slots=True)
class Participation:
    """How far a phone came in a round: what it trained, and whether its update is in the sum (if there is one)."""

    trained: LocalTraining | None = None
    reported: bool = False


class GatewayLink:
    """One region's gateway as its phones reach it. Counts the bytes of bodies both ways."""

    def __init__(self, session: aiohttp.ClientSession, url: str, worker: Executor) -> None:
        self.session = session
        self.url = url.rstrip("/")
        self._worker = worker
        self.bytes_up = 0
        self.bytes_down = 0

    @asynccontextmanager
    async def visit(self, token: str) -> AsyncIterator["Visit"]:
        """One connection for a whole round.

        Raises:
            RefusedError: no answer, or a refusal.
        """
        try:
            async with self.session.ws_connect(
                f"{self.url}/v1/device/visit", headers={"Authorization": f"Bearer {token}"}, compress=0,
                max_msg_size=FRAME_BYTES_MAX, protocols=(PACKED,),
            ) as socket:  # fmt: skip
                visit = Visit(self, socket)
                visit.greeting = await visit.hear(CheckInAnswer, SESSION)
                yield visit
        except (aiohttp.ClientError, TimeoutError) as error:
            raise RefusedError(f"visit: {type(error).__name__}") from None

    async def post(self, step: str, content: bytes, kind: type[A], *, ticket: str) -> A:
        """A step as a call of its own, for a phone whose visit broke off.

        Raises:
            AwayError: no answer.
            RefusedError: a refusal.
        """
        headers = {TICKET_HEADER: ticket, "Content-Type": "application/json"}
        try:
            async with self.session.post(
                f"{self.url}/v1/device/{step}", data=content, headers=headers
            ) as response:  # fmt: skip
                answer = await response.read()
                self.bytes_down += len(answer)
                if response.status != 200:
                    raise _refusal(str(response.status))
                return msgspec.json.decode(answer, type=kind)
        except msgspec.DecodeError as error:
            raise RefusedError(f"{step}: {type(error).__name__}") from None
        except (aiohttp.ClientError, TimeoutError) as error:
            raise AwayError(f"{step}: {type(error).__name__}") from None

    async def run(self, work: Callable[[], R]) -> R:
        """Work that would hold the loop up, in the worker thread."""
        return await asyncio.get_running_loop().run_in_executor(self._worker, work)


class Visit:
    """A phone at its gateway's: check in, then the steps of the secure sum, a frame each."""

    def __init__(self, link: GatewayLink, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._link = link
        self._socket = socket
        self._ticket = ""
        self._packed = socket.protocol == PACKED
        """Whether the gateway knows that form; one that does not is spoken to in JSON."""
        self.greeting = CheckInAnswer()
        """Which session the gateway is in, or when to come back."""

    async def check_in(self, phone: CheckIn) -> CheckInAnswer:
        """Ask for a task; the answer is held back until the cohort is drawn.

        Raises:
            RefusedError: no answer, or a refusal.
        """
        answer = await self._call("check-in", phone, CheckInAnswer)
        self._ticket = answer.ticket
        return answer

    async def take_part(
        self, device: DeviceRound, answer: CheckInAnswer, train: Callable[[RoundPlan], LocalTraining], *, leave_at: int
    ) -> Participation:
        """Go through the round that `answer` gave a place in.

        Args:
            device: made for the answer's session.
            answer: with plan, ticket, and roster or gathering.
            train: local training; runs in the worker thread.
            leave_at: 0 to 2: drop out before seats are drawn and shares sent, update or shares of the masks; 3: stay.

        Raises:
            UnsentError: the gateway did not answer when the update was to be sent.
            RefusedError: the gateway refused, and the round goes on without this phone, or is over.
            ProtocolError: the gateway did not keep to the protocol.
            TrainingError: nothing can be trained.
        """
        plan = answer.plan
        if plan is None:
            raise RefusedError("no place in a round")
        part = Participation()
        if leave_at == 0:
            return part
        roster = await self._seated(device, Placed(roster=answer.roster, gathering=answer.gathering))
        shares = await self._link.run(lambda: device.shares(roster))
        device.receive(await self._call("shares", shares, Mailbox))
        trained = part.trained = await self._link.run(lambda: train(plan))
        if leave_at == 1:
            return part
        masked = await self._link.run(lambda: device.masked(plan, trained))
        try:
            survivors = await self._call("update", masked, Survivors)
            part.reported = True
        except AwayError:
            raise UnsentError(masked, self._ticket) from None
        except LateError:
            # Others were enough. With this phone's shares it takes fewer of them to take the masks off.
            survivors = await self._call("survivors", SurvivorsAsked(round_id=plan.round_id), Survivors)
        # From here on the others can do without this phone: a refusal says that they have.
        with contextlib.suppress(RefusedError):
            if leave_at > 2:
                await self._unmask(device, survivors)
        return part

    async def hear(self, kind: type[A], wanted: bytes) -> A:
        """The gateway's next frame.

        Raises:
            RefusedError: it is not one of `wanted`.
            ConnectionResetError: there is none.
        """
        frame = await self._socket.receive()
        if frame.type is not aiohttp.WSMsgType.BINARY:
            raise ConnectionResetError("the visit broke off")
        self._link.bytes_down += len(frame.data)
        status, _, body = frame.data.partition(b"\n")
        if status != wanted:
            raise _refusal(status[:3].decode("ascii", "replace"))
        try:
            return msgspec.msgpack.decode(body, type=kind) if self._packed else msgspec.json.decode(body, type=kind)
        except msgspec.DecodeError as error:
            raise RefusedError(type(error).__name__) from None

    async def _seated(self, device: DeviceRound, placed: Placed) -> Roster:
        """The phone's place, drawn with all others of a large cohort."""
        for _ in range(DRAWS_MAX + 1):
            if placed.roster is not None or placed.gathering is None:
                break
            placed = await self._call("seat", device.seat(placed.gathering), Placed)
        if placed.roster is None:
            raise RefusedError("no place in a round")
        return placed.roster

    async def _unmask(self, device: DeviceRound, survivors: Survivors) -> None:
        signatures = await self._call("signature", device.signature(survivors), Signatures)
        unmasking = await self._link.run(lambda: device.unmasking(signatures))
        await self._call("unmask", unmasking, UpdateReceipt)

    async def _call(self, step: str, body: RegionalMessage, kind: type[A]) -> A:
        """A frame and its answer; behind the check-in a visit that broke off goes on in calls under its ticket."""
        content = pack_regional(body) if self._packed else encode_regional(body)
        self._link.bytes_up += len(content)
        try:
            await self._socket.send_bytes(step.encode() + b"\n" + content)
            return await self.hear(kind, OK)
        except (aiohttp.ClientError, ConnectionResetError, TimeoutError) as error:
            if not self._ticket:
                raise RefusedError(f"{step}: {type(error).__name__}") from None
        return await self._link.post(step, encode_regional(body), kind, ticket=self._ticket)


def _refusal(status: str) -> RefusedError:
    what = LateError if status == "409" else RefusedError
    return what(f"the gateway answered {status}")
