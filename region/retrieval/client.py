"""The calling side: many searches at once over one connection, and a dead process is noticed in milliseconds."""

import asyncio
import itertools
from pathlib import Path
from typing import cast

import numpy as np

from infra.contracts.features import FloatArray, IntArray
from region.retrieval.errors import QueryRefusedError, RetrievalUnavailableError
from region.retrieval.protocol import (
    Answer,
    FrameBuffer,
    Hello,
    ProtocolError,
    Search,
    Status,
    check_query,
    decode_answer,
    decode_hello,
    encode_search,
)

IN_FLIGHT_MAX = 256
CONNECT_TIMEOUT_S = 1.0


class RetrievalClient:
    """Searches the index behind `socket`; connects when first asked, and again after the connection was lost.

    Args:
        socket: of the retrieval process.
        in_flight_max: more searches than this are refused at once.
        connect_timeout_s: how long connecting may take.
    """

    def __init__(
        self, *, socket: Path, in_flight_max: int = IN_FLIGHT_MAX, connect_timeout_s: float = CONNECT_TIMEOUT_S
    ) -> None:
        self._socket = socket
        self._in_flight_max = in_flight_max
        self._connect_timeout_s = connect_timeout_s
        self._link: _Link | None = None
        self._connecting = asyncio.Lock()
        self._ids = itertools.count()

    async def connect(self) -> Hello:
        """Connect, if that is not so yet; returns what the process searches.

        Raises:
            RetrievalUnavailableError: nobody answers.
        """
        return (await self._connected()).hello_now()

    async def search(self, vector: FloatArray, k: int, timeout_s: float) -> tuple[IntArray, FloatArray]:
        """The `k` nearest rows of `vector [dim] float32`: rows `[found] int32`, scores `[found] float32`, best first.

        `found` is at most `k`, and less where the index has or finds fewer.

        Raises:
            QueryRefusedError: the vector is not finite or not of the index's dimension, or `k` is out of bounds.
            TimeoutError: no answer within `timeout_s`.
            RetrievalUnavailableError: the process is gone, or `in_flight_max` searches are under way.
        """
        async with asyncio.timeout(timeout_s):
            link = await self._connected()
            queries = np.asarray(vector, dtype=np.float32)[None]
            check_query(queries, k=k, dim=link.hello_now().dim)
            if len(link.waiting) >= self._in_flight_max:
                raise RetrievalUnavailableError(f"{self._in_flight_max} searches are under way already.")
            answer = await link.ask(Search(next(self._ids) & 0xFFFFFFFF, k, queries))
        found = answer.rows[0] >= 0
        return answer.rows[0][found], answer.scores[0][found]

    async def close(self) -> None:
        """End the connection; searches under way fail."""
        link, self._link = self._link, None
        if link is not None:
            link.close()

    async def _connected(self) -> "_Link":
        link = self._link
        if link is not None and link.alive:
            return link
        async with self._connecting:
            if self._link is None or not self._link.alive:
                self._link = await self._connect()
            return self._link

    async def _connect(self) -> "_Link":
        loop = asyncio.get_running_loop()
        link = _Link()
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                await loop.create_unix_connection(lambda: link, str(self._socket))
                await link.greeted
        except (OSError, TimeoutError) as error:
            link.close()
            raise RetrievalUnavailableError(
                f"the retrieval process behind {self._socket.name} does not answer: {error or 'time is over'}."
            ) from error
        except BaseException:
            link.close()
            raise
        return link


class _Link(asyncio.Protocol):
    """One connection and who waits on it."""

    def __init__(self) -> None:
        self.waiting: dict[int, asyncio.Future[Answer]] = {}
        self.greeted: asyncio.Future[Hello] = asyncio.get_running_loop().create_future()
        self._frames = FrameBuffer()
        self._transport: asyncio.Transport | None = None

    @property
    def alive(self) -> bool:
        """Whether searches can be sent."""
        return self._transport is not None and not self._transport.is_closing()

    def hello_now(self) -> Hello:
        """What the process said at connect."""
        return self.greeted.result()

    async def ask(self, search: Search) -> Answer:
        """Send a search and wait for its answer.

        Raises:
            RetrievalUnavailableError, QueryRefusedError: see `RetrievalClient.search`.
        """
        if self._transport is None:
            raise _gone()
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self.waiting[search.request_id] = future
        try:
            self._transport.write(encode_search(search))
            answer = await future
        finally:
            self.waiting.pop(search.request_id, None)
        if answer.status is Status.REFUSED:
            raise QueryRefusedError(answer.message)
        if answer.status is not Status.OK:
            raise RetrievalUnavailableError(f"the retrieval process could not search: {answer.message}.")
        return answer

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the loop."""
        # A stream's transport both reads and writes; uvloop's does so without being an `asyncio.Transport`.
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Hello first, then answers."""
        try:
            for frame in self._frames.feed(data):
                if not self.greeted.done():
                    self.greeted.set_result(decode_hello(frame))
                else:
                    self._settle(decode_answer(frame))
        except ProtocolError:
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - gone is gone
        """Everybody who waits hears of it now."""
        self._transport = None
        if not self.greeted.done():
            self.greeted.set_exception(ConnectionResetError("it ended the connection"))
        for future in self.waiting.values():
            if not future.done():
                future.set_exception(_gone())

    def close(self) -> None:
        """End the connection."""
        if self._transport is not None:
            self._transport.close()

    def _settle(self, answer: Answer) -> None:
        future = self.waiting.get(answer.request_id)
        if future is not None and not future.done():
            future.set_result(answer)


def _gone() -> RetrievalUnavailableError:
    return RetrievalUnavailableError("the retrieval process ended.", fix="It is started again by itself.")
