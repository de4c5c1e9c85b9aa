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
    Side,
    Status,
    check_query,
    check_side,
    decode_answer,
    decode_hello,
    encode_search,
    encode_side,
)

IN_FLIGHT_MAX = 256
CONNECT_TIMEOUT_S = 1.0
SIDE_TIMEOUT_S = 1.0


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
        self._side: tuple[IntArray, FloatArray] | None = None

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

    async def put_side(self, rows: IntArray, vectors: FloatArray) -> None:
        """From now on `rows [count] int32` with `vectors [count, dim]` are searched beside the index, and no others.

        They are said again after every connect: a process that was started anew does not know them.

        Raises:
            QueryRefusedError: too many, of the index's own rows, or not finite; what stood there before goes on.
            TimeoutError, RetrievalUnavailableError: the process is gone; it hears of them when it is back.
        """
        before, self._side = self._side, (rows, vectors)
        async with asyncio.timeout(SIDE_TIMEOUT_S):
            try:
                link = await self._connected()
                hello = link.hello_now()
                check_side(rows, vectors, dim=hello.dim, num_items=hello.num_items)
                await self._say_side(link)
            except QueryRefusedError:
                self._side = before
                raise

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
                if self._side is not None:
                    await self._say_side(link)
        except (OSError, TimeoutError) as error:
            link.close()
            raise RetrievalUnavailableError(
                f"the retrieval process behind {self._socket.name} does not answer: {error or 'time is over'}."
            ) from error
        except BaseException:
            link.close()
            raise
        return link

    async def _say_side(self, link: "_Link") -> None:
        if self._side is not None:
            request_id = next(self._ids) & 0xFFFFFFFF
            await link.send(request_id, encode_side(Side(request_id, *self._side)))


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
        return await self.send(search.request_id, encode_search(search))

    async def send(self, request_id: int, frame: bytes) -> Answer:
        """Send `frame` and wait for its answer; raises as `ask`."""
        if self._transport is None:
            raise _gone()
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self.waiting[request_id] = future
        try:
            self._transport.write(frame)
            answer = await future
        finally:
            self.waiting.pop(request_id, None)
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
