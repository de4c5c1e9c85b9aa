"""Slow and silent connections are closed; busy ones are not."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from aiohttp import web

from infra.plumbing.http.bodies import body_in_time
from infra.plumbing.http.guarding import GuardedRunner, guard


@pytest.fixture
async def port() -> AsyncIterator[tuple[int, list[str]]]:
    async def slow(_request: web.Request) -> web.Response:
        await asyncio.sleep(1.0)  # Longer than any limit here: working is not being silent.
        return web.Response(text="done")

    async def body(request: web.Request) -> web.Response:
        return web.Response(text=str(len(await body_in_time(request, timeout_s=0.2))))

    app = web.Application()
    app.add_routes([web.get("/slow", slow), web.post("/body", body)])
    runner = GuardedRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    closed: list[str] = []
    assert runner.server is not None
    task = asyncio.create_task(guard(runner.server, counted=closed.append, head_s=0.3, idle_s=0.6, look_every_s=0.05))
    yield runner.addresses[0][1], closed
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await runner.cleanup()


async def until_closed(reader: asyncio.StreamReader) -> bytes:
    try:
        return await asyncio.wait_for(reader.read(), 10)
    except ConnectionResetError:  # Closed while something of ours was on its way.
        return b""


async def test_a_head_that_does_not_end_is_closed(port: tuple[int, list[str]]) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port[0])
    writer.write(b"GET /slow HTTP/1.1\r\n")

    async def drip() -> None:
        while True:
            writer.write(b"X-A: b\r\n")
            await asyncio.sleep(0.05)

    dripping = asyncio.create_task(drip())
    assert await until_closed(reader) == b""
    dripping.cancel()
    assert port[1] == ["slow-head"]
    writer.close()


async def test_silence_is_closed_and_work_is_not(port: tuple[int, list[str]]) -> None:
    silent, silent_writer = await asyncio.open_connection("127.0.0.1", port[0])
    busy, busy_writer = await asyncio.open_connection("127.0.0.1", port[0])
    busy_writer.write(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
    assert (await asyncio.wait_for(busy.readuntil(b"done"), 10)).startswith(b"HTTP/1.1 200")
    assert await until_closed(silent) == b""
    assert await until_closed(busy) == b""  # It was answered, and then it was silent too.
    assert set(port[1]) == {"idle"}
    for writer in (silent_writer, busy_writer):
        writer.close()


async def test_a_body_that_does_not_come_is_408(port: tuple[int, list[str]]) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port[0])
    writer.write(b"POST /body HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nabc")
    assert (await asyncio.wait_for(reader.readline(), 10)).startswith(b"HTTP/1.1 408")
    writer.close()


async def test_what_is_not_http_is_counted(port: tuple[int, list[str]]) -> None:
    for _ in range(2):
        reader, writer = await asyncio.open_connection("127.0.0.1", port[0])
        writer.write(b"GET /slow HTTP/1.1\r\nHost: x\r\nbad name: 1\r\n\r\n")
        assert b"bad name" not in await until_closed(reader)
        writer.close()
    for _ in range(1000):
        if len(port[1]) == 2:
            break
        await asyncio.sleep(0.01)
    assert port[1] == ["unreadable"] * 2
