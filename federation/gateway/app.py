"""The gateway over HTTP.

==========================  =============================================================================
GET  /v1/device/visit       all of the below, in frames over one connection (`federation.gateway.visits`)
POST /v1/device/check-in    a phone with its user's token: a task, a ticket and neighbours, or when to come back
POST /v1/device/shares      sealed shares for the neighbours; the answer holds what they sealed for this phone
POST /v1/device/seat        a nonce for a draw of the seats; the answer has the phone's place, or a further draw
POST /v1/device/update      the masked update; the answer says whose updates are in the sum
POST /v1/device/survivors   whose updates are in the sum, for a phone that came too late with its own
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

from aiohttp import web

from federation.gateway.bodies import body_of, json_answer, wait_s_of
from federation.gateway.budget import RegionBudget
from federation.gateway.callers import Callers
from federation.gateway.journal import Journal
from federation.gateway.service import Gateway
from federation.gateway.steps import Steps
from federation.gateway.visits import ARRIVAL_S, Visits
from federation.messages import TICKET_HEADER, RoundPlan
from federation.privacy.noise import Entropy
from federation.settings import GatewaySettings
from federation.silo.doors import SiloDoors
from infra.contracts.residency import encode_global, encode_regional
from infra.plumbing.clock import Clock
from infra.plumbing.errors import ConflictError, UnauthorizedError
from infra.plumbing.files import write_atomically
from infra.plumbing.http.middleware import frame, operations_routes
from infra.plumbing.keys import RegionKeys, Trust, encode_base64url
from infra.plumbing.private_files import read_private
from infra.plumbing.tallies import LoopCounter
from infra.plumbing.telemetry import Telemetry

BODY_BYTES_MAX = 2 << 20
ROUND_KEY_FILE = "round.key"


class _Handlers:
    """HTTP in, HTTP out; every decision is the gateway's."""

    def __init__(
        self, *, steps: Steps, visits: Visits, budget: RegionBudget, callers: Callers, round_key: str
    ) -> None:  # fmt: skip
        self._steps = steps
        self._visits = visits
        self._budget = budget
        self._callers = callers
        self._round_key = round_key
        self.silo_trains: Callable[[], bool] = lambda: False

    async def check_in(self, request: web.Request) -> web.Response:
        subject = self._callers.subject(_bearer(request))
        return json_answer(encode_regional(await self._steps.check_in(subject, await request.read())))

    async def visit(self, request: web.Request) -> web.WebSocketResponse:
        return await self._visits.serve(request, self._callers.subject(_bearer(request)))

    async def step(self, request: web.Request) -> web.Response:
        ticket = request.headers.get(TICKET_HEADER, "")
        answer = await self._steps.take(request.match_info["step"], ticket, await request.read())
        return json_answer(encode_regional(answer))

    async def start_round(self, request: web.Request) -> web.Response:
        self.require_round_key(request)
        if self.silo_trains():
            raise ConflictError("this region's silo is at a round.", fix="Wait until it has ended.")
        standing = await self._budget.opened(self._steps.gateway, await body_of(request, RoundPlan))
        self._steps.wake_if_moved()
        return json_answer(encode_global(standing), status=202)

    async def round(self, request: web.Request) -> web.Response:
        self.require_round_key(request)
        wait_s = wait_s_of(request.query.get("wait_s", "0"))
        return json_answer(encode_global(await self._steps.standing(request.match_info["round_id"], wait_s)))

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
    outcomes = LoopCounter(
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
    round_key = round_key_in(state / ROUND_KEY_FILE, entropy=entropy)
    budget = RegionBudget(state, region=settings.region, policy=settings.cohort, journal=journal, clock=clock)
    steps = Steps(gateway, clock=clock)
    handlers = _Handlers(
        steps=steps, budget=budget, callers=Callers(keys=keys, trust=trust, clock=clock), round_key=round_key,
        visits=Visits(
            steps, visits_max=settings.cohort.check_ins_max, visit_s_max=settings.cohort.round_s_max + ARRIVAL_S,
            frame_bytes_max=BODY_BYTES_MAX,
        ),
    )  # fmt: skip
    app = web.Application(client_max_size=BODY_BYTES_MAX, middlewares=[frame(telemetry, clock)])
    app.add_routes(
        [
            web.get("/v1/device/visit", handlers.visit),
            web.post("/v1/device/check-in", handlers.check_in),
            web.post("/v1/device/{step:seat|shares|update|survivors|signature|unmask}", handlers.step),
            web.post("/v1/rounds", handlers.start_round),
            web.get("/v1/rounds/{round_id}", handlers.round),
            *operations_routes(telemetry, lambda: None),
        ]
    )
    app.cleanup_ctx.append(_timekeeper(steps))
    if settings.silo is not None:
        silo = SiloDoors(
            settings, settings.silo, keys=keys, budget=budget, busy=lambda: gateway.phase() is not None,
            admit=handlers.require_round_key, clock=clock, entropy=entropy, count=count,
        )  # fmt: skip
        handlers.silo_trains = lambda: silo.training
        silo.add_to(app)
    return app


def _timekeeper(steps: Steps) -> Callable[[web.Application], AsyncIterator[None]]:
    async def run(_app: web.Application) -> AsyncIterator[None]:
        task = asyncio.create_task(steps.keep_time())
        yield
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    return run


def round_key_in(path: Path, *, entropy: Entropy) -> str:
    """The SuperNode's key to this gateway: made once, readable by the region's own processes only.

    Raises:
        ExposedSecretError: others may read it.
    """
    if not path.exists():
        write_atomically(path, encode_base64url(entropy(32)).encode(), mode=0o600)
    return read_private(path).decode().strip()


def _bearer(request: web.Request) -> str:
    scheme, _, credential = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not credential:
        raise UnauthorizedError("there is no bearer credential.", fix="Send Authorization: Bearer ...")
    return credential.strip()
