"""What to choose from, asked of the region once for everybody; from the release's own lists when no region answers."""

from collections.abc import Awaitable, Callable

import msgspec

from edge.answering.parts import Parts
from edge.discovery.kept import KeptAnswers
from edge.lists.release_lists import LoadedLists
from edge.routing.concurrency import Priority
from edge.routing.port import RegionCallError
from infra.contracts.discovery import ChoiceCategory, ChoiceItem, ChoicesAnswer, ChoicesCall
from infra.contracts.messages import Context
from infra.plumbing.errors import OverloadedError, UnavailableError

DEGRADED = ("region",)
"""Says that the region did not take part."""


class DiscoveryDesk:
    """Asks, keeps, and takes out what may not be shown any more."""

    def __init__(self, parts: Parts, *, deadline_s: float) -> None:
        self._parts = parts
        self._deadline_s = deadline_s
        self._choices: KeptAnswers[ChoicesAnswer] = KeptAnswers(clock=parts.clock, entries_max=500)

    async def close(self) -> None:
        """Cancel what is under way."""
        await self._choices.close()

    async def choices(self, call: ChoicesCall) -> tuple[ChoicesAnswer, float]:
        """What somebody new may choose from, and how old it is in seconds.

        Raises:
            UnavailableError: nobody answers and this edge has never seen a release's lists.
        """
        # The language and the country may matter to the region's rules; what else is known of a call does not.
        context = Context(locale=call.context.locale, country=call.context.country)
        call = msgspec.structs.replace(call, context=context)

        async def ask() -> ChoicesAnswer:
            return await self._ask(lambda url, timeout_s: self._parts.region.choices(url, call, timeout_s=timeout_s))

        key = (self._parts.ledger.edition, call)
        try:
            answer, age_s = await self._choices.get(key, ask)
        except (RegionCallError, TimeoutError, OverloadedError):
            answer, age_s = self._choices.stale(key) or self._from_lists(call), 0.0
        return self._without_withdrawn(answer), age_s

    async def _ask(self, ask: Callable[[str, float], Awaitable[ChoicesAnswer]]) -> ChoicesAnswer:
        parts = self._parts
        reply = await parts.dispatcher.ask(
            parts.own_region, ask, deadline_s=parts.clock.monotonic_s() + self._deadline_s,
            attempts=parts.dispatcher.attempts(Priority.PAGE), try_timeout_s=self._deadline_s / 2,
        )  # fmt: skip
        return reply.answer

    def _from_lists(self, call: ChoicesCall) -> ChoicesAnswer:
        lists = self._parts.lists()
        if lists is None:
            raise UnavailableError("no region answers, and this edge has seen no release yet.", fix="Try again soon.")
        return ChoicesAnswer(
            categories=choices_in(lists, call), release=lists.release, region=lists.region, degraded=DEGRADED
        )  # fmt: skip

    def _without_withdrawn(self, answer: ChoicesAnswer) -> ChoicesAnswer:
        withdrawn = self._parts.ledger.withdrawn
        if not withdrawn:
            return answer
        kept = [
            msgspec.structs.replace(one, items=tuple(item for item in one.items if item.item not in withdrawn))
            for one in answer.categories
        ]
        return msgspec.structs.replace(answer, categories=tuple(one for one in kept if one.items))


def choices_in(lists: LoadedLists, call: ChoicesCall) -> tuple[ChoiceCategory, ...]:
    """What the release's own lists offer: its categories in their order, each item once."""
    chosen: list[ChoiceCategory] = []
    taken: set[str] = set()
    for key, items in lists.lists.popular.items():
        kind, _, name = key.partition(":")
        fresh = [item for item in items if item not in taken][: call.items] if kind == "category" else []
        if fresh and len(chosen) < call.categories:
            taken.update(fresh)
            titles = lists.lists.titles
            found = tuple(ChoiceItem(item=item, title=titles.get(item, "")) for item in fresh)
            chosen.append(ChoiceCategory(category=name, items=found))
    return tuple(chosen)
