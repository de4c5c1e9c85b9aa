"""Reading bodies that come in time, and what it means that they cannot be read."""

import asyncio
from typing import Final

import msgspec
from aiohttp import web

from infra.plumbing.errors import InvalidInputError

NOT_JSON: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What decoding a body may raise that its sender is to blame for; the last one for brackets in brackets in brackets."""


def unreadable_body() -> InvalidInputError:
    """What the sender of a body is told that is not coded or cut into chunks as its head says."""
    return InvalidInputError("the body cannot be read.", fix="Send it as Content-Encoding and Transfer-Encoding say.")


async def body_in_time(request: web.Request, *, timeout_s: float) -> bytes:
    """The body.

    Raises:
        HTTPRequestTimeout: it did not arrive within `timeout_s`.
        HTTPRequestEntityTooLarge: it is larger than the application takes.
        RequestPayloadError: it is not coded as its head says; the frame around every handler knows what to answer.
    """
    try:
        async with asyncio.timeout(timeout_s):
            return await request.read()
    except TimeoutError:
        raise web.HTTPRequestTimeout from None
