"""`python -m region.replay --release DIR --requests FILE --answers FILE`: offline evaluation of the served funnel."""

import argparse
import sys
from pathlib import Path

import uvloop

from infra.plumbing.clock import SystemClock
from infra.plumbing.errors import AtollError
from infra.plumbing.progress import LineProgress
from region.replay.replaying import answer_all, read_requests, serving, write_answers


async def replay(release: Path, requests: Path, answers: Path, limit: int | None) -> None:
    """Read, answer, write."""
    wanted = read_requests(requests, limit=limit)
    clock = SystemClock()
    async with serving(release, clock=clock) as (loaded, funnel):
        shown = await answer_all(wanted, loaded, funnel, clock=clock, progress=LineProgress(sys.stderr))
    write_answers(answers, shown)


def main(arguments: list[str]) -> int:
    """Replay; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m region.replay",
        description="Answer recorded requests with the funnel that a region serves.",
        epilog="example: python -m region.replay --release bundle --requests in.msgpack --answers out.msgpack",
    )
    parser.add_argument("--release", type=Path, required=True, help="directory of a release")
    parser.add_argument("--requests", type=Path, required=True, help="requests, MessagePack")
    parser.add_argument("--answers", type=Path, required=True, help="where the answers are written, MessagePack")
    parser.add_argument("--limit", type=int, default=None, help="only the first N requests")
    given = parser.parse_args(arguments)
    try:
        uvloop.run(replay(given.release, given.requests, given.answers, given.limit))
    except (AtollError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
