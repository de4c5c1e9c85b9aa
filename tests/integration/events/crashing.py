"""Dies by SIGKILL at every statement of a write in turn, and says what is found afterwards.

`python -m tests.integration.events.crashing store|log DIRECTORY` prints a list of JSON objects, one for each place:
`acknowledged`: what the process said before it died; `found`: what the next process finds; `again`: what stands
after the write was repeated.
"""

import asyncio
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any
from unittest import mock

from infra.contracts.events import EventType
from infra.plumbing.clock import ManualClock
from region.events.sqlite import SqliteLog
from region.keeping.files import FileKeys
from region.store.database import Database
from region.store.driver import sqlite3
from region.store.sqlite import SqliteStore
from tests.contract.building import ALICE, BOB, NOW_MS, logged, placed
from tests.support.keeping import file_keys, seals

PLACES_MAX = 60
_HOPS = 5

Say = Callable[[object], None]
Act = Callable[[Path, Say], Coroutine[Any, Any, None]]


async def apply(path: Path, say: Say) -> None:
    """A batch of two subjects."""
    store = _open_store(path)
    shown = placed(3, kind=EventType.IMPRESSION)
    await store.apply([placed(1, item="a"), placed(2, item="b", subject=BOB), shown, placed(4, item="a")])
    say("applied")
    await store.close()


async def show_store(path: Path, say: Say) -> None:
    """Everything a reader sees."""
    store = _open_store(path)
    rows = [await store.read(subject) for subject in (ALICE, BOB)]
    trending = {one.item: one.count for one in await store.trending(since_ms=0, limit=10)}
    versions = [row.version if row else 0 for row in rows]
    shown = rows[0].impressions if rows[0] else 0
    offset = (await store.applied_offsets()).get(0, 0)
    say({"offset": offset, "versions": versions, "shown": shown, "trending": trending})
    await store.close()


async def append(path: Path, say: Say) -> None:
    """Two appends at once."""
    log = _open_log(path)

    async def one(number: int) -> None:
        await log.append([logged(number), logged(number + 1)])
        say(number)

    await asyncio.gather(one(1), one(11))
    await log.close()


async def show_log(path: Path, say: Say) -> None:
    """The event numbers that are in the log."""
    log = _open_log(path)
    say([int(one.logged.event.event_id[-6:]) for one in await log.read(after={0: 0}, limit=100)])
    await log.close()


def _open_store(path: Path) -> SqliteStore:
    keys = file_keys(_folder(path))
    return SqliteStore(path, clock=ManualClock(wall_ms=NOW_MS), history_max=10, read_timeout_s=10.0, keys=keys)


def _open_log(path: Path) -> SqliteLog:
    """With everything under keys: making a subject's key has places to die at too."""
    folder = _folder(path)
    return SqliteLog(path, queue_max=100, seals=seals(folder), keys=file_keys(folder))


def _folder(path: Path) -> Path:
    folder = path.with_suffix("")
    folder.mkdir(exist_ok=True)
    return folder


def in_child(act: Act, path: Path, *, die_at: int | None) -> tuple[bool, list[Any]]:
    """Run `act` in a process of its own, dying at statement `die_at`. Returns whether it died, and what it said."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        with os.fdopen(writing, "wb", buffering=0) as pipe:
            asyncio.run(_run(act, path, lambda said: _say(pipe.fileno(), said), die_at))
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        said = [json.loads(line) for line in pipe.read().splitlines()]
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
        return True, said
    if os.waitstatus_to_exitcode(status) != 0:
        raise SystemExit(f"a child ended with {os.waitstatus_to_exitcode(status)}")
    return False, said


async def _run(act: Act, path: Path, say: Say, die_at: int | None) -> None:
    loop, seen, original = asyncio.get_running_loop(), 0, Database.connect

    def at_statement(_: str) -> None:
        nonlocal seen
        seen += 1
        if seen == die_at:
            # Whatever was told to anybody before this moment shall be heard: let the loop finish it first.
            for _hop in range(_HOPS):
                turned = threading.Event()
                loop.call_soon_threadsafe(turned.set)
                turned.wait(5)
            os.kill(os.getpid(), signal.SIGKILL)

    def connect(self: Database, path: Path, *, read_only: bool, keys: FileKeys | None = None) -> sqlite3.Connection:
        connection = original(self, path, read_only=read_only, keys=keys)
        if not read_only:
            connection.set_trace_callback(at_statement)
        return connection

    with mock.patch.object(Database, "connect", connect):
        await act(path, say)


def _say(descriptor: int, said: object) -> None:
    os.write(descriptor, json.dumps(said).encode() + b"\n")


def main(kind: str, directory: Path) -> None:
    """Die at every place in turn; end when the write ran through."""
    write, show = (apply, show_store) if kind == "store" else (append, show_log)
    results: list[dict[str, Any]] = []
    for place in range(1, PLACES_MAX):
        path = directory / f"{kind}-{place}.sqlite"
        died, acknowledged = in_child(write, path, die_at=place)
        _, found = in_child(show, path, die_at=None)
        in_child(write, path, die_at=None)
        _, again = in_child(show, path, die_at=None)
        results.append({"died": died, "acknowledged": acknowledged, "found": found[0], "again": again[0]})
        if not died:
            break
    print(json.dumps(results))  # noqa: T201 - this is what it is for


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
