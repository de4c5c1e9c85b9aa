"""Filling an edge's cache, until the hot path has every list ready."""

import http.client

from infra.bench.serving.load import Caller
from infra.bench.serving.processes import HOST, Server
from infra.plumbing.errors import UnavailableError

PASSES = 2
"""The first fills the cache, in the second the hot path learns the list."""


def warm(server: Server, callers: list[Caller], target: str) -> None:
    """Have `server` hold every caller's list for `target`.

    Raises:
        UnavailableError: it answered with an error.
    """
    connection = http.client.HTTPConnection(HOST, server.port, timeout=10)
    for _ in range(PASSES):
        for caller in callers:
            connection.request("GET", target, headers={"Authorization": f"Bearer {caller.token}"})
            response = connection.getresponse()
            response.read()
            if response.status != 200:
                raise UnavailableError(f"{server.name} answered {response.status} while its cache was filled.")
    connection.close()
