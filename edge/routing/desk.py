"""Asking regions for lists: this one, or the first of others that answers. An empty list counts as no answer.

Every call carries how long it will be waited for, so that a region computes nothing that nobody will read.
"""

from collections.abc import Callable, Sequence

import msgspec

from edge.routing.dispatch import Attempts, Dispatcher, Reply
from edge.routing.port import CallFailure, RegionCallError, RegionPort
from infra.contracts.messages import AwayAnswer, AwayRequest, HomeAnswer, HomeRequest
from infra.plumbing.clock import Clock


class RegionDesk:
    """Sends list requests; keeps nothing of what comes back.

    Args:
        heard: shown every answer of this edge's own region.
    """

    def __init__(
        self,
        *,
        own_region: str,
        dispatcher: Dispatcher,
        region: RegionPort,
        clock: Clock,
        heard: Callable[[HomeAnswer], None],
    ) -> None:
        self._own_region = own_region
        self._dispatcher = dispatcher
        self._region = region
        self._clock = clock
        self._heard = heard

    async def ask_home(self, request: HomeRequest, *, deadline_s: float, attempts: Attempts) -> Reply[HomeAnswer]:
        """A list from this edge's own region.

        Raises:
            RegionCallError: no node answered in time.
        """

        async def call(url: str, timeout_s: float) -> HomeAnswer:
            timed = msgspec.structs.replace(request, timeout_ms=timeout_s * 1000)
            answer = await self._region.recommend(url, timed, timeout_s=timeout_s)
            if not answer.items:
                raise RegionCallError(CallFailure.MALFORMED, status=200)
            return answer

        reply = await self._dispatcher.ask(self._own_region, call, deadline_s=deadline_s, attempts=attempts)
        self._heard(reply.answer)
        return reply

    async def ask_away(
        self, request: AwayRequest, regions: Sequence[str], *, deadline_s: float, attempts: Attempts
    ) -> AwayAnswer:
        """A list from the first of `regions` that gives one; each gets half of the time that is left, the last all.

        Raises:
            RegionCallError: none did in time.
        """

        async def call(url: str, timeout_s: float) -> AwayAnswer:
            timed = msgspec.structs.replace(request, timeout_ms=timeout_s * 1000)
            answer = await self._region.recommend_away(url, timed, timeout_s=timeout_s)
            if not answer.items:
                raise RegionCallError(CallFailure.MALFORMED, status=200)
            return answer

        error = RegionCallError(CallFailure.UNREACHABLE)
        reachable = [region for region in regions if self._dispatcher.reachable(region)]
        for index, region in enumerate(reachable):
            now_s = self._clock.monotonic_s()
            share_s = (deadline_s - now_s) / (2 if index < len(reachable) - 1 else 1)
            try:
                reply = await self._dispatcher.ask(region, call, deadline_s=now_s + share_s, attempts=attempts)
            except RegionCallError as failure:
                error = failure
            else:
                return reply.answer
        raise error
