"""Bytes to a server and back, without a client's opinion on either."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp.test_utils import TestClient

WITHIN_S = 10.0
_LENGTH = re.compile(rb"\r\ncontent-length: (\d+)", re.IGNORECASE)


class Wire:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def answer(self) -> bytes:
        """One whole answer: its head, and the body that its Content-Length announces."""
        async with asyncio.timeout(WITHIN_S):
            head = await self.reader.readuntil(b"\r\n\r\n")
            length = _LENGTH.search(head)
            return head + (await self.reader.readexactly(int(length.group(1))) if length else b"")

    async def ask(self, data: bytes) -> bytes:
        self.send(data)
        return await self.answer()

    async def rest(self) -> bytes:
        """Everything until the other side closes."""
        async with asyncio.timeout(WITHIN_S):
            return await self.reader.read()


@asynccontextmanager
async def wire(client: TestClient[Any, Any]) -> AsyncIterator[Wire]:
    """A connection to the server of `client`."""
    reader, writer = await asyncio.open_connection(client.server.host, client.server.port)
    try:
        yield Wire(reader, writer)
    finally:
        writer.close()
        await asyncio.gather(writer.wait_closed(), return_exceptions=True)


def head(target: str, *lines: str, method: str = "GET", host: bool = True) -> bytes:
    """A request's head."""
    hosted = ("Host: edge.test",) if host else ()
    return "\r\n".join((f"{method} {target} HTTP/1.1", *hosted, *lines, "", "")).encode()


def comparable(answer: bytes) -> bytes:
    """An answer without what differs from one request to the next."""
    return re.sub(rb"\r\n(Atoll-Request-Id|Date): [^\r]*", rb"\r\n\1: -", answer)
