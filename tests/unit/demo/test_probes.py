"""What the demo's probes do with answers that a healthy world gives, too."""

from collections.abc import AsyncIterator

import pytest
from aiohttp import ClientSession, web
from aiohttp.test_utils import TestServer

from infra.demo.probes import ProbeFailedError, send_event
from infra.plumbing.clock import SystemClock


class Edge:
    """Answers events by what is in `answers`, in turn: status and Retry-After."""

    def __init__(self, *answers: tuple[int, str]) -> None:
        self.answers, self.asked = list(answers), list[str]()

    async def events(self, request: web.Request) -> web.Response:
        self.asked.append((await request.json())["events"][0]["event_id"])
        status, after = self.answers.pop(0)
        return web.json_response({"accepted": 1}, status=status, headers={"Retry-After": after} if after else {})


@pytest.fixture
async def session() -> AsyncIterator[ClientSession]:
    async with ClientSession() as session:
        yield session


async def sent(session: ClientSession, edge: Edge) -> dict[str, object]:
    app = web.Application()
    app.router.add_post("/v1/events", edge.events)
    async with TestServer(app) as server:
        return await send_event(session, str(server.make_url("")), {}, item="i1", event_id="e1", clock=SystemClock())


async def test_an_event_that_is_told_to_come_again_comes_again_as_the_same(session: ClientSession) -> None:
    edge = Edge((503, "0"), (429, "0"), (200, ""))
    assert await sent(session, edge) == {"accepted": 1}
    assert edge.asked == ["e1"] * 3


@pytest.mark.parametrize("answer", [(503, ""), (503, "60"), (400, "0"), (500, "0")])
async def test_what_says_no_other_time_or_too_late_a_one_is_an_error(
    session: ClientSession, answer: tuple[int, str]
) -> None:
    edge = Edge(answer)
    with pytest.raises(ProbeFailedError, match=str(answer[0])):
        await sent(session, edge)
    assert edge.asked == ["e1"]
