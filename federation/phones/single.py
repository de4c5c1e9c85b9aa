"""One phone at its region's gateway: it asks for a task, does it once, and says what became of it."""

import asyncio
import enum
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from federation.device.rounds import DeviceRound
from federation.device.store import DeviceStore
from federation.device.tower import DeviceRelease
from federation.device.training import LocalSettings, LocalTraining, TrainingError, steps_of, train_round
from federation.messages import CheckIn, CheckInAnswer, RoundPlan
from federation.phones.link import GatewayLink, RefusedError, UnsentError, Visit
from federation.secure_aggregation.client import ProtocolError, Trust
from federation.secure_aggregation.identity import DeviceIdentity
from infra.plumbing.clock import Clock

AWAY_S = 2.0
"""When a gateway that did not answer is asked again."""


class Became(enum.StrEnum):
    """What became of a phone's wish to take part."""

    IN_SUM = "in-sum"
    HELPED = "helped"
    """Too late for the sum; its shares helped to unmask the others'."""
    WAITS = "waits"
    """The update could not be sent; it lies in the outbox until the round is over."""
    REFUSED = "refused"
    NO_TASK = "no-task"


@dataclass(slots=True)
class Joined:
    """What a phone did."""

    became: Became = Became.NO_TASK
    reason: str = ""
    trained: LocalTraining | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Taking:
    """A phone that takes part in one round."""

    link: GatewayLink
    token: str
    store: DeviceStore
    release: DeviceRelease
    identity: DeviceIdentity
    trust: Trust
    clock: Clock
    local: LocalSettings = field(default_factory=LocalSettings)

    async def join(self, *, wait_s: float, told: Callable[[str], None] = lambda _reason: None) -> Joined:
        """Take part in the next round, if one opens within `wait_s`."""
        ends_s = self.clock.monotonic_s() + wait_s
        while True:
            try:
                found, come_back_s = await self._visit()
            except RefusedError as error:
                found, come_back_s = Joined(reason=str(error)), AWAY_S
            if found.became is not Became.NO_TASK or self.clock.monotonic_s() + come_back_s > ends_s:
                return found
            told(found.reason)
            await asyncio.sleep(come_back_s)

    async def _visit(self) -> tuple[Joined, float]:
        async with self.link.visit(self.token) as visit:
            greeting = visit.greeting
            if greeting.reason != "advert":
                return Joined(reason=greeting.reason), greeting.come_back_s
            device = DeviceRound(
                greeting.session, identity=self.identity, trust=self.trust, now_ms=self.clock.now_ms(),
                entropy=secrets.token_bytes,
            )  # fmt: skip
            answer = await visit.check_in(
                CheckIn(releases=(self.release.release_id,), session=device.session, advert=device.advert)
            )
            if answer.plan is None:
                return Joined(reason=answer.reason), answer.come_back_s
            return await self._work(visit, device, answer), 0.0

    async def _work(self, visit: Visit, device: DeviceRound, answer: CheckInAnswer) -> Joined:
        began_ms = self.clock.now_ms()
        try:
            part = await visit.take_part(device, answer, self._train, leave_at=3)
        except UnsentError as unsent:
            until_ms = began_ms + round(1000 * answer.report_within_s)
            self.store.outbox().add_reply(
                unsent.update, ticket=unsent.ticket, until_ms=until_ms, now_ms=self.clock.now_ms()
            )
            return Joined(Became.WAITS, str(unsent))
        except (RefusedError, ProtocolError, TrainingError) as error:
            return Joined(Became.REFUSED, str(error))
        return Joined(Became.IN_SUM if part.reported else Became.HELPED, "", part.trained)

    def _train(self, plan: RoundPlan) -> LocalTraining:
        """Booked and on disk before it is done: a phone that is killed does not get its steps back."""
        history = self.store.history(self.release)
        if not self.store.spend_steps(steps_of(plan, history, self.local), now_ms=self.clock.now_ms()):
            raise TrainingError("this phone has trained enough for today.", fix="Ask again tomorrow.")
        self.store.save()
        # Draws negatives only; nothing private depends on its strength.
        rng = np.random.default_rng(int.from_bytes(secrets.token_bytes(16), "big"))
        return train_round(plan, self.release, history, rng=rng, settings=self.local)
