"""Pages of retrieval processes: told at the node's door, handed on behind it, with TLS where it has TLS."""

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestServer

from infra.local.records import Part, ProcessState
from infra.local.scraping import scrape
from infra.plumbing.clock import SystemClock
from infra.plumbing.http.tls import ClientTls, ListenTls, client_context, listen_context
from region.api.targets import RetrievalPages
from tests.support.certificates import Authority


async def shows_a_page(_request: web.Request) -> web.Response:
    return web.Response(text="atoll_retrieval_items 7.0\n")


async def test_a_page_is_read_through_the_nodes_own_door(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    certificate, key = (str(file) for file in authority.issue("api"))
    listening = listen_context(ListenTls(certificate_file=certificate, key_file=key), clock=SystemClock())
    calling = client_context(ClientTls(ca_file=str(authority.file)), clock=SystemClock())
    child = web.Application()
    child.add_routes([web.get("/metrics", shows_a_page)])
    async with TestServer(child) as page:
        processes: Any = [SimpleNamespace(metrics_address=f"127.0.0.1:{page.port}", release="r1")]
        node = web.Application()
        node.add_routes(RetrievalPages("east", processes).routes())
        node.add_routes([web.get("/metrics", shows_a_page)])
        server = TestServer(node, scheme="https")
        await server.start_server(ssl=listening.context)
        api: Any = SimpleNamespace(
            name="east/api", part=Part.API, address=f"127.0.0.1:{server.port}", state=ProcessState.READY
        )
        found = await asyncio.to_thread(scrape, [api], tmp_path / "none", calling.context)
        await server.close()
    assert found == dict.fromkeys(("east/api", "east/api/retrieval/r1"), "atoll_retrieval_items 7.0\n")
