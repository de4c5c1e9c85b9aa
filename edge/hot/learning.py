"""The hot path's ear on the long way: what a handler offered is learned once its last header is in place."""

from aiohttp import web
from aiohttp.http import HttpVersion11

from edge.hot.path import HotPath
from edge.hot.patterns import Sent
from edge.hot.ready import Offer

OFFER = web.RequestKey("atoll_offer", Offer)
"""Where a handler says under which conditions its answer may be given again."""


def listen_in(app: web.Application, hot: HotPath) -> None:
    """Have `hot` learn from the answers of `app`; to be called after every other signal that changes headers."""

    async def learn(request: web.Request, response: web.StreamResponse) -> None:
        offer = request.get(OFFER)
        if offer is None or request.method != "GET" or request.version != HttpVersion11 or not response.keep_alive:
            return
        if not isinstance(response, web.Response) or not isinstance(response.body, bytes | None):
            return
        headers = list(response.headers.items())
        hot.learn(request.raw_path, offer, Sent(response.status, response.reason, headers, response.body or b""))

    app.on_response_prepare.append(learn)
