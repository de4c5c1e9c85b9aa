"""`python -m region.keeping VERB --settings FILE`: wrap every key that a node keeps by the region's newest rest key.

`rewrap` does it; `rotate` has the region's key service make a new version of its key before.

The node may run meanwhile: keys stay what they are, and only what they are wrapped in changes.
"""

import argparse
import asyncio
import sys
from pathlib import Path

import msgspec

from infra.plumbing.clock import SystemClock
from infra.plumbing.errors import InvalidInputError
from infra.plumbing.one_shot import print_report
from infra.plumbing.reloading import LOOK_EVERY_S
from infra.plumbing.settings import load_settings
from region.events.opening import open_seals
from region.keeping.enveloping import LOOK_S
from region.keeping.key_service import TransitKey
from region.keeping.opening import open_file_keys
from region.settings import RegionSettings


class RewrapReport(msgspec.Struct, frozen=True, kw_only=True):
    """How many keys were wrapped anew."""

    files: int
    subjects: int
    version: int = 0
    """Of the key service's key; 0: a key file is the root."""


async def rewrap(settings: RegionSettings) -> RewrapReport:
    """Wrap the keys of files and of subjects anew; what was done stays done when it breaks off.

    Raises:
        KeysUnavailableError: a key does not open: nothing may be retired then.
    """
    # By then every process of the node wraps by the new key, so that nothing is left under an old one behind this.
    service = settings.key_service
    await asyncio.sleep(2 * (LOOK_S if service is not None else LOOK_EVERY_S))
    files = open_file_keys(settings).rewrap(Path(settings.state_directory))
    seals = open_seals(settings)
    try:
        subjects = await seals.keys.rewrap()
        version = TransitKey(service, clock=SystemClock()).latest_version() if service is not None else 0
        return RewrapReport(files=files, subjects=subjects, version=version)
    finally:
        await seals.keys.close()


async def rotate(settings: RegionSettings) -> RewrapReport:
    """Make a new version of the key service's key, and wrap everything by it. Old versions are left to the service.

    Raises:
        InvalidInputError: the region's root key is a file: `atoll keys rotate-rest` looks after that.
        KeysUnavailableError: the service does not do it, or a key does not open.
    """
    if settings.key_service is None:
        raise InvalidInputError("this node has no key service.", fix="./atoll keys rotate-rest --region REGION")
    TransitKey(settings.key_service, clock=SystemClock()).rotate()
    return await rewrap(settings)


VERBS = {"rewrap": rewrap, "rotate": rotate}


def main(words: list[str]) -> int:
    """Read the command line and run; prints one JSON object, returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m region.keeping",
        description="Wrap every key that a node keeps by the region's newest rest key.",
        epilog="example: python -m region.keeping rewrap --settings us-east/region.json",
    )
    parser.add_argument("verb", choices=sorted(VERBS))
    parser.add_argument("--settings", type=Path, required=True, help="the node's settings (.toml or .json)")
    given = parser.parse_args(words)
    return print_report(lambda: asyncio.run(VERBS[given.verb](load_settings(given.settings, RegionSettings))))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
