"""Why am I seeing this: which of a subject's own signals put an item where it is, and what the subject can do.

Asked of the funnel itself: the list is made once as it is, then once more without each of the last signals. How far
the item falls without a signal is what that signal does; what would not be missed is not named. So the answer is about
what served, not about a story beside it, and costs as much as SIGNALS_MAX + 1 lists: it is for who asks, not for each
page.
"""

import asyncio
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Protocol

import msgspec

from infra.contracts.messages import Context, HomeRequest, Reason, RecommendationType, SlateItem
from infra.contracts.residency import Global, Regional, RegionalMessage
from infra.plumbing.errors import InvalidInputError, OverloadedError
from region.store.port import HistoryEntry, Interactions, Store, UserRow

LIST_ITEMS = 50
"""How far down the list an item is looked for."""
SIGNALS_MAX = 12
"""The latest signals that are tried, one by one."""
NAMED_MAX = 5
AT_ONCE_MAX = 2
FALLBACK = "en"


class Signal(RegionalMessage, frozen=True, kw_only=True):
    """Something that the subject did."""

    item: Regional[str]
    title: Regional[str]
    strength: Regional[int]
    """From 1 (did not like it) to 5 (`infra.contracts.events.event_strength`)."""
    at_ms: Regional[int]
    position_without: Regional[int | None]
    """Where the item would stand without this, from 1; None: not on the list."""
    text: Regional[str]


class Way(RegionalMessage, frozen=True, kw_only=True):
    """Something that the subject can do about it, as a call of the public API."""

    id: Global[str]
    method: Global[str]
    path: Global[str]
    body: Regional[str] = ""
    """An event in it gets its `event_id` and `at_ms` from whoever sends it."""
    text: Regional[str]


class Explanation(RegionalMessage, frozen=True, kw_only=True):
    """Why an item is, or is not, on a subject's list."""

    item: Regional[str]
    title: Regional[str]
    position: Regional[int | None]
    """On the list that would be made now, from 1; None: not among its first LIST_ITEMS."""
    reason: Regional[Reason | None]
    personal: Regional[bool]
    """Whether anything of the subject takes part in its lists at all."""
    signals: Regional[tuple[Signal, ...]]
    """The most telling first."""
    text: Regional[str]
    ways: Regional[tuple[Way, ...]]


class Rehearsing(Protocol):
    """Makes a list that is neither counted nor remembered."""

    async def rehearse_for(self, request: HomeRequest, row: UserRow | None) -> tuple[SlateItem, ...]:
        """The slate for a row that need not be the one that is kept."""
        ...


class Explainer:
    """Explains, AT_ONCE_MAX at a time.

    Args:
        store: where rows live.
        lists: makes them.
        title_of: what the active release calls an item; "" when it does not know it.
    """

    def __init__(self, *, store: Store, lists: Rehearsing, title_of: "TitleOf") -> None:
        self._store = store
        self._lists = lists
        self._title_of = title_of
        self._room = asyncio.Semaphore(AT_ONCE_MAX)

    async def explain(self, subject: str, *, item: str, locale: str = FALLBACK) -> Explanation:
        """Why `item` is on the subject's list, in the language of `locale`.

        Raises:
            InvalidInputError: no item is named.
            OverloadedError: too many ask at once.
            UnavailableError: the store or the release is not there.
        """
        if not item:
            raise InvalidInputError("no item is named.", fix="Say which item of a list it is about.")
        if self._room.locked():
            raise OverloadedError("too many ask why at once.", fix="Ask again in a moment.")
        async with self._room:
            row = await self._store.read(subject)
            request = HomeRequest(
                type=RecommendationType.PERSONAL, subject=subject, n=LIST_ITEMS, context=Context(locale=locale)
            )  # fmt: skip
            slate = await self._lists.rehearse_for(request, row)
            position = _position(slate, item)
            signals = await self._signals(request, row, item, position, locale)
        return self._said(row, slate, item, position, signals, locale)

    async def _signals(
        self, request: HomeRequest, row: UserRow | None, item: str, position: int | None, locale: str
    ) -> list[Signal]:  # fmt: skip
        if row is None or row.opted_out or position is None:
            return []
        found: list[Signal] = []
        for entry in _latest(row.history):
            # All that was done to this one item: a second view of it would hide what the first did.
            history = Interactions.of(one for one in row.history if one.item != entry.item)
            without = await self._lists.rehearse_for(request, msgspec.structs.replace(row, history=history))
            place = _position(without, item)
            if place is None or place > position:
                title = self._title_of(entry.item) or entry.item
                text = _words(locale)["signal" if entry.strength == LOVED else "signal-weak"].replace("{title}", title)
                found.append(
                    Signal(
                        item=entry.item, title=title, strength=entry.strength, at_ms=entry.at_ms,
                        position_without=place, text=text,
                    )
                )  # fmt: skip
        found.sort(key=lambda one: -(one.position_without or LIST_ITEMS + 1))
        return found[:NAMED_MAX]

    def _said(
        self, row: UserRow | None, slate: Sequence[SlateItem], item: str, position: int | None,
        signals: Sequence[Signal], locale: str,
    ) -> Explanation:  # fmt: skip
        personal = row is not None and not row.opted_out and bool(row.history)
        if position is None:
            code = "not-listed"
        elif row is not None and row.opted_out:
            code = "opted-out"
        else:
            code = "signals" if signals else "no-signals"
        title = self._title_of(item) or item
        return Explanation(
            item=item, title=title, position=position, personal=personal, signals=tuple(signals),
            reason=slate[position - 1].reason if position is not None else None,
            text=_words(locale)[code].replace("{title}", title), ways=_ways(signals, row, locale),
        )  # fmt: skip


class TitleOf(Protocol):
    """What an item is called."""

    def __call__(self, item: str, /) -> str:
        """Its title, or ""."""
        ...


LOVED = 5
"""What was liked, bought, put into a cart or watched to its end (`infra/contracts/event_weights.toml`)."""


def _latest(history: Iterable[HistoryEntry]) -> list[HistoryEntry]:
    """The latest entry of each item, newest first, SIGNALS_MAX at most."""
    by_item = {entry.item: entry for entry in history}
    return sorted(by_item.values(), key=lambda entry: -entry.at_ms)[:SIGNALS_MAX]


def _position(slate: Sequence[SlateItem], item: str) -> int | None:
    return next((place for place, one in enumerate(slate, start=1) if one.item == item), None)


def _ways(signals: Sequence[Signal], row: UserRow | None, locale: str) -> tuple[Way, ...]:
    words = _words(locale)
    ways = [
        Way(
            id="dislike", method="POST", path="/v1/events", text=words["way-dislike"].replace("{title}", signal.title),
            body=msgspec.json.encode({"events": [{"type": "dislike", "item": signal.item}]}).decode(),
        )
        for signal in signals[:1]
    ]  # fmt: skip
    opted_out = row is not None and row.opted_out
    ways.append(
        Way(
            id="opt-in" if opted_out else "opt-out", method="PUT", path="/v1/privacy/opt-out",
            body=msgspec.json.encode({"opted_out": not opted_out}).decode(),
            text=words["way-opt-in" if opted_out else "way-opt-out"],
        )
    )  # fmt: skip
    ways.append(Way(id="export", method="GET", path="/v1/privacy/export", text=words["way-export"]))
    ways.append(Way(id="erase", method="DELETE", path="/v1/privacy/me", text=words["way-erase"]))
    return tuple(ways)


@cache
def _catalogue() -> Mapping[str, Mapping[str, str]]:
    """Sentences by language; English stands in for what a language lacks."""
    sentences: dict[str, dict[str, str]] = tomllib.loads(Path(__file__).with_name("why.toml").read_text("utf-8"))
    return {language: {**sentences[FALLBACK], **own} for language, own in sentences.items()}


def _words(locale: str) -> Mapping[str, str]:
    return _catalogue().get(locale.partition("-")[0].lower(), _catalogue()[FALLBACK])
