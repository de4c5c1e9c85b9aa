"""Reading bodies that come in time."""

import asyncio

from aiohttp import web


async def body_in_time(request: web.Request, *, timeout_s: float) -> bytes:
    """The body.

    Raises:
        HTTPRequestTimeout: it did not arrive within `timeout_s`.
        HTTPRequestEntityTooLarge: it is larger than the application takes.
    """
    try:
        async with asyncio.timeout(timeout_s):
            return await request.read()
    except TimeoutError:
        raise web.HTTPRequestTimeout from None
