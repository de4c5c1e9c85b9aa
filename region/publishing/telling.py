"""The nodes of a region tell each other what is published; who was away asks."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import msgspec

from infra.contracts.residency import encode_regional
from infra.plumbing.grid.port import Grid, GridUnavailableError
from region.publishing.book import Edition, Publication, PublishedBook

F = TypeVar("F")


async def tell_publication(grid: Grid, topic: str, publication: Publication) -> bool:
    """Tell the other nodes; whether the grid took it. Who does not hear it asks when it is connected again."""
    try:
        await grid.publish(topic, encode_regional(publication))
    except GridUnavailableError:
        return False
    return True


async def hear_publications(
    grid: Grid, topic: str, book: PublishedBook[F], *, took: Callable[[Edition[F]], Awaitable[None]],
    tell: Callable[[], Awaitable[None]],
) -> None:  # fmt: skip
    """Take over what other nodes publish; ask for theirs after every (re)connect. Ends when the grid ends it.

    Args:
        grid: to the other nodes.
        topic: of this kind of file.
        book: what holds here.
        took: called with an edition that was just taken over.
        tell: called when another node asks and holds an older one.

    Raises:
        AtollError: what was heard is refused; what holds goes on. The caller subscribes again.
    """
    async for message in grid.subscribe(topic):
        if message is None:
            await grid.publish(topic, encode_regional(_asking(book)))
            continue
        heard = msgspec.json.decode(message, type=Publication)
        if not heard.document:
            if heard.published_at_ms < _asking(book).published_at_ms:
                await tell()
            continue
        if await asyncio.to_thread(book.adopt, heard) and book.current is not None:
            await took(book.current)


def _asking(book: PublishedBook[F]) -> Publication:
    """What a node says when it asks for something newer: its own publication without the text."""
    current = book.current
    return msgspec.structs.replace(current.publication, document="") if current else Publication(document="")
