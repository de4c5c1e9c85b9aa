"""A region that has one kind of list: what edges of a measurement fill their caches from.

`python -m infra.bench.serving.region PORT` speaks the region's own messages; lists differ by subject and are the same
every time, so that every rival serves the same bytes.
"""

import sys
import zlib

import msgspec
import uvloop
from aiohttp import web

from infra.contracts.messages import (
    HomeAnswer,
    HomeRequest,
    Lifetime,
    ReasonCode,
    SlateItem,
    Source,
)
from infra.contracts.reasons import reason
from infra.contracts.residency import encode_regional
from infra.plumbing.clock import SystemClock

RELEASE = "b" * 20
LIFETIME = Lifetime(max_age_s=3600.0, stale_while_revalidate_s=60.0, stale_if_error_s=3600.0)
SPARE_FACTOR = 3


def answer(request: HomeRequest, *, now_ms: int) -> HomeAnswer:
    """The list of the request's subject: three times as many items as asked for, titles of a usual length."""
    seed = zlib.crc32((request.subject or request.category or "").encode()) % 100_000
    why = reason(ReasonCode.FOR_YOU)
    items = tuple(
        SlateItem(
            item=f"item-{(seed + 37 * place) % 1_000_000:06d}", score=round(1.0 - place / 1000, 4), source=Source.ANN,
            reason=why, title=f"A title of usual length, number {place}",
        )
        for place in range(SPARE_FACTOR * request.n)
    )  # fmt: skip
    return HomeAnswer(
        items=items, release=RELEASE, region="here", personal=request.subject is not None, lifetime=LIFETIME,
        generated_at_ms=now_ms,
    )  # fmt: skip


def make_app() -> web.Application:
    """The application."""
    clock = SystemClock()
    calls = {"recommend": 0}

    async def recommend(request: web.Request) -> web.Response:
        calls["recommend"] += 1
        asked = msgspec.json.decode(await request.read(), type=HomeRequest)
        return web.Response(body=encode_regional(answer(asked, now_ms=clock.now_ms())))

    async def ready(_request: web.Request) -> web.Response:
        return web.json_response({"status": "ready"})

    async def counts(_request: web.Request) -> web.Response:
        return web.json_response(calls)

    app = web.Application()
    app.add_routes([web.post("/v1/recommend", recommend), web.get("/health/ready", ready), web.get("/counts", counts)])
    return app


def main(arguments: list[str]) -> int:
    """Serve until killed."""
    uvloop.install()
    web.run_app(make_app(), host="127.0.0.1", port=int(arguments[0]), print=None, access_log=None)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
