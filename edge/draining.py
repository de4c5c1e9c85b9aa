"""The end of a node, without a failed call: it stops taking new callers before it stops answering."""

from aiohttp import web


class Drain:
    """Whether the node is draining. While it is, every answer tells its caller to connect elsewhere next time."""

    def __init__(self) -> None:
        self.begun = False

    async def on_prepare(self, _request: web.Request, response: web.StreamResponse) -> None:
        """Put `Connection: close` on an answer that is about to leave (RFC 9112, section 9.6)."""
        if self.begun:
            response.headers["Connection"] = "close"
            response.force_close()
