"""The rival "plain aiohttp": a `web.Application` that answers from a dict what its origin answered first.

`python -m infra.bench.serving.plain PORT ORIGIN`. No tokens are checked, nothing is counted, nothing is limited: it is
what one would write in an afternoon, on uvloop, without an access log.
"""

import sys

import aiohttp
import uvloop
from aiohttp import web

_KEPT = ("Content-Type", "ETag", "Cache-Control", "Vary")


def make_app(origin: str) -> web.Application:
    """The application in front of `origin`."""
    kept: dict[tuple[str, str], tuple[bytes, dict[str, str]]] = {}

    async def handle(request: web.Request) -> web.Response:
        name = (request.path_qs, request.headers.get("Authorization", ""))
        found = kept.get(name)
        if found is None:
            url = origin + request.path_qs
            async with aiohttp.ClientSession() as session, session.get(url, headers={"Authorization": name[1]}) as got:
                if got.status != 200:
                    return web.Response(status=got.status)
                headers = {header: got.headers[header] for header in _KEPT if header in got.headers}
                found = kept[name] = (await got.read(), headers)
        body, headers = found
        if "ETag" in headers and request.headers.get("If-None-Match") == headers["ETag"]:
            return web.Response(status=304, headers=headers)
        return web.Response(body=body, headers=headers)

    app = web.Application()
    app.add_routes([web.get("/{path:.*}", handle)])
    return app


def main(arguments: list[str]) -> int:
    """Serve until killed."""
    uvloop.install()
    web.run_app(make_app(arguments[1]), host="127.0.0.1", port=int(arguments[0]), print=None, access_log=None)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
