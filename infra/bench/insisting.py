"""Calls as an application makes them: what is refused for now (503) is sent again after `Retry-After`, and counted."""

import asyncio
from collections import Counter
from collections.abc import Mapping

import aiohttp

from infra.plumbing.clock import Clock
from infra.plumbing.errors import UnavailableError

INSISTS_FOR_S = 120.0
RETRY_AFTER_S_MAX = 30.0


class InsistentCaller:
    """Posts until it is taken, for INSISTS_FOR_S.

    Args:
        url: of the server, without a path.
        headers: of every call.
    """

    def __init__(
        self, session: aiohttp.ClientSession, url: str, *, headers: Mapping[str, str], clock: Clock
    ) -> None:  # fmt: skip
        self.refused: Counter[str] = Counter()
        """How often a path answered 503."""
        self._session = session
        self._url = url
        self._headers = dict(headers)
        self._clock = clock

    async def post(self, path: str, body: bytes) -> bytes:
        """The body of the answer.

        Raises:
            UnavailableError: the answer was something else than 200 or 503, or 503 for too long.
        """
        ends_s = self._clock.monotonic_s() + INSISTS_FOR_S
        while True:
            async with self._session.post(self._url + path, data=body, headers=self._headers) as response:
                content = await response.read()
                status, pause_s = response.status, retry_after_s(response.headers.get("Retry-After", ""))
            if status == 200:
                return content
            if status != 503 or self._clock.monotonic_s() + pause_s > ends_s:
                raise UnavailableError(f"{path} answered {status}: {content[:300].decode(errors='replace')}")
            self.refused[path] += 1
            await asyncio.sleep(pause_s)


def retry_after_s(value: str) -> float:
    """Seconds of a `Retry-After` (RFC 9110, 10.2.3, its number form); one where there is none."""
    return min(RETRY_AFTER_S_MAX, float(value)) if value.isascii() and value.isdigit() else 1.0
