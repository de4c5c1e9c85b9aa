"""The privacy room of a node, composed."""

from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from prometheus_client import CollectorRegistry

from infra.contracts.messages import Invalidation
from infra.plumbing.clock import Clock
from infra.plumbing.keys import RegionKeys
from region.api.announcing import Announcer
from region.api.doors import live_operator_door, service_door
from region.events.opening import open_dead_letters
from region.keeping.wiping import Wiper
from region.privacy.access_log import AccessLog
from region.privacy.doors import PrivacyDoors
from region.privacy.erasing import Eraser
from region.privacy.explaining import Explainer
from region.privacy.exporting import Exporter
from region.privacy.places import (
    Known,
    Place,
    exposures_place,
    letters_place,
    memory_places,
    precompute_place,
    samples_place,
)
from region.privacy.receipts import sign_receipt
from region.settings import RegionSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class Privacy:
    """Its doors, and the places of this node that must hear what other nodes erase."""

    doors: PrivacyDoors
    heard_by: tuple[Place, ...]
    wiper: Wiper


def open_accesses(settings: RegionSettings, keys: RegionKeys, clock: Clock) -> AccessLog:
    """The node's account of accesses."""
    return AccessLog(
        Path(settings.state_directory), region=settings.region, node=settings.node, keys=keys, clock=clock
    )  # fmt: skip


def open_privacy(
    settings: RegionSettings, stack: AsyncExitStack, *, keys: RegionKeys, known: Known, announcer: Announcer,
    accesses: AccessLog, clock: Clock, registry: CollectorRegistry,
) -> Privacy:  # fmt: skip
    """Build the room; `stack` closes what it opens.

    Raises:
        SettingsError: the dead letters' file cannot be used.
    """
    letters = open_dead_letters(settings, registry=registry)
    stack.push_async_callback(letters.close)
    memory = (
        *memory_places(requests=known.requests, pages=known.pages, trials=known.trials, tastes=known.tastes),
        precompute_place(known.precomputer),
    )
    own = (samples_place(known.samples), exposures_place(known.exposures), *memory)
    eraser = Eraser(
        region=settings.region, node=settings.node, log=known.log, store=known.store,
        places=(letters_place(letters), *own), announcer=announcer, clock=clock, sign=partial(sign_receipt, keys=keys),
        accesses=accesses.head,
    )  # fmt: skip
    exporter = Exporter(region=settings.region, known=known, letters=letters, memory=memory[1:], clock=clock)
    doors = PrivacyDoors(
        keys=keys, exporter=exporter, eraser=eraser,
        explainer=Explainer(store=known.store, lists=known.lists, title_of=known.title_of),
        home_only=service_door(keys.service_key),
        operators_only=live_operator_door(Path(settings.keys_file), clock), accesses=accesses,
    )  # fmt: skip
    wiper = Wiper(
        epoch=known.log.erasures, parts=(known.store, known.log, letters), tell=partial(announcer.tell, Invalidation())
    )  # fmt: skip
    return Privacy(doors=doors, heard_by=own, wiper=wiper)
