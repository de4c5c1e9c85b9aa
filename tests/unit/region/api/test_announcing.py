"""Words to the edges: lost ones are lost, but for those that may not be."""

import msgspec
import pytest
from prometheus_client import CollectorRegistry

from infra.contracts.messages import Invalidation
from infra.plumbing.clock import ManualClock
from infra.plumbing.grid.memory import MemoryGrid
from infra.plumbing.grid.port import GridUnavailableError
from region.api import announcing
from region.api.announcing import Announcer
from region.api.choices import Choices
from region.store.memory import MemoryStore

ALICE, BOB = "a" * 32, "b" * 32


class Refusing(MemoryGrid):
    """Takes nothing for a while; remembers what it took."""

    def __init__(self) -> None:
        super().__init__(clock=ManualClock())
        self.refuses = True
        self.took: list[Invalidation] = []

    async def publish(self, topic: str, message: bytes) -> None:
        if self.refuses:
            raise GridUnavailableError("not now.")
        self.took.append(msgspec.json.decode(message, type=Invalidation))


def told_of(grid: Refusing) -> list[tuple[str | None, bool | None, bool]]:
    return [(one.subject, one.opted_out, one.erased) for one in grid.took]


async def test_a_choice_that_the_grid_did_not_take_is_told_until_it_does() -> None:
    grid = Refusing()
    announcer = Announcer(grid=grid, registry=CollectorRegistry())
    choices = Choices(store=MemoryStore(clock=ManualClock()), announcer=announcer)
    answer = await choices.set_opt_out(ALICE, opted_out=True)
    assert answer.version == 1, "durable all the same"
    assert not await announcer.insist(Invalidation(subject=BOB, subject_version=1, erased=True))
    assert not await announcer.tell(Invalidation(release="r"))
    assert await announcer.catch_up() == 0
    grid.refuses = False
    assert await announcer.catch_up() == 2
    assert told_of(grid) == [(ALICE, True, False), (BOB, None, True)], "a release is told by other ways"
    assert await announcer.catch_up() == 0


async def test_the_last_word_about_somebody_is_the_one_that_is_owed(monkeypatch: pytest.MonkeyPatch) -> None:
    grid, registry = Refusing(), CollectorRegistry()
    announcer = Announcer(grid=grid, registry=registry)
    monkeypatch.setattr(announcing, "OWED_MAX", 2)
    await announcer.insist(Invalidation(subject=ALICE, subject_version=1, opted_out=True))
    await announcer.insist(Invalidation(subject=ALICE, subject_version=2, opted_out=False))
    await announcer.insist(Invalidation(subject=BOB, subject_version=1, opted_out=True))
    grid.refuses = False
    await announcer.insist(Invalidation(subject=BOB, subject_version=2, opted_out=False))
    assert await announcer.catch_up() == 1
    assert told_of(grid) == [(BOB, False, False), (ALICE, False, False)]
    grid.refuses = True
    for number in range(3):
        await announcer.insist(Invalidation(subject=str(number), erased=True))
    assert registry.get_sample_value("atoll_region_announcements_total", {"outcome": "given up"}) == 1
