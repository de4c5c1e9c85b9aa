"""A region with the real doors for purges and notices, and made-up lists that say how often each was made.

`python -m infra.bench.serving.purging PORT GRID KEYS STATE`: `region.api.notices` over the grid GRID, with the keys of
the file KEYS and its state in the folder STATE. The first item of a list is `made-<number>`, a new number each time.
"""

import itertools
import sys
from pathlib import Path

import msgspec
import uvloop
from aiohttp import web
from prometheus_client import CollectorRegistry

from infra.bench.serving.region import RELEASE, answer
from infra.contracts.messages import HomeRequest
from infra.contracts.residency import encode_regional
from infra.plumbing.clock import SystemClock
from infra.plumbing.grid.connect import connect_grid
from infra.plumbing.keys import RegionKeys
from region.api.announcing import Announcer
from region.api.doors import operator_door, service_door
from region.api.notices import NoticeBoard, NoticeDoors
from region.releases.audit import AuditLog
from region.releases.operations import Operations
from region.rules.regional import Withdrawals

MADE = "made-"


async def make_app(grid_address: str, keys: RegionKeys, state: Path) -> web.Application:
    """The application."""
    clock, registry = SystemClock(), CollectorRegistry()
    grid = connect_grid(grid_address, clock=clock)
    state.mkdir(parents=True, exist_ok=True)  # noqa: ASYNC240 - once, before anything is served
    board = NoticeBoard(clock=clock, withdrawals=Withdrawals(state), release=lambda: RELEASE)
    doors = NoticeDoors(
        board=board, announcer=Announcer(grid=grid, registry=registry), home_only=service_door(keys.service_key),
        operators_only=operator_door(keys.operator_key), body_bytes_max=1 << 20,
        operations=Operations(audit=AuditLog(state / "audit.jsonl"), clock=clock),
    )  # fmt: skip
    numbers = itertools.count(1)

    async def recommend(request: web.Request) -> web.Response:
        asked = msgspec.json.decode(await request.read(), type=HomeRequest)
        made = answer(asked, now_ms=clock.now_ms())
        first = msgspec.structs.replace(made.items[0], item=f"{MADE}{next(numbers)}")
        tags = (f"category:{asked.category}",)
        return web.Response(
            body=encode_regional(msgspec.structs.replace(made, items=(first, *made.items[1:]), tags=tags))
        )

    async def ready(_request: web.Request) -> web.Response:
        return web.json_response({"status": "ready"})

    async def close(_app: web.Application) -> None:
        await grid.close()

    app = web.Application()
    app.add_routes([web.post("/v1/recommend", recommend), web.get("/health/ready", ready), *doors.routes()])
    app.on_cleanup.append(close)
    return app


def main(arguments: list[str]) -> int:
    """Serve until killed."""
    port, grid, keys, state = arguments
    uvloop.install()
    app = make_app(grid, RegionKeys.load(Path(keys)), Path(state))
    web.run_app(app, host="127.0.0.1", port=int(port), print=None, access_log=None)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
