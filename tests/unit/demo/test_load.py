"""The load tells the truth: about answers, about silence, about empty lists."""

import asyncio

from aiohttp import web
from aiohttp.test_utils import TestServer

from infra.demo.load import Call, Load, summarise, under_load
from infra.plumbing.clock import SystemClock

HEADERS = {"Atoll-Step": "fresh", "Atoll-Region": "us-east", "Atoll-Release": "r1"}


async def answer(request: web.Request) -> web.StreamResponse:
    match request.path:
        case "/good":
            return web.json_response({"items": [{"item": "1"}]}, headers=HEADERS)
        case "/empty":
            return web.json_response({"items": []}, headers=HEADERS)
        case "/broken":
            return web.json_response({}, status=500)
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


async def test_every_outcome_is_counted():
    app = web.Application()
    app.router.add_get("/{path}", answer)
    async with TestServer(app) as server:
        calls = [Call(path, {}, "us-east", False) for path in ("/good", "/empty", "/broken", "/silent")]
        load = Load(base_url=str(server.make_url("")).rstrip("/"), calls=calls, rate_per_s=400, clock=SystemClock())

        async def scene(running: Load) -> None:
            while len(running.samples) < 40:  # noqa: ASYNC110 - the load decides when
                await asyncio.sleep(0.01)

        await under_load(load, scene)
    summary = summarise(load.samples)
    good = [s for s in load.samples if s.status == 200 and s.items]
    assert summary.requests == len(load.samples) >= 40
    assert summary.failed >= 18
    assert summary.empty >= 9
    assert summary.steps == {"fresh": len(good) + summary.empty}
    assert summary.failed + summary.empty + len(good) == summary.requests
    assert {(s.region, s.release) for s in good} == {("us-east", "r1")}
    assert 0 < summary.p50_ms <= summary.p99_ms <= summary.max_ms


async def test_slow_answers_do_not_slow_the_load():
    async def slow(_request: web.Request) -> web.Response:
        await asyncio.sleep(0.3)
        return web.json_response({"items": [1]})

    app = web.Application()
    app.router.add_get("/slow", slow)
    async with TestServer(app) as server:
        base_url = str(server.make_url("")).rstrip("/")
        load = Load(base_url=base_url, calls=[Call("/slow", {}, "", False)], rate_per_s=100, clock=SystemClock())

        async def scene(running: Load) -> None:
            await asyncio.sleep(0.5)

        await under_load(load, scene)
    assert len(load.samples) >= 40  # one at a time would have been two
