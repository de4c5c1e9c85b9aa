"""Events and rows for tests, with everything that does not matter filled in."""

import asyncio
from collections.abc import Callable
from pathlib import Path

from infra.contracts.events import Event, EventType, ItemLabels, LoggedEvent
from region.store.port import OffsetEvent

NOW_MS = 1_700_000_000_000
ALICE = "a" * 32
BOB = "b" * 32
VISITOR = "s" + "c" * 32


def an_event(
    number: int, *, item: str = "", kind: EventType = EventType.VIEW, at_ms: int | None = None,
    value: float | None = None, query: str | None = None,
) -> Event:  # fmt: skip
    return Event(
        event_id=f"event-{number:06d}",
        type=kind,
        item="" if kind is EventType.SEARCH else item or f"item-{number}",
        at_ms=NOW_MS + number if at_ms is None else at_ms,
        value=value,
        query=query,
    )


def logged(
    number: int, *, subject: str = ALICE, item: str = "", kind: EventType = EventType.VIEW, at_ms: int | None = None,
    value: float | None = None, received_ms: int = NOW_MS, query: str | None = None, categories: tuple[str, ...] = (),
    brand: str = "", creator: str = "",
) -> LoggedEvent:  # fmt: skip
    return LoggedEvent(
        subject=subject,
        event=an_event(number, item=item, kind=kind, at_ms=at_ms, value=value, query=query),
        received_ms=received_ms,
        labels=ItemLabels(categories=categories, brand=brand, creator=creator),
    )


def placed(
    offset: int, *, number: int | None = None, subject: str = ALICE, item: str = "", kind: EventType = EventType.VIEW,
    at_ms: int | None = None, value: float | None = None, received_ms: int = NOW_MS, query: str | None = None,
    categories: tuple[str, ...] = (), brand: str = "", creator: str = "", partition: int = 0,
) -> OffsetEvent:  # fmt: skip
    """An event at an offset; its id follows from `number`, which is the offset when it is not given."""
    record = logged(
        offset if number is None else number,
        subject=subject, item=item, kind=kind, at_ms=at_ms, value=value, received_ms=received_ms, query=query,
        categories=categories, brand=brand, creator=creator,
    )  # fmt: skip
    return OffsetEvent(offset=offset, logged=record, partition=partition)


async def until(done: Callable[[], bool]) -> None:
    """Let the loop turn until something is so; the test's own time-out bounds it."""
    while not done():  # noqa: ASYNC110 - what is waited for tells nobody
        await asyncio.sleep(0)


def stands_in_files(directory: Path, secret: str) -> bool:
    """Whether a name can be found in any file of a directory, byte by byte."""
    return any(secret.encode() in path.read_bytes() for path in directory.iterdir())
