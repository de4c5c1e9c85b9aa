"""The lists of a release, the last rung of the ladder: pure look-ups, best first, not empty while there is an item."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from edge.calls import FILTERS_RELAXED, ListQuery
from infra.contracts.messages import HomeAnswer, Lifetime, ReasonCode, RecommendationType, SlateItem
from infra.contracts.reasons import language_of
from infra.contracts.release import ReleaseLists, slate_from_list

_LIFE = Lifetime(max_age_s=0.0, stale_while_revalidate_s=0.0, stale_if_error_s=0.0)
ITEMS_MAX = 400
"""How many items of one list are made into a slate; a page with all its exclusions needs at most 500."""


@dataclass(frozen=True, slots=True)
class LoadedLists:
    """Lists of one release, and the length of its vectors."""

    release: str
    dim: int
    lists: ReleaseLists
    region: str
    _slates: dict[tuple[str, str, str], tuple[SlateItem, ...]] = field(default_factory=dict)
    """Slates made so far by kind, key and language; kinds, languages and keys that exist in the release bound it."""

    def answer(self, query: ListQuery, *, now_ms: int) -> HomeAnswer:
        """The best list that the release has for `query`, as if a region had answered."""
        return HomeAnswer(
            items=self._main(query), release=self.release, region=self.region, personal=False, lifetime=_LIFE,
            degraded=("region",) if query.filters is None else ("region", FILTERS_RELAXED), generated_at_ms=now_ms,
        )  # fmt: skip

    def filler(self, query: ListQuery) -> Iterator[SlateItem]:
        """Items to fill a page of `query` with, best first: what is popular here, everywhere, then anything at all."""
        language = language_of(query.context.locale)
        yield from self._popular(query.category, language)
        yield from self._popular(None, language)
        yield from self._slate("popular", "all", ReasonCode.POPULAR, language)
        # Only when somebody excluded everything popular: rare enough not to keep these ready.
        everything = tuple(dict.fromkeys((*self.lists.similar, *self.lists.titles)))
        yield from slate_from_list(everything, code=ReasonCode.POPULAR, titles=self.lists.titles, locale=language)

    def _main(self, query: ListQuery) -> tuple[SlateItem, ...]:
        language = language_of(query.context.locale)
        if query.item is not None and query.item in self.lists.similar:
            anchor = self.lists.titles.get(query.item, query.item)
            items = self.lists.similar[query.item][:ITEMS_MAX]
            return slate_from_list(
                items, code=ReasonCode.SIMILAR_ITEM, anchor=anchor, titles=self.lists.titles, locale=language
            )
        if query.type is RecommendationType.TRENDING and query.category is None:
            here = self._slate("trending", f"region:{self.region}", ReasonCode.TRENDING_REGION, language)
            return here or self._slate("trending", "all", ReasonCode.POPULAR, language)
        return self._popular(query.category, language)

    def _popular(self, category: str | None, language: str) -> tuple[SlateItem, ...]:
        if category is not None:
            key = f"category:{category}"
            in_category = self._slate("popular", key, ReasonCode.POPULAR_IN_CATEGORY, language, category)
            if in_category:
                return in_category
        here = self._slate("popular", f"region:{self.region}", ReasonCode.POPULAR, language)
        return here or self._slate("popular", "all", ReasonCode.POPULAR, language)

    def _slate(
        self, kind: str, key: str, code: ReasonCode, language: str, anchor: str = ""
    ) -> tuple[SlateItem, ...]:  # fmt: skip
        made = self._slates.get((kind, key, language))
        if made is not None:
            return made
        source = self.lists.trending if kind == "trending" else self.lists.popular
        items = source.get(key, ())
        if not items:
            return ()
        made = slate_from_list(items[:ITEMS_MAX], code=code, anchor=anchor, titles=self.lists.titles, locale=language)
        self._slates[kind, key, language] = made
        return made
