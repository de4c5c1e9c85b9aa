"""A simulated phone's calls to its gateway: check in, then the steps of the secure sum, one call each."""

import asyncio
import contextlib
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import TypeVar

import aiohttp
import msgspec

from federation.device.rounds import DeviceRound
from federation.device.training import LocalTraining
from federation.messages import TICKET_HEADER, CheckIn, CheckInAnswer, RoundPlan, UpdateReceipt
from federation.secure_aggregation.messages import Mailbox, Signatures, Survivors
from infra.contracts.residency import RegionalMessage, encode_regional

A = TypeVar("A", bound=RegionalMessage)
R = TypeVar("R")


class RefusedError(Exception):
    """The gateway did not take a message, or did not answer."""


@dataclass(slots=True)
class Participation:
    """How far a phone came in a round: what it trained, and whether its update is in the sum (if there is one)."""

    trained: LocalTraining | None = None
    reported: bool = False


class GatewayLink:
    """One region's gateway as its phones reach it. Counts the bytes of bodies both ways."""

    def __init__(self, session: aiohttp.ClientSession, url: str, worker: Executor) -> None:
        self._session = session
        self._url = url.rstrip("/")
        self._worker = worker
        self.bytes_up = 0
        self.bytes_down = 0

    async def check_in(self, token: str, phone: CheckIn) -> CheckInAnswer:
        """Ask for a task; the answer is held back until the cohort is drawn.

        Raises:
            RefusedError: no answer, or a refusal.
        """
        return await self._call("check-in", phone, CheckInAnswer, {"Authorization": f"Bearer {token}"})

    async def take_part(
        self, device: DeviceRound, answer: CheckInAnswer, train: Callable[[RoundPlan], LocalTraining], *, leave_at: int
    ) -> Participation:
        """Go through the round that `answer` gave a place in.

        Args:
            device: made for the answer's session.
            answer: with plan, ticket and roster.
            train: local training; runs in the worker thread.
            leave_at: 0 to 2: drop out before shares, update or shares of the masks; 3: stay.

        Raises:
            RefusedError: the gateway refused before the update was in the sum.
            ProtocolError: the gateway did not keep to the protocol.
            TrainingError: nothing can be trained.
        """
        plan, roster = answer.plan, answer.roster
        if plan is None or roster is None:
            raise RefusedError("no place in a round")
        ticket = {TICKET_HEADER: answer.ticket}
        part = Participation()
        if leave_at == 0:
            return part
        shares = await self._run(lambda: device.shares(roster))
        device.receive(await self._call("shares", shares, Mailbox, ticket))
        trained = part.trained = await self._run(lambda: train(plan))
        if leave_at == 1:
            return part
        masked = await self._run(lambda: device.masked(plan, trained))
        survivors = await self._call("update", masked, Survivors, ticket)
        part.reported = True
        # From here on the others can do without this phone: a refusal says that they have.
        with contextlib.suppress(RefusedError):
            if leave_at > 2:
                await self._unmask(device, survivors, ticket)
        return part

    async def _unmask(self, device: DeviceRound, survivors: Survivors, ticket: dict[str, str]) -> None:
        signatures = await self._call("signature", device.signature(survivors), Signatures, ticket)
        unmasking = await self._run(lambda: device.unmasking(signatures))
        await self._call("unmask", unmasking, UpdateReceipt, ticket)

    async def _call(self, step: str, body: RegionalMessage, kind: type[A], headers: dict[str, str]) -> A:
        content = encode_regional(body)
        self.bytes_up += len(content)
        try:
            async with self._session.post(
                f"{self._url}/v1/device/{step}", data=content, headers={**headers, "Content-Type": "application/json"}
            ) as response:
                answer = await response.read()
                self.bytes_down += len(answer)
                if response.status != 200:
                    raise RefusedError(f"{step}: {response.status}")
                return msgspec.json.decode(answer, type=kind)
        except (aiohttp.ClientError, TimeoutError, msgspec.DecodeError) as error:
            raise RefusedError(f"{step}: {type(error).__name__}") from None

    async def _run(self, work: Callable[[], R]) -> R:
        return await asyncio.get_running_loop().run_in_executor(self._worker, work)
