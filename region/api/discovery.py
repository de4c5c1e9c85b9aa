"""The region's doors for finding one's way: what to choose from, what a few letters mean. For its own edges."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

from aiohttp import web

from infra.contracts.discovery import (
    CHOICE_CATEGORIES_MAX,
    CHOICE_ITEMS_MAX,
    QUERY_CHARACTERS_MAX,
    SUGGEST_MAX,
    ChoiceCategory,
    ChoicesAnswer,
    ChoicesCall,
    SuggestCall,
)
from infra.contracts.features import IntArray
from infra.contracts.messages import HomeRequest, RecommendationType, Surface
from infra.contracts.residency import encode_global, encode_regional
from infra.plumbing.clock import Clock
from infra.plumbing.errors import InvalidInputError
from region.api.decoding import decode_body, read_body
from region.api.doors import Door
from region.api.routes import check_subject
from region.api.suggesting import Suggester
from region.funnel.choosing import choices_of
from region.funnel.compute import ComputePool
from region.funnel.funnel import Funnel
from region.funnel.release import LoadedRelease

BODY_BYTES_MAX = 16 << 10


@dataclass(frozen=True, slots=True, kw_only=True)
class DiscoveryDoors:
    """Handlers; `lease` holds the active release open."""

    region: str
    funnel: Funnel
    compute: ComputePool
    lease: Callable[[], AbstractContextManager[LoadedRelease]]
    clock: Clock
    home_only: Door
    suggester: Suggester

    def routes(self) -> list[web.RouteDef]:
        """The routes to put into the application."""
        return [web.post("/v1/onboarding/choices", self.choices), web.post("/v1/suggest", self.suggest)]

    async def choices(self, request: web.Request) -> web.Response:
        """Popular items by category that hard rules and withdrawals let through."""
        self.home_only(request)
        call = decode_body(await read_body(request, bytes_max=BODY_BYTES_MAX), ChoicesCall)
        if not (1 <= call.categories <= CHOICE_CATEGORIES_MAX and 1 <= call.items <= CHOICE_ITEMS_MAX):
            raise InvalidInputError(
                "categories or items is out of range.",
                fix=f"They go from 1 to {CHOICE_CATEGORIES_MAX} and to {CHOICE_ITEMS_MAX}.",
            )
        with self.lease() as release:
            found = await self.compute.run(self._choose, call, release)
        answer = ChoicesAnswer(categories=found, release=release.release_id, region=self.region)
        return web.Response(body=encode_global(answer), content_type="application/json")

    async def suggest(self, request: web.Request) -> web.Response:
        """What a few letters may mean; nothing that may not be shown is named."""
        self.home_only(request)
        call = decode_body(await read_body(request, bytes_max=BODY_BYTES_MAX), SuggestCall)
        if not (1 <= call.n <= SUGGEST_MAX and len(call.q) <= QUERY_CHARACTERS_MAX):
            raise InvalidInputError(
                "q is too long, or n is out of range.",
                fix=f"q has at most {QUERY_CHARACTERS_MAX} characters, n goes from 1 to {SUGGEST_MAX}.",
            )
        check_subject(call.subject)
        return web.Response(body=encode_regional(await self.suggester.answer(call)), content_type="application/json")

    def _choose(self, call: ChoicesCall, release: LoadedRelease) -> tuple[ChoiceCategory, ...]:
        asked = HomeRequest(type=RecommendationType.POPULAR, surface=Surface.HOME, context=call.context)

        def permitted(rows: IntArray) -> IntArray:
            return self.funnel.permitted(asked, release, rows, now_s=self.clock.now_ms() / 1000)

        return choices_of(release.tables, permitted, categories=call.categories, items=call.items)
