"""Where Prometheus finds processes of this node whose ports are not known beforehand, and reads them: here.

A retrieval process serves its page on the loopback, in plain HTTP. This node hands it on behind its own door, so that
whoever reads metrics needs one way in, with TLS where the node has it.
"""

from collections.abc import Iterable

import aiohttp
from aiohttp import web

from infra.plumbing.errors import NotFoundError, UnavailableError
from region.retrieval.process import RetrievalProcess

METRICS_HOST = "127.0.0.1"
"""Where retrieval processes serve their pages."""
PAGE_BYTES_MAX = 4 << 20
TIMEOUT_S = 3.0


class RetrievalPages:
    """`/metrics/targets`, as Prometheus' HTTP service discovery has it, and the pages that it names.

    Args:
        region: the node's.
        retrievals: the retrieval processes of the releases in memory.
    """

    def __init__(self, region: str, retrievals: Iterable[RetrievalProcess]) -> None:
        self._region = region
        self._retrievals = retrievals

    def routes(self) -> list[web.RouteDef]:
        """The routes to put into the application."""
        return [web.get("/metrics/targets", self.targets), web.get("/metrics/retrieval/{port:[0-9]{1,5}}", self.page)]

    async def targets(self, request: web.Request) -> web.Response:
        """This node once for each process, by the name that the caller calls it."""
        found = [
            {"targets": [request.host],
             "labels": {"process": "retrieval", "region": self._region, "release": process.release,
                        "__scheme__": request.scheme, "__metrics_path__": f"/metrics/retrieval/{port}"}}
            for port, process in self._by_port().items()
        ]  # fmt: skip
        return web.json_response(found)

    async def page(self, request: web.Request) -> web.Response:
        """The page of one process.

        Raises:
            NotFoundError: it has ended.
            UnavailableError: it does not answer.
        """
        process = self._by_port().get(request.match_info["port"])
        if process is None:
            raise NotFoundError("there is no such retrieval process.", fix="Ask /metrics/targets which there are.")
        try:
            timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
            async with (
                aiohttp.ClientSession(timeout=timeout) as session,
                session.get(f"http://{process.metrics_address}/metrics") as response,
            ):
                content = await _page_of(response)
                kind = response.headers.get("Content-Type", "text/plain")
        except (aiohttp.ClientError, TimeoutError) as error:
            raise UnavailableError("the retrieval process shows no metrics.") from error
        return web.Response(body=content, headers={"Content-Type": kind})

    def _by_port(self) -> dict[str, RetrievalProcess]:
        addresses = ((process.metrics_address, process) for process in self._retrievals)
        return {address.rpartition(":")[2]: process for address, process in addresses if address}


async def _page_of(response: aiohttp.ClientResponse) -> bytes:
    content = bytearray()
    async for chunk in response.content.iter_any():
        content += chunk
        if len(content) > PAGE_BYTES_MAX:
            raise UnavailableError("the retrieval process shows more than any page of metrics has.")
    return bytes(content)
