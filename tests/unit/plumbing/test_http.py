"""The frame around every handler, over a real socket."""

import asyncio
import json
import os
import signal
import socket
from collections.abc import AsyncIterator

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from infra.plumbing.clock import SystemClock
from infra.plumbing.errors import (
    AtollError,
    ConflictError,
    ForbiddenError,
    InvalidInputError,
    NotFoundError,
    OverloadedError,
    SettingsError,
    UnauthorizedError,
    UnavailableError,
)
from infra.plumbing.http.middleware import frame, operations_routes
from infra.plumbing.http.serving import run_process, serve
from infra.plumbing.telemetry import Telemetry, TelemetrySettings, start_telemetry

ERRORS: dict[str, Exception] = {
    "bad": InvalidInputError("n is 0.", fix="Use 1 to 100."),
    "who": UnauthorizedError("no token."),
    "no": ForbiddenError("not yours."),
    "gone": NotFoundError("nothing."),
    "busy": ConflictError("in progress."),
    "full": OverloadedError("too much."),
    "down": UnavailableError("away."),
    "ours": AtollError("ours."),
    "bug": ValueError("secret detail"),
    "see": web.HTTPFound("/elsewhere"),
}


@pytest.fixture
def telemetry() -> Telemetry:
    return start_telemetry(service="s", region="r", node="n", settings=TelemetrySettings(log_level="CRITICAL"))


@pytest.fixture
async def client(telemetry: Telemetry) -> AsyncIterator[TestClient[web.Request, web.Application]]:
    state: dict[str, str | None] = {"waiting": "a release"}

    async def fail(request: web.Request) -> web.Response:
        raise ERRORS[request.match_info["what"]]

    async def echo(request: web.Request) -> web.Response:
        state["waiting"] = None
        return web.Response(body=await request.read())

    app = web.Application(middlewares=[frame(telemetry, SystemClock())], client_max_size=100)
    app.add_routes([web.get("/fail/{what}", fail), web.post("/echo", echo)])
    app.add_routes(operations_routes(telemetry, lambda: state["waiting"]))
    async with TestClient(TestServer(app)) as client:
        yield client


@pytest.mark.parametrize(
    ("what", "status"),
    [("bad", 400), ("who", 401), ("no", 403), ("gone", 404), ("busy", 409), ("full", 503), ("down", 503),
     ("ours", 500), ("bug", 500)],
)  # fmt: skip
async def test_errors_become_problem_documents(client: TestClient, what: str, status: int):
    answer = await client.get(f"/fail/{what}", headers={"Atoll-Request-Id": "request-1"})
    body = json.loads(await answer.read())
    assert answer.status == body["status"] == status
    assert answer.content_type == "application/problem+json"
    assert answer.headers["Atoll-Request-Id"] == body["request_id"] == "request-1"
    assert ("Retry-After" in answer.headers) == (status == 503)
    assert ("WWW-Authenticate" in answer.headers) == (status == 401)
    assert "secret" not in json.dumps(body)
    if what == "bad":
        assert body["detail"] == "n is 0. Use 1 to 100."


async def test_what_aiohttp_refuses_is_a_problem_document_too(client: TestClient):
    for answer, status in (
        (await client.get("/nowhere/<script>"), 404),
        (await client.get("/echo"), 405),
        (await client.post("/echo", data=b"x" * 101), 413),
    ):
        assert answer.status == status
        assert answer.content_type == "application/problem+json"
        assert "script" not in await answer.text()
    assert (await client.get("/fail/see", allow_redirects=False)).status == 302


async def test_metrics_and_health(client: TestClient):
    waiting = await client.get("/health/ready")
    assert (waiting.status, await waiting.json()) == (503, {"status": "waiting", "for": "a release"})
    assert (await client.get("/health/live")).status == 200
    assert await (await client.post("/echo", data=b"hi")).read() == b"hi"
    assert (await client.get("/health/ready")).status == 200
    text = await (await client.get("/metrics")).text()
    assert 'atoll_http_requests_total{method="POST",route="/echo",status="200"} 1.0' in text


def test_a_process_serves_until_it_is_told_to_stop(telemetry: Telemetry, unused_tcp_port: int):
    async def main(stop: asyncio.Event) -> None:
        asyncio.get_running_loop().call_later(0.05, os.kill, os.getpid(), signal.SIGTERM)
        await serve(web.Application(), host="127.0.0.1", port=unused_tcp_port, stop=stop, telemetry=telemetry)

    assert run_process(main) == 0


def test_a_port_in_use_is_an_error_that_says_so(telemetry: Telemetry, capfd: pytest.CaptureFixture[str]):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()

        async def main(stop: asyncio.Event) -> None:
            port = taken.getsockname()[1]
            await serve(web.Application(), host="127.0.0.1", port=port, stop=stop, telemetry=telemetry)

        assert run_process(main) == 2
    assert "is in use. Stop what uses it" in capfd.readouterr().err


async def test_an_address_that_is_not_ours_is_an_error(telemetry: Telemetry):
    with pytest.raises(SettingsError, match="cannot listen on"):
        await serve(web.Application(), host="192.0.2.1", port=0, stop=asyncio.Event(), telemetry=telemetry)
