"""What both clients are made of."""

import itertools
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import msgspec

from edge.client.cache import PageCache
from edge.client.errors import NotReachedError
from edge.client.flow import Machine
from edge.client.requests import Credentials, Reply, page_of
from edge.client.retrying import Retries, RetryPolicy
from edge.client.types import Ack, BulkItem, Event, ListPage
from infra.plumbing.clock import Clock, SystemClock
from infra.plumbing.ids import new_request_id, uniform

BULK_LINES = 500
"""Users of one bulk call: few enough that all of it can be sent before anything is read."""
RIGHTS_S = 35.0
"""How long an export or an erasure may take: it reads a whole log, or waits for disks."""
M = TypeVar("M", bound=msgspec.Struct)
CLOCK: Clock = SystemClock()


def machine(credentials: Credentials, *, clock: Clock, retries: RetryPolicy, timeout_s: float) -> Machine:
    """The machine of a new client."""
    return Machine(
        credentials=credentials, cache=PageCache(),
        retries=Retries(retries, uniform=uniform), monotonic_s=clock.monotonic_s, timeout_s=timeout_s,
    )  # fmt: skip


def event_now(clock: Clock, kind: str, item: str, **fields: Any) -> Event:
    """An event of this moment with a fresh id."""
    return Event(event_id=new_request_id(), type=kind, item=item, at_ms=clock.now_ms(), **fields)


def ack_of(reply: Reply) -> Ack:
    """The acknowledgement that an answer holds."""
    return decoded(reply.body, Ack)


def chunks(users: Iterable[str]) -> Iterator[list[str]]:
    """Users, BULK_LINES at a time."""
    source = iter(users)
    while chunk := list(itertools.islice(source, BULK_LINES)):
        yield chunk


def bulk_items(reply: Reply, *, first: int) -> Iterator[BulkItem]:
    """The lines of a bulk answer, counted from `first`."""
    for line in reply.body.splitlines():
        item = decoded(line, BulkItem)
        yield msgspec.structs.replace(item, index=first + item.index)


def decoded(body: bytes, kind: type[M]) -> M:
    """`body` as `kind`.

    Raises:
        NotReachedError: something else than an edge answered.
    """
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise NotReachedError("the answer is not one of an edge.", fix="Check the address.") from error


def decoded_any(reply: Reply) -> dict[str, Any]:
    """The JSON object of an answer that is the region's own words.

    Raises:
        NotReachedError: something else than an edge answered.
    """
    try:
        held: dict[str, Any] = msgspec.json.decode(reply.body, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise NotReachedError("the answer is not one of an edge.", fix="Check the address.") from error
    return held


def page_read(reply: Reply, *, held: bool) -> ListPage:
    """The page that an answer holds.

    Raises:
        NotReachedError: something else than an edge answered.
    """
    try:
        return page_of(reply, from_cache=held)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise NotReachedError("the answer is not one of an edge.", fix="Check the address.") from error
