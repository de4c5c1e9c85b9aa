"""A node that the word of an erasure did not reach forgets all the same: what is durable tells it."""

from pathlib import Path

import numpy as np
import pytest

from infra.plumbing.clock import ManualClock
from region.funnel.contexts import ContextTastes
from region.funnel.dry_run import RequestLog
from region.privacy.missed import OVERLAP_MS, PAUSE_S, MissedErasures
from region.privacy.places import REMEMBERED_LATER_MS, memory_places, samples_place
from region.releases.exposures import Exposures
from region.releases.trial import Arm
from region.rules.history import Page, PageHistory
from region.sampling.served import ServedSample, ServedSamples
from region.store.memory import MemoryStore
from region.store.port import Erasure, StoreUnavailableError
from tests.contract.building import ALICE, BOB, NOW_MS, VISITOR


class Node:
    """What a node keeps by itself, beside the region's store."""

    def __init__(self, state: Path) -> None:
        self.clock = ManualClock(wall_ms=NOW_MS + 3 * OVERLAP_MS)
        self.store = MemoryStore(clock=self.clock)
        self.samples, self.pages, self.trial = ServedSamples(state), PageHistory(), Exposures(window_s=60.0)
        self.epoch = 0
        self.missed = MissedErasures(
            epoch=self._erasures, store=self.store, clock=self.clock,
            places=(
                samples_place(self.samples),
                *memory_places(
                    requests=RequestLog(), pages=self.pages, tastes=ContextTastes(state, clock=self.clock),
                    trials=self.trial,  # type: ignore[arg-type]  # the calls that are made of it
                ),
            ),
        )  # fmt: skip

    async def _erasures(self) -> object:
        return self.epoch

    def live(self, *subjects: str, at_ms: int = NOW_MS) -> None:
        for subject in subjects:
            self.samples.note(ServedSample(sample="s", subject=subject, offset=1, now_ms=at_ms, release="r"))
            self.pages.remember(subject, Page(1.0, "r", "home", np.zeros(1, dtype=np.int32)))
            self.trial.shown(subject, Arm.CONTROL, now_s=0.0)
        self.samples.write(now_ms=at_ms)

    async def erase(self, subject: str, *, at_ms: int) -> None:
        """As another node does it, whose word is lost."""
        await self.store.forget(subject, Erasure(erased_ms=at_ms, through={}))
        self.epoch += 1

    def known(self, subject: str) -> tuple[int, int, int]:
        return len(self.samples.of_subject(subject)), self.pages.count_of(subject), self.trial.count_of(subject)


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


async def test_a_node_that_starts_forgets_whom_the_region_erased_while_it_was_away(node: Node) -> None:
    node.live(ALICE, BOB, VISITOR)
    await node.erase(ALICE, at_ms=NOW_MS + 1)
    node.live(ALICE, at_ms=NOW_MS + 1 + REMEMBERED_LATER_MS + 1)
    assert await node.missed.look() == 4, "a sample, two pages, a trial"
    (left,) = node.samples.of_subject(ALICE)
    assert left.now_ms > NOW_MS + REMEMBERED_LATER_MS, "what came after the erasure is somebody new"
    assert node.known(BOB) == node.known(VISITOR) == (1, 1, 1)


async def test_a_lost_word_is_made_up_for_by_the_next_look_and_looks_are_seldom(node: Node) -> None:
    node.live(ALICE, BOB)
    assert await node.missed.look() == 0
    node.clock.advance(PAUSE_S)
    assert await node.missed.look() == 0
    await node.erase(ALICE, at_ms=node.clock.now_ms())
    assert await node.missed.look() == 0, "not at once again"
    node.clock.advance(PAUSE_S)
    node.store.available = False
    with pytest.raises(StoreUnavailableError):
        await node.missed.look()
    node.store.available = True
    assert await node.missed.look() == 3
    assert (node.known(ALICE), node.known(BOB)) == ((0, 0, 0), (1, 1, 1))
    node.clock.advance(PAUSE_S)
    node.live(ALICE, at_ms=node.clock.now_ms())
    assert await node.missed.look() == 0, "nobody was erased since"


async def test_a_look_between_the_epoch_of_an_erasure_and_its_mark_is_not_the_last_one(node: Node) -> None:
    node.live(ALICE)
    node.epoch += 1
    assert await node.missed.look() == 0
    await node.store.forget(ALICE, Erasure(erased_ms=node.clock.now_ms(), through={}))
    node.clock.advance(PAUSE_S)
    assert await node.missed.look() == 3
