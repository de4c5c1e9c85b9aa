"""`python -m region.releases.looking BEFORE AFTER`: two releases on this disk side by side, in a process of its own.

Made-up people are given lists by both releases' models: seconds of a core, and tables in memory, that the process which
answers callers must not spend.
"""

import argparse
import os
import sys
from pathlib import Path

from infra.contracts.residency import encode_global
from infra.plumbing.progress import SilentProgress
from infra.plumbing.releases.comparing import compare
from infra.plumbing.releases.contents import ContentError, ReleaseContents
from infra.plumbing.releases.messages import PEOPLE
from infra.plumbing.tuf_client.errors import ReleaseRefusedError
from infra.plumbing.tuf_client.manifests import MANIFEST_FILE, decode_manifest

NICENESS = 15


def open_contents(folder: Path) -> ReleaseContents:
    """What is inside the release whose files lie in `folder`, which is named by its id.

    Raises:
        ContentError: its manifest does not read, or (later) a file of it.
    """

    def read(name: str) -> bytes:
        try:
            return (folder / name).read_bytes()
        except OSError as error:
            raise ContentError(f"{name} of release {folder.name} cannot be read: {error.strerror}.") from error

    try:
        return ReleaseContents(decode_manifest(read(MANIFEST_FILE), release_id=folder.name), read)
    except ReleaseRefusedError as error:
        raise ContentError(error.message, fix="Pull the release again; that repairs it.") from error


def main(arguments: list[str]) -> int:
    """Compare, as work that waits for all other."""
    parser = argparse.ArgumentParser(
        prog="python -m region.releases.looking", description="Two releases side by side, as JSON.",
        epilog="example: python -m region.releases.looking state/releases/0123 state/releases/4567",
    )  # fmt: skip
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--people", type=int, default=PEOPLE)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    os.nice(NICENESS)
    try:
        before, after = (open_contents(folder.resolve()) for folder in (given.before, given.after))
        compared = compare(before, after, people=given.people, seed=given.seed, progress=SilentProgress())
    except ContentError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.buffer.write(encode_global(compared))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
