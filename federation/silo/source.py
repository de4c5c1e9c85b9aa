"""Where a silo's histories come from: the region's own API, by its door for the region's own processes."""

from collections.abc import AsyncIterator
from typing import Protocol

import aiohttp
import msgspec

from infra.contracts.residency import encode_regional
from infra.contracts.resident import PAGE_MAX, ResidentCall, ResidentHistory, ResidentPage
from infra.plumbing.errors import UnavailableError

SERVICE_KEY_HEADER = "Atoll-Service-Key"
PATH = "/v1/resident/histories"
PAGE_COUNT = 200
PAGE_BYTES_MAX = 64 << 20


class HistorySource(Protocol):
    """Resident histories of one region, each user's once."""

    def pages(self) -> AsyncIterator[tuple[ResidentHistory, ...]]:
        """Page by page.

        Raises:
            UnavailableError: the region does not give them now.
        """
        ...


class RegionHistories:
    """`HistorySource` over the region's API."""

    def __init__(self, session: aiohttp.ClientSession, url: str, *, service_key: str) -> None:
        self._session = session
        self._url = url.rstrip("/") + PATH
        self._headers = {SERVICE_KEY_HEADER: service_key, "Content-Type": "application/json"}

    async def pages(self) -> AsyncIterator[tuple[ResidentHistory, ...]]:
        """Page by page, until there is no more."""
        after = ""
        while True:
            page = await self._page(after)
            yield page.histories
            if not page.after:
                return
            if page.after == after:
                raise UnavailableError("the region's histories do not go on where they should.")
            after = page.after

    async def _page(self, after: str) -> ResidentPage:
        body = encode_regional(ResidentCall(after=after, page_count=min(PAGE_COUNT, PAGE_MAX)))
        try:
            async with self._session.post(self._url, data=body, headers=self._headers) as answer:
                content = await answer.content.read(PAGE_BYTES_MAX)
                if answer.status != 200:
                    raise UnavailableError(f"the region answered {answer.status} when asked for histories.")
                while not answer.content.at_eof() and len(content) < PAGE_BYTES_MAX:
                    content += await answer.content.read(PAGE_BYTES_MAX - len(content))
            return msgspec.json.decode(content, type=ResidentPage)
        except (aiohttp.ClientError, TimeoutError, msgspec.DecodeError) as error:
            raise UnavailableError(f"the region's histories cannot be read: {type(error).__name__}.") from error
