"""What to choose from and what letters mean: asked of the region once for everybody, or of the release's lists."""

import itertools
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import replace
from typing import TypeVar

import msgspec

from edge.answering.parts import Parts
from edge.cache.words import BYPASS, MISS, RELEASE_LISTS, forwarded_status
from edge.discovery.kept import KeptAnswers, Told
from edge.lists.release_lists import LoadedLists
from edge.routing.concurrency import Priority
from edge.routing.port import RegionCallError
from infra.contracts.discovery import (
    NO_WORDS,
    ChoiceCategory,
    ChoiceItem,
    ChoicesAnswer,
    ChoicesCall,
    SuggestAnswer,
    SuggestCall,
    Suggestion,
)
from infra.contracts.messages import Context, Surface
from infra.plumbing.errors import OverloadedError, UnavailableError
from infra.plumbing.text import folded, lacks_words

T = TypeVar("T")
LOOKED_AT_MAX = 5_000
"""Titles of the release's lists that are looked through while no region answers."""
DEGRADED = ("region",)
"""Says that the region did not take part."""
_ANEW = forwarded_status(BYPASS)
_FROM_LISTS = forwarded_status(MISS, detail=RELEASE_LISTS)


class DiscoveryDesk:
    """Asks, keeps, and takes out what may not be shown any more."""

    def __init__(self, parts: Parts, *, deadline_s: float) -> None:
        self._parts = parts
        self._deadline_s = deadline_s
        self._choices: KeptAnswers[ChoicesAnswer] = KeptAnswers(clock=parts.clock, entries_max=500)
        self._suggested: KeptAnswers[SuggestAnswer] = KeptAnswers(clock=parts.clock)

    async def close(self) -> None:
        """Cancel what is under way."""
        await self._choices.close()
        await self._suggested.close()

    async def choices(self, call: ChoicesCall) -> Told[ChoicesAnswer]:
        """What somebody new may choose from.

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
            told = await self._choices.get(key, ask)
        except (RegionCallError, TimeoutError, OverloadedError):
            told = self._choices.stale(key) or Told(self._from_lists(call), _FROM_LISTS)
        return replace(told, answer=self._without_withdrawn(told.answer))

    async def suggest(self, call: SuggestCall) -> Told[SuggestAnswer]:
        """What a few letters may mean; with a subject it is asked for anew.

        Raises:
            UnavailableError: nobody answers and this edge has never seen a release's lists.
        """
        context = Context(locale=call.context.locale, country=call.context.country)
        call = msgspec.structs.replace(call, context=context)

        async def ask() -> SuggestAnswer:
            return await self._ask(lambda url, timeout_s: self._parts.region.suggest(url, call, timeout_s=timeout_s))

        key = (self._parts.ledger.edition, call.n, context, NO_WORDS if lacks_words(call.q) else folded(call.q))
        try:
            told = Told(await ask(), _ANEW) if call.subject is not None else await self._suggested.get(key, ask)
        except (RegionCallError, TimeoutError, OverloadedError):
            told = self._suggested.stale(key) or Told(self._suggest_from_lists(call), _FROM_LISTS)
        hidden = self._hidden(told.answer.degraded)
        kept = tuple(one for one in told.answer.suggestions if not any(one.item in group for group in hidden))
        return replace(told, answer=msgspec.structs.replace(told.answer, suggestions=kept))

    def _suggest_from_lists(self, call: SuggestCall) -> SuggestAnswer:
        lists = self._parts.lists()
        if lists is None:
            raise UnavailableError("no region answers, and this edge has seen no release yet.", fix="Try again soon.")
        wordless = lacks_words(call.q)
        return SuggestAnswer(
            suggestions=() if wordless else suggestions_in(lists, call), release=lists.release, region=lists.region,
            degraded=(*DEGRADED, NO_WORDS) if wordless else DEGRADED,
        )  # fmt: skip

    async def _ask(self, ask: Callable[[str, float], Awaitable[T]]) -> T:
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

    def _hidden(self, degraded: Sequence[str]) -> tuple[Collection[str], ...]:
        """What nobody may be shown; of the release's lists also what the region's rules would have kept out."""
        ledger = self._parts.ledger
        return (ledger.withdrawn, ledger.kept_out.on(Surface.HOME)) if "region" in degraded else (ledger.withdrawn,)

    def _without_withdrawn(self, answer: ChoicesAnswer) -> ChoicesAnswer:
        hidden = self._hidden(answer.degraded)
        if not any(hidden):
            return answer
        kept = [
            msgspec.structs.replace(
                one, items=tuple(item for item in one.items if not any(item.item in group for group in hidden))
            )
            for one in answer.categories
        ]
        return msgspec.structs.replace(answer, categories=tuple(one for one in kept if one.items))


def suggestions_in(lists: LoadedLists, call: SuggestCall) -> tuple[Suggestion, ...]:
    """Items of the release's own lists with a word that begins like what was typed; exact, and popular ones first."""
    wanted, titles = folded(call.q), lists.lists.titles
    popular = lists.lists.popular.get("all", ())
    found = [
        Suggestion(kind="item", text=titles[item], item=item)
        for item in itertools.islice(dict.fromkeys((*popular, *titles)), LOOKED_AT_MAX)
        if titles.get(item) and f" {folded(titles[item])}".find(f" {wanted}") >= 0
    ]
    return tuple(found[: call.n])


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
