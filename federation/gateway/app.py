"""The gateway over HTTP.

==========================  =============================================================================
POST /v1/device/check-in    a phone with its user's token: a task, a ticket and neighbours, or when to come back
POST /v1/device/shares      sealed shares for the neighbours; the answer holds what they sealed for this phone
POST /v1/device/update      the masked update; the answer says whose updates are in the sum
POST /v1/device/signature   a signature under that; the answer holds the neighbours' signatures
POST /v1/device/unmask      shares that take the masks off the sum
POST /v1/rounds             the SuperNode's ClientApp, with the round key: open a round
GET  /v1/rounds/{id}        how it stands; `?wait_s=` answers when it has ended, or then
POST /silo/v1/rounds        the same two calls for a round over the region's resident features, without phones
==========================  =============================================================================

An answer that needs the other phones is held back until the round has moved on, at most until the phase's deadline.
Behind the check-in a phone shows its ticket and nothing else that says whose it is.
"""

import asyncio
import contextlib
import hmac
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import msgspec
from aiohttp import web
from prometheus_client import Counter

from federation.gateway.bodies import M, body_of, json_answer, wait_s_of
from federation.gateway.budget import RegionBudget
from federation.gateway.callers import Callers
from federation.gateway.journal import Journal
from federation.gateway.service import Gateway
from federation.messages import TICKET_HEADER, CheckIn, Phase, RegionalSum, RoundPlan
from federation.privacy.noise import Entropy
from federation.secure_aggregation.messages import MaskedUpdate, SealedShares, SurvivorsSigned, Unmasking
from federation.settings import GatewaySettings
from federation.silo.doors import SiloDoors
from infra.contracts.residency import RegionalMessage, encode_global, encode_regional
from infra.plumbing.clock import Clock
from infra.plumbing.errors import ConflictError, UnauthorizedError
from infra.plumbing.files import write_atomically
from infra.plumbing.http.middleware import frame, operations_routes
from infra.plumbing.keys import RegionKeys, Trust, encode_base64url
from infra.plumbing.telemetry import Telemetry

BODY_BYTES_MAX = 2 << 20
ROUND_KEY_FILE = "round.key"


class _Handlers:
    """HTTP in, HTTP out; every decision is the gateway's."""

    def __init__(
        self, *, gateway: Gateway, budget: RegionBudget, keys: RegionKeys, trust: Trust, clock: Clock, round_key: str
    ) -> None:  # fmt: skip
        self.gateway = gateway
        self._budget = budget
        self._callers = Callers(keys=keys, trust=trust, clock=clock)
        self._clock = clock
        self._round_key = round_key
        self.silo_trains: Callable[[], bool] = lambda: False
        self._moved = asyncio.Event()
        """Set and replaced whenever a round has moved."""
        self._seen: tuple[Phase | None, float | None] = (None, None)

    async def check_in(self, request: web.Request) -> web.Response:
        subject = self._callers.subject(_bearer(request))
        answer = self.gateway.check_in(subject, await body_of(request, CheckIn))
        self._wake_if_moved()
        if not answer.ticket:
            return json_answer(encode_regional(answer))
        roster = await self._moved_on(lambda: self.gateway.roster(answer.ticket))
        return json_answer(encode_regional(msgspec.structs.replace(answer, roster=roster)))

    async def shares(self, request: web.Request) -> web.Response:
        ticket = _ticket(request)
        self.gateway.shares(ticket, await body_of(request, SealedShares))
        return await self._answer(lambda: self.gateway.mailbox(ticket))

    async def update(self, request: web.Request) -> web.Response:
        ticket = _ticket(request)
        self.gateway.update(ticket, await body_of(request, MaskedUpdate))
        return await self._answer(lambda: self.gateway.survivors(ticket))

    async def signature(self, request: web.Request) -> web.Response:
        ticket = _ticket(request)
        self.gateway.sign(ticket, await body_of(request, SurvivorsSigned))
        return await self._answer(lambda: self.gateway.signatures(ticket))

    async def unmask(self, request: web.Request) -> web.Response:
        receipt = self.gateway.unmask(_ticket(request), await body_of(request, Unmasking))
        self._wake_if_moved()
        return json_answer(encode_regional(receipt))

    async def start_round(self, request: web.Request) -> web.Response:
        self.require_round_key(request)
        if self.silo_trains():
            raise ConflictError("this region's silo is at a round.", fix="Wait until it has ended.")
        standing = await self._budget.opened(self.gateway, await body_of(request, RoundPlan))
        self._wake_if_moved()
        return json_answer(encode_global(standing), status=202)

    async def round(self, request: web.Request) -> web.Response:
        self.require_round_key(request)
        wait_s = wait_s_of(request.query.get("wait_s", "0"))
        return json_answer(encode_global(await self._standing(request.match_info["round_id"], wait_s)))

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
            self._wake_if_moved()

    async def _standing(self, round_id: str, wait_s: float) -> RegionalSum:
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

    async def _answer(self, look: Callable[[], RegionalMessage | None]) -> web.Response:
        self._wake_if_moved()
        return json_answer(encode_regional(await self._moved_on(look)))

    async def _moved_on(self, look: Callable[[], M | None]) -> M:
        """What `look` finds once the round has moved on; the round's own deadlines bound the wait."""
        while True:
            moved = self._moved
            found = look()
            if found is not None:
                return found
            await moved.wait()

    def _wake_if_moved(self) -> None:
        """Only a change of phase is news; every message would wake a thousand waiting phones for nothing."""
        standing = (self.gateway.phase(), self.gateway.next_change_s())
        if standing != self._seen:
            self._seen = standing
            self._wake()

    def _wake(self) -> None:
        moved, self._moved = self._moved, asyncio.Event()
        moved.set()

    def require_round_key(self, request: web.Request) -> None:
        if not hmac.compare_digest(_bearer(request).encode(), self._round_key.encode()):
            raise UnauthorizedError(
                "the round key does not hold.", fix=f"Use the one in the gateway's {ROUND_KEY_FILE}."
            )


def build_app(
    *, settings: GatewaySettings, keys: RegionKeys, trust: Trust, telemetry: Telemetry, clock: Clock,
    entropy: Entropy,
) -> web.Application:  # fmt: skip
    """The gateway's application; its state directory gets `round.key` and the folder `rounds`."""
    state = Path(settings.state_directory)
    outcomes = Counter(
        "atoll_federation_outcomes", "What became of check-ins, updates and rounds.", ("what", "outcome"),
        registry=telemetry.registry,
    )  # fmt: skip
    journal = Journal(state / "rounds")

    def count(what: str, outcome: str) -> None:
        outcomes.labels(what, str(outcome)).inc()

    gateway = Gateway(
        region=settings.region, policy=settings.cohort, journal=journal, clock=clock, entropy=entropy, count=count,
        issuer_public=trust.regions[settings.region].issuer_public,
    )  # fmt: skip
    round_key = _round_key(state / ROUND_KEY_FILE, entropy)
    budget = RegionBudget(state, region=settings.region, policy=settings.cohort, journal=journal, clock=clock)
    handlers = _Handlers(
        gateway=gateway, budget=budget, keys=keys, trust=trust, clock=clock, round_key=round_key,
    )  # fmt: skip
    app = web.Application(client_max_size=BODY_BYTES_MAX, middlewares=[frame(telemetry, clock)])
    app.add_routes(
        [
            web.post("/v1/device/check-in", handlers.check_in),
            web.post("/v1/device/shares", handlers.shares),
            web.post("/v1/device/update", handlers.update),
            web.post("/v1/device/signature", handlers.signature),
            web.post("/v1/device/unmask", handlers.unmask),
            web.post("/v1/rounds", handlers.start_round),
            web.get("/v1/rounds/{round_id}", handlers.round),
            *operations_routes(telemetry, lambda: None),
        ]
    )
    app.cleanup_ctx.append(_timekeeper(handlers))
    if settings.silo is not None:
        silo = SiloDoors(
            settings, settings.silo, keys=keys, budget=budget, busy=lambda: gateway.phase() is not None,
            admit=handlers.require_round_key, clock=clock, entropy=entropy, count=count,
        )  # fmt: skip
        handlers.silo_trains = lambda: silo.training
        silo.add_to(app)
    return app


def _timekeeper(handlers: _Handlers) -> Callable[[web.Application], AsyncIterator[None]]:
    async def run(_app: web.Application) -> AsyncIterator[None]:
        task = asyncio.create_task(handlers.keep_time())
        yield
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    return run


def _round_key(path: Path, entropy: Entropy) -> str:
    """The SuperNode's key to this gateway: made once, readable by the region's own processes only."""
    if not path.exists():
        write_atomically(path, encode_base64url(entropy(32)).encode(), mode=0o600)
    return path.read_text().strip()


def _bearer(request: web.Request) -> str:
    scheme, _, credential = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not credential:
        raise UnauthorizedError("there is no bearer credential.", fix="Send Authorization: Bearer ...")
    return credential.strip()


def _ticket(request: web.Request) -> str:
    return request.headers.get(TICKET_HEADER, "")
