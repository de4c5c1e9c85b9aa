"""A subject's choice about personal lists: durable first, then told to every edge of the region."""

from dataclasses import dataclass

from infra.contracts.messages import Invalidation, OptOutAnswer
from region.api.announcing import Announcer
from region.store.port import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class Choices:
    """Takes choices, from this region's edges and from travellers' sealed calls alike."""

    store: Store
    announcer: Announcer

    async def set_opt_out(self, subject: str, *, opted_out: bool) -> OptOutAnswer:
        """Set the choice; returns when it is durable and the edges were told, or will be as soon as the grid answers.

        Raises:
            StoreUnavailableError: nothing has changed.
        """
        version = await self.store.set_opt_out(subject, opted_out=opted_out)
        await self.announcer.insist(Invalidation(subject=subject, subject_version=version, opted_out=opted_out))
        return OptOutAnswer(version=version)
