"""What is refused for now is sent again; what is refused for good is not."""

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from infra.bench.insisting import InsistentCaller, retry_after_s
from infra.plumbing.clock import ManualClock
from infra.plumbing.errors import UnavailableError


async def test_a_call_is_made_again_after_a_503_and_counted() -> None:
    answers = [(503, b"busy"), (503, b"busy"), (200, b"done"), (400, b"never")]

    async def handle(_request: web.Request) -> web.Response:
        status, body = answers.pop(0)
        return web.Response(status=status, body=body, headers={"Retry-After": "0"})

    app = web.Application()
    app.add_routes([web.post("/erase", handle)])
    async with TestServer(app) as server, aiohttp.ClientSession() as session:
        caller = InsistentCaller(session, str(server.make_url("")).rstrip("/"), headers={}, clock=ManualClock())
        assert await caller.post("/erase", b"{}") == b"done"
        assert caller.refused == {"/erase": 2}
        with pytest.raises(UnavailableError, match="answered 400: never"):
            await caller.post("/erase", b"{}")
    assert not answers


@pytest.mark.parametrize(("value", "seconds"), [("0", 0.0), ("7", 7.0), ("900", 30.0), ("", 1.0), ("soon", 1.0)])
def test_how_long_is_waited(value: str, seconds: float) -> None:
    assert retry_after_s(value) == seconds
