"""Wrapping all that a node keeps by another root key, and letting the others go.

Keys stay what they are, and only what they are wrapped in changes; the node may run meanwhile. What an engine still has
of a key that was erased before opens no more then (`region.store.cassandra_deposits.key_deposits`).
"""

import asyncio
from contextlib import ExitStack
from pathlib import Path

import msgspec

from infra.plumbing.clock import Clock, SystemClock
from infra.plumbing.errors import InvalidInputError
from infra.plumbing.keys import RegionKeys
from infra.plumbing.locking import locked
from infra.plumbing.reloading import LOOK_EVERY_S
from region.events.opening import open_seals
from region.keeping.enveloping import LOOK_S
from region.keeping.key_service import TransitKey
from region.keeping.opening import open_file_keys
from region.settings import RegionSettings

HOUR_MS = 3_600_000


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


async def rotate_rest(settings: RegionSettings, *, clock: Clock) -> RewrapReport:
    """Make a rest key, wrap everything by it, let the others go: whoever breaks off in between does it again.

    Raises:
        KeysUnavailableError: a key does not open; nothing was let go.
        OSError: the key file cannot be written.
    """
    keys_file = Path(settings.keys_file)
    with ExitStack() as stack:
        # The lock of `atoll keys`: who holds it may take a minute.
        await asyncio.to_thread(stack.enter_context, locked(Path(settings.trust_file).with_suffix(".lock")))
        RegionKeys.load(keys_file).with_new_rest_key(now_ms=clock.now_ms()).save(keys_file)
        done = await rewrap(settings)
        RegionKeys.load(keys_file).with_latest_rest_key_only().save(keys_file)
    return done


def rest_is_due(settings: RegionSettings, *, now_ms: int) -> bool:
    """Whether the newest rest key is older than `rest_rotation_h`; never where that is 0, or a service has the root."""
    if not settings.rest_rotation_h or settings.key_service is not None:
        return False
    made_ms = max((one.made_ms for one in RegionKeys.load(Path(settings.keys_file)).rest), default=0)
    return now_ms - made_ms >= settings.rest_rotation_h * HOUR_MS
