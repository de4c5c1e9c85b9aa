"""The privacy room of a node, composed."""

import asyncio
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry

from infra.contracts.messages import Invalidation
from infra.plumbing.clock import Clock
from infra.plumbing.grid.port import Grid
from infra.plumbing.keys import RegionKeys
from infra.plumbing.private_folders import remove_left_over
from region.api.announcing import Announcer
from region.api.doors import live_operator_door, service_door
from region.background import Background
from region.events.opening import open_dead_letters
from region.keeping.wiping import LOOK_S as WIPE_LOOK_S
from region.keeping.wiping import Wiper
from region.privacy.access_log import AccessLog
from region.privacy.doors import PrivacyDoors
from region.privacy.erasing import Eraser
from region.privacy.explaining import Explainer
from region.privacy.exporting import Exporter
from region.privacy.hearing import hear_erasures
from region.privacy.missed import LOOK_S as MISSED_LOOK_S
from region.privacy.missed import MissedErasures
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

HEAR_RETRY_S = 1.0
LEFT_OVER_LOOK_S = 60.0
"""Commands that were killed leave folders with people's data (`infra.plumbing.private_folders`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Privacy:
    """Its doors, and the places of this node that must hear what other nodes erase."""

    doors: PrivacyDoors
    heard_by: tuple[Place, ...]
    missed: MissedErasures
    wiper: Wiper

    def work(self, background: Background, grid: Grid) -> dict[str, Coroutine[Any, Any, None]]:
        """What goes on beside the requests."""
        return {
            "erasures": background.repeat(
                "erasures", lambda: hear_erasures(grid, self.heard_by), every_s=HEAR_RETRY_S
            ),
            "missed erasures": background.repeat("missed erasures", self.missed.look, every_s=MISSED_LOOK_S),
            "left over": background.repeat(
                "left over", partial(asyncio.to_thread, remove_left_over), every_s=LEFT_OVER_LOOK_S
            ),
            "memory": background.repeat("memory", self.wiper.look, every_s=WIPE_LOOK_S),
        }  # fmt: skip


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
    letters = open_dead_letters(settings, registry=registry, seals=known.seals)
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
    exporter = Exporter(
        region=settings.region, node=settings.node, known=known, letters=letters, memory=memory[1:], accesses=accesses,
        clock=clock,
    )  # fmt: skip
    doors = PrivacyDoors(
        keys=keys, exporter=exporter, eraser=eraser,
        explainer=Explainer(store=known.store, lists=known.lists, title_of=known.title_of),
        home_only=service_door(keys.service_key),
        operators_only=live_operator_door(Path(settings.keys_file), clock), accesses=accesses,
    )  # fmt: skip
    wiper = Wiper(
        epoch=known.log.erasures, parts=(known.store, known.log, letters), tell=partial(announcer.tell, Invalidation())
    )  # fmt: skip
    missed = MissedErasures(epoch=known.log.erasures, store=known.store, places=own, clock=clock)
    # Letters of before there were keys, and those that nobody could read, lie in the clear on the node that has them.
    return Privacy(doors=doors, heard_by=(letters_place(letters), *own), missed=missed, wiper=wiper)
