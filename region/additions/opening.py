"""The node's new items, from settings: what was posted, and what was published."""

from pathlib import Path

from infra.plumbing.clock import Clock
from infra.plumbing.grid.port import Grid
from region.additions.book import AdditionBook
from region.additions.keeper import Additions
from region.additions.published import ITEMS_FILE, ItemBook
from region.additions.publisher import ItemPublisher
from region.api.announcing import Announcer
from region.publishing.proving import DelegatedProof, DelegationSource
from region.rules.regional import Withdrawals
from region.settings import RegionSettings


async def open_new_items(
    settings: RegionSettings, source: DelegationSource, *, withdrawals: Withdrawals, grid: Grid, announcer: Announcer,
    clock: Clock,
) -> tuple[Additions, ItemPublisher]:  # fmt: skip
    """Both, with what was published before in force.

    Raises:
        SettingsError: what lies on the disk cannot be read, or is not signed as central wants it now.
    """
    state = Path(settings.state_directory)
    additions = Additions(
        book=AdditionBook(state), node=settings.node, grid=grid, announcer=announcer, clock=clock
    )  # fmt: skip
    proof = DelegatedProof(source, ITEMS_FILE, region=settings.region, clock=clock)
    publisher = ItemPublisher(
        book=ItemBook(state / "items", region=settings.region, proof=proof), additions=additions,
        withdrawals=withdrawals, region=settings.region, grid=grid, announcer=announcer, clock=clock,
    )  # fmt: skip
    await publisher.start()
    return additions, publisher
