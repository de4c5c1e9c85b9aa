"""What operators withdraw at other nodes of the region."""

import asyncio

import msgspec

from infra.contracts.messages import INVALIDATION_TOPIC, Invalidation
from infra.plumbing.grid.port import Grid
from region.rules.regional import Withdrawals


async def hear_withdrawals(grid: Grid, withdrawals: Withdrawals) -> None:
    """Take over what operators withdraw and restore at other nodes of this region; ends when the grid ends it."""
    async for message in grid.subscribe(INVALIDATION_TOPIC):
        if message is None:
            continue
        heard = msgspec.json.decode(message, type=Invalidation)
        # What a published file withdraws is taken from the file, once it has been verified here.
        if not heard.published_items and (heard.withdrawn or heard.restored):
            await asyncio.to_thread(withdrawals.change, withdrawn=heard.withdrawn, restored=heard.restored)
