"""`python -m region.events VERB --settings FILE`: the log of one region, for whoever operates it."""

import argparse
import sys
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import uvloop

from infra.plumbing.clock import SystemClock
from infra.plumbing.errors import InvalidInputError
from infra.plumbing.keys import RegionKeys
from infra.plumbing.one_shot import print_report
from infra.plumbing.private_folders import private_folder
from infra.plumbing.progress import LineProgress, SilentProgress
from infra.plumbing.settings import load_settings
from region.events.dead_letters import replay_letters
from region.events.exporting import export_events
from region.events.opening import open_dead_letters, open_log, open_seals
from region.events.replaying import Replayer
from region.events.schema_check import check_event_schema
from region.keeping.opening import open_file_keys
from region.privacy.bulk import BulkRead, open_bulk_reads
from region.sampling.served import read_samples
from region.seed.seeding import seed
from region.settings import RegionSettings
from region.store.opening import apply_rules, open_store
from region.store.sqlite import SqliteStore

LISTED_MAX = 100
READ_TIMEOUT_S = 5.0
"""Nobody waits for a page here."""


def reading(settings: RegionSettings, action: str, why: str) -> AbstractAsyncContextManager[BulkRead]:
    """Everybody's events are read by somebody at the node's own command line: it is written down before and after.

    Raises:
        AccessLogError: the disk does not take it: then they are not read.
    """
    return open_bulk_reads(settings, SystemClock()).reading(who="command line", action=action, why=why)


async def replay(settings: RegionSettings, given: argparse.Namespace) -> object:
    """Rebuild every feature from the log and compare with the live store."""
    async with reading(settings, "replay of the log", "comparison of features with the live store") as read:
        return await _replayed(settings, given, read)


async def _replayed(settings: RegionSettings, given: argparse.Namespace, read: BulkRead) -> object:
    clock = SystemClock()
    live, log = open_store(settings, read_timeout_s=READ_TIMEOUT_S), open_log(settings)
    with private_folder() as work:
        path = given.out or work / "store.sqlite"
        if path.exists():
            raise InvalidInputError(f"{path} is there already.", fix="Name a file that is not.")
        fresh = SqliteStore(
            path, clock=clock, rules=apply_rules(settings), read_timeout_s=READ_TIMEOUT_S, scan_timeout_s=60.0,
            keys=open_file_keys(settings),
        )  # fmt: skip
        try:
            if given.dataset is not None:
                await seed(
                    given.dataset, region=settings.region, keys=RegionKeys.load(Path(settings.keys_file)), store=fresh,
                    rules=apply_rules(settings), clock=clock, hold_out_last=given.hold_out_last,
                    progress=SilentProgress(),
                )  # fmt: skip
            replayer = Replayer(
                log=log, live=live, fresh=fresh, clock=clock, progress=LineProgress(sys.stderr), touch=read.touch
            )  # fmt: skip
            return await replayer.run()
        finally:
            for part in (fresh, live, log):
                await part.close()


async def list_letters(settings: RegionSettings, _given: argparse.Namespace) -> object:
    """The dead letters: places and reasons, not what they say."""
    letters = open_dead_letters(settings)
    try:
        listed: list[dict[str, object]] = []
        async for letter in letters.letters():
            if len(listed) == LISTED_MAX:
                break
            place = {"partition": letter.partition, "offset": letter.offset, "noted_ms": letter.noted_ms}
            listed.append({**place, "reason": letter.reason, "bytes": len(letter.content)})
        return {"count": await letters.count(), "letters": listed}
    finally:
        await letters.close()


async def replay_dead(settings: RegionSettings, _given: argparse.Namespace) -> object:
    """Append what can be read now to the log again."""
    async with reading(settings, "replay of dead letters", "events that can be read now") as read:
        seals = open_seals(settings)
        letters, log = open_dead_letters(settings, seals=seals), open_log(settings, seals=seals)
        try:
            return await replay_letters(letters, log, touch=read.touch)
        finally:
            await letters.close()
            await log.close()


async def export(settings: RegionSettings, given: argparse.Namespace) -> object:
    """Write the log as flat rows, and the sampled requests beside them, for `region.batch`."""
    if given.out is None:
        raise InvalidInputError("say where to: --out DIR.")
    async with reading(settings, "export of the log", "features in batch, on this machine") as read:
        return await _exported(settings, given.out, read)


async def _exported(settings: RegionSettings, to: Path, read: BulkRead) -> object:
    live, log = open_store(settings, read_timeout_s=READ_TIMEOUT_S), open_log(settings)
    rules = apply_rules(settings)
    try:
        return await export_events(
            log=log, store=live, rules=rules, to=to, touch=read.touch,
            samples=read_samples(Path(settings.state_directory), open_file_keys(settings)),
            progress=LineProgress(sys.stderr),
        )  # fmt: skip
    finally:
        await live.close()
        await log.close()


VERBS: dict[str, Callable[[RegionSettings, argparse.Namespace], Awaitable[object]]] = {
    "export": export,
    "replay": replay,
    "list-letters": list_letters,
    "replay-letters": replay_dead,
}


async def run(given: argparse.Namespace) -> object:
    """Do what the command line says."""
    check_event_schema()
    return await VERBS[given.verb](load_settings(given.settings, RegionSettings), given)


def main(arguments: list[str]) -> int:
    """Read the command line and run; prints one JSON object, returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m region.events",
        description="Replay a region's log, or its dead letters.",
        epilog="example: python -m region.events replay --settings us-east/region.json",
    )
    parser.add_argument("verb", choices=sorted(VERBS))
    parser.add_argument("--settings", type=Path, required=True, help="the node's settings (.toml or .json)")
    parser.add_argument("--dataset", type=Path, default=None, help="replay: the dataset that the store was seeded from")
    parser.add_argument("--hold-out-last", action="store_true", help="replay: as it was seeded")
    parser.add_argument("--out", type=Path, default=None, help="replay: the rebuilt store's file; export: folder")
    given = parser.parse_args(arguments)
    return print_report(lambda: uvloop.run(run(given)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
