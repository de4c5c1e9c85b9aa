"""The silo over HTTP, for the SuperNode's ClientApp: the gateway's two calls for rounds, below `/silo`."""

import asyncio
from collections.abc import AsyncIterator, Callable

import aiohttp
from aiohttp import web

from federation.gateway.bodies import body_of, json_answer, wait_s_of
from federation.gateway.budget import RegionBudget
from federation.messages import RoundPlan
from federation.privacy.noise import Entropy
from federation.settings import GatewaySettings, SiloSettings
from federation.silo.service import Count, Silo
from federation.silo.source import RegionHistories
from infra.contracts.residency import encode_global
from infra.plumbing.clock import Clock
from infra.plumbing.errors import NotFoundError
from infra.plumbing.http.tls import client_context
from infra.plumbing.keys import RegionKeys

CALL_TIMEOUT_S = 30.0
Admit = Callable[[web.Request], None]
"""Raises `UnauthorizedError` for who does not show the round key."""


class SiloDoors:
    """Opens the silo with the application, and hands requests to it."""

    def __init__(
        self, settings: GatewaySettings, silo: SiloSettings, *, keys: RegionKeys, budget: RegionBudget,
        busy: Callable[[], bool], admit: Admit, clock: Clock, entropy: Entropy, count: Count,
    ) -> None:  # fmt: skip
        self._region = settings.region
        self._settings = silo
        self._keys = keys
        self._budget = budget
        self._busy = busy
        self._admit = admit
        self._clock = clock
        self._entropy = entropy
        self._count = count
        self._silo: Silo | None = None

    @property
    def training(self) -> bool:
        """Whether a round over resident features goes on."""
        return self._silo is not None and self._silo.training

    def add_to(self, app: web.Application) -> None:
        """Put the routes into `app`, and the silo's life around it."""
        app.add_routes(
            [
                web.post("/silo/v1/rounds", self._start),
                web.get("/silo/v1/rounds/{round_id}", self._round),
            ]
        )
        app.cleanup_ctx.append(self._life)

    async def _life(self, _app: web.Application) -> AsyncIterator[None]:
        tls = None if self._settings.tls is None else client_context(self._settings.tls, clock=self._clock)
        connector = aiohttp.TCPConnector(ssl=True if tls is None else tls.context)
        timeout = aiohttp.ClientTimeout(total=CALL_TIMEOUT_S)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
            source = RegionHistories(session, self._settings.region_url, service_key=self._keys.service_key)
            self._silo = Silo(
                region=self._region, settings=self._settings, source=source, journal=self._budget.journal,
                busy=self._busy, clock=self._clock, entropy=self._entropy, count=self._count,
            )  # fmt: skip
            following = None if tls is None else asyncio.create_task(tls.follow())
            yield
            if following is not None:
                following.cancel()
            await self._silo.close()
            self._silo = None

    async def _start(self, request: web.Request) -> web.Response:
        self._admit(request)
        standing = await self._budget.opened(self._open_silo(), await body_of(request, RoundPlan))
        return json_answer(encode_global(standing), status=202)

    async def _round(self, request: web.Request) -> web.Response:
        self._admit(request)
        wait_s = wait_s_of(request.query.get("wait_s", "0"))
        return json_answer(encode_global(await self._open_silo().ended(request.match_info["round_id"], wait_s=wait_s)))

    def _open_silo(self) -> Silo:
        if self._silo is None:
            raise NotFoundError("this region's silo is closed.")
        return self._silo
