"""The end user's own rights: what the home region has of them, and its erasure. Only at the edges of that region."""

import asyncio
from typing import Any

from edge.answering.parts import Parts
from edge.calls import Caller
from edge.http.events import for_caller
from edge.routing.concurrency import Priority
from edge.routing.port import RegionCallError, Right
from infra.contracts.messages import RightsCall
from infra.plumbing.errors import ForbiddenError, OverloadedError, UnauthorizedError

TIMEOUT_S = 30.0
"""An export reads a whole log, an erasure waits for the disks; neither is a page view."""
AT_ONCE_MAX = 4
"""An export may be many megabytes, which are held while they are passed on."""


class RightsDesk:
    """Passes a user's right on to the home region, and the answer back as it stands."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._room = asyncio.Semaphore(AT_ONCE_MAX)

    async def exercise(self, right: Right, caller: Caller, *, item: str = "", locale: str = "en") -> bytes:
        """The region's answer; `item` and `locale` are for who asks why something is shown.

        Raises:
            UnauthorizedError: no token: this is nobody else's to ask, no service's either.
            ForbiddenError: the caller is away from home.
            OverloadedError: too many do this at once.
            UnavailableError: the home region does not answer.
        """
        if caller.principal is None:
            raise UnauthorizedError("this right is the user's own.", fix="Send `Authorization: Bearer <token>`.")
        if caller.subject is None:
            home = caller.principal.home
            raise ForbiddenError(
                f"what is known of you is in {home} and does not leave it.", fix=f"Send this call to an edge of {home}."
            )
        if self._room.locked():
            raise OverloadedError("too many ask for this at once.", fix="Send it again in a moment.")
        async with self._room:
            return await self._ask(right, RightsCall(subject=caller.subject, item=item, locale=locale))

    async def _ask(self, right: Right, call: RightsCall) -> bytes:
        async def ask(url: str, timeout_s: float) -> bytes:
            return await self._parts.region.exercise(url, right, call, timeout_s=timeout_s)

        try:
            reply = await self._parts.dispatcher.ask(
                self._parts.own_region, ask, deadline_s=self._parts.clock.monotonic_s() + TIMEOUT_S,
                attempts=self._parts.dispatcher.attempts(Priority.EVENT), try_timeout_s=TIMEOUT_S / 2,
            )  # fmt: skip
        except RegionCallError as error:
            raise for_caller(error) from error
        if right is Right.ERASE:
            # The word comes over the grid as well, from where the other edges have it.
            self._parts.filler.drop_subject(call.subject)
        return reply.answer


Export = dict[str, Any]
"""Whatever the region has, in its own words (`region/privacy/messages.py`): an edge does not look inside."""
