"""The end of a node, without a failed call: it stops taking new callers before it stops answering.

First it says that it is not ready (`announced`) and answers as ever, so that a balancer moves its callers away while
their connections stand; then each answer ends its connection (`begun`), for callers who look at no readiness; then it
stops.
"""

from aiohttp import web


class Drain:
    """How far a node is on its way to its end."""

    def __init__(self) -> None:
        self.announced = False
        """It says that it is not ready."""
        self.begun = False
        """Every answer tells its caller to connect elsewhere next time."""

    async def on_prepare(self, _request: web.Request, response: web.StreamResponse) -> None:
        """Put `Connection: close` on an answer that is about to leave (RFC 9112, section 9.6)."""
        if self.begun:
            response.headers["Connection"] = "close"
            response.force_close()
