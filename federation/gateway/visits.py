"""A phone's whole part of a round over one connection: the calls below `/v1/device/` as frames of a WebSocket.

A request of its own costs the gateway more than what is in it. `GET /v1/device/visit` (RFC 6455) shows the phone's
token once; then frames, all binary, go to and fro:

    gateway   session NL CheckInAnswer      what the advert must be made for, or when to come back
    phone     check-in NL CheckIn
    gateway   200 NL CheckInAnswer          the ticket in it stands for the phone from here on
    phone     shares NL SealedShares        and so on: update, signature, unmask, as the calls of the same name
                                            (survivors, for a phone whose update was too late)
    gateway   200 NL Mailbox                the status that the call would have had, a line feed, the same body

Bodies are JSON, as in the calls; for a phone that offers the subprotocol PACKED they are MessagePack both ways, which
leaves bytes as they are: a quarter less to carry, and hardly anything to read. What is refused is JSON either way.

A visit that breaks off costs nothing but itself: the calls take its ticket, and the others wait a moment for them. How
many there are at once, how large and how many its frames are and how long it lasts is bounded.
"""

import asyncio

from aiohttp import WSMsgType, web

from federation.gateway.bodies import decoded, unpacked
from federation.gateway.steps import Steps
from federation.messages import PACKED, CheckInAnswer
from infra.contracts.residency import RegionalMessage, encode_regional, pack_regional
from infra.plumbing.errors import AtollError, InvalidInputError, OverloadedError
from infra.plumbing.http.problems import problem_for

ARRIVAL_S = 30.0
"""How much longer than a round a visit may last: a phone comes, makes its keys, and goes."""
FRAMES_MAX = 16
"""A visit is for one round: five frames of the phone, and room to check in again."""
SESSION = b"session"
_OK = b"200"


class Visits:
    """The visits of one gateway.

    Args:
        steps: what the frames do.
        visits_max: open at once; further phones are told to come later.
        visit_s_max: how long one may last. One clock for all of it: a time-out around each frame would cost more than
            reading the frame.
        frame_bytes_max: largest frame.
    """

    def __init__(self, steps: Steps, *, visits_max: int, visit_s_max: float, frame_bytes_max: int) -> None:
        self._steps = steps
        self._visits_max = visits_max
        self._visit_s_max = visit_s_max
        self._frame_bytes_max = frame_bytes_max
        self._open = 0

    async def serve(self, request: web.Request, subject: str) -> web.WebSocketResponse:
        """Carry a visit of `subject` to its end.

        Raises:
            OverloadedError: too many are open.
        """
        if self._open >= self._visits_max:
            raise OverloadedError("as many phones are here as this gateway takes.", fix="Come back in a minute.")
        socket = web.WebSocketResponse(max_msg_size=self._frame_bytes_max, compress=False, protocols=(PACKED,))
        self._open += 1
        try:
            await socket.prepare(request)
            await self._carry(socket, subject)
        finally:
            self._open -= 1
        return socket

    async def _carry(self, socket: web.WebSocketResponse, subject: str) -> None:
        visit = _Visit(self._steps, socket, subject)
        try:
            async with asyncio.timeout(self._visit_s_max):
                await visit.run()
        except (ConnectionResetError, TimeoutError):
            pass  # The phone is gone; what it said counts, and the others go on without it.
        finally:
            if visit.ticket:
                self._steps.left(visit.ticket)
            await socket.close()


class _Visit:
    """One phone's frames, one after the other."""

    def __init__(self, steps: Steps, socket: web.WebSocketResponse, subject: str) -> None:
        self._steps = steps
        self._socket = socket
        self._subject = subject
        self.ticket = ""
        packed = socket.ws_protocol == PACKED
        self._read = unpacked if packed else decoded
        self._write = pack_regional if packed else encode_regional

    async def run(self) -> None:
        """Until the phone has said all, or says nothing any more."""
        await self._say(SESSION, self._steps.gateway.greeting())
        for _ in range(FRAMES_MAX):
            frame = await self._socket.receive()
            if frame.type is not WSMsgType.BINARY:
                break
            step, _, body = frame.data.partition(b"\n")
            try:
                await self._say(_OK, await self._answer(step.decode("ascii", "replace"), body))
            except AtollError as error:
                problem = problem_for(error, "")
                await self._socket.send_bytes(b"%d\n%s" % (problem.status, bytes(problem.body or b"")))  # type: ignore[arg-type]

    async def _answer(self, step: str, body: bytes) -> RegionalMessage:
        if step != "check-in":
            return await self._steps.take(step, self.ticket, body, read=self._read)
        if self.ticket:
            raise InvalidInputError("this phone has a ticket.", fix="Visit again for another round.")
        answer: CheckInAnswer = await self._steps.check_in(self._subject, body, read=self._read)
        self.ticket = answer.ticket
        return answer

    async def _say(self, what: bytes, message: RegionalMessage) -> None:
        await self._socket.send_bytes(what + b"\n" + self._write(message))
