"""The word to the edges that another release answers: its failure undoes nothing, its time is bounded."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

WORD_TIMEOUT_S = 2.0
_log = logging.getLogger(__name__)


class Word:
    """Tells the edges of a switch.

    Args:
        tell: carries the word; whatever it raises is logged.
        timeout_s: how long that may take.
    """

    def __init__(self, tell: Callable[[str], Awaitable[None]], *, timeout_s: float) -> None:
        self._tell = tell
        self._timeout_s = timeout_s

    async def tell(self, release: str) -> bool:
        """Say that `release` answers now; whether the word was taken."""
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._tell(release)
        except Exception as error:
            _log.warning("the edges could not be told of release %s: %r", release, error)
            return False
        return True
