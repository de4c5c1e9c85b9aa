"""A typed client of the edge's API, for applications: `pip install atoll[client]` brings httpx and msgspec, no more.

    from edge.client import AtollClient

    with AtollClient("http://127.0.0.1:8080", token=token) as atoll:
        page = atoll.list("personal", n=5)
        atoll.send([atoll.event("view", page.items[0].item)])

`AsyncAtollClient` is the same with `await`.
"""

from edge.client.asynchronous import AsyncAtollClient
from edge.client.errors import AtollClientError, NotReachedError, ProblemError
from edge.client.events import EventBuffer
from edge.client.requests import Credentials, encode_vector
from edge.client.synchronous import AtollClient
from edge.client.types import Ack, BulkItem, Choices, Event, ListItem, ListPage, Suggestions

__all__ = [
    "Ack", "AsyncAtollClient", "AtollClient", "AtollClientError", "BulkItem", "Choices", "Credentials", "Event",
    "EventBuffer", "ListItem", "ListPage", "NotReachedError", "ProblemError", "Suggestions", "encode_vector",
]  # fmt: skip
