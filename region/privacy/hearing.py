"""What other nodes of the region erase is forgotten here as well: memory, and samples on this node's disk."""

from collections.abc import Sequence

import msgspec

from infra.contracts.messages import INVALIDATION_TOPIC, Invalidation
from infra.plumbing.grid.port import Grid
from region.privacy.places import Place


async def hear_erasures(grid: Grid, places: Sequence[Place]) -> None:
    """Forget at `places` whom the region erases; ends when the grid ends it."""
    async for message in grid.subscribe(INVALIDATION_TOPIC):
        if message is None:
            continue
        heard = msgspec.json.decode(message, type=Invalidation)
        if heard.subject is not None and heard.erased:
            for place in places:
                await place.forget(heard.subject)
