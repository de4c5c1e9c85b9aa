"""Hard filters and full pages; cursors without repeats."""

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.cache.filters import cut_page
from edge.calls import ListQuery
from edge.http.cursor import decode_cursor, item_fingerprint, list_fingerprint, next_cursor
from infra.contracts.messages import SLATE_ITEMS_MAX, ReasonCode, RecommendationType, SlateItem
from infra.contracts.release import slate_from_list
from infra.plumbing.errors import InvalidInputError

names = st.integers(0, 60).map(lambda number: f"i{number}")
lists = st.lists(names, max_size=60).map(lambda ids: slate_from_list(tuple(ids), code=ReasonCode.POPULAR))
Slate = tuple[SlateItem, ...]
QUERY = ListQuery(type=RecommendationType.POPULAR)
LIST = list_fingerprint(QUERY)


@given(lists, lists, st.sets(names), st.sets(names), st.sets(names), st.integers(1, 40))
def test_pages_hold_nothing_forbidden_nothing_twice_and_are_full_if_they_can_be(
    items: Slate,
    filler: Slate,
    withdrawn: set[str],
    excluded: set[str],
    shown: set[str],
    n: int,
) -> None:
    slate = cut_page(items, n=n, blocked=(withdrawn, excluded), is_shown=shown.__contains__, filler=iter(filler))
    page = [item.item for item in slate.items]
    forbidden = withdrawn | excluded | shown
    assert not set(page) & forbidden
    assert len(set(page)) == len(page) <= n
    possible = ({item.item for item in items} | {item.item for item in filler}) - forbidden
    assert len(page) == min(n, len(possible))
    left = [item.item for item in items if item.item not in forbidden and item.item not in page]
    assert slate.more == bool(left)
    assert not (slate.more and slate.filled)


def _among(shown: frozenset[int]) -> Callable[[str], bool]:
    return lambda item: item_fingerprint(item) in shown


@given(
    st.permutations([f"i{number}" for number in range(40)]),
    st.permutations([f"i{number}" for number in range(40)]),
    st.integers(1, 15),
)
def test_paging_repeats_nothing_even_when_the_list_changes(first: list[str], second: list[str], n: int) -> None:
    seen: list[str] = []
    shown: tuple[int, ...] = ()
    order = slate_from_list(tuple(first), code=ReasonCode.POPULAR)
    while True:
        query = ListQuery(type=RecommendationType.POPULAR, n=n, shown=shown)
        slate = cut_page(order, n=n, blocked=(), is_shown=_among(frozenset(shown)), filler=())
        seen += [item.item for item in slate.items]
        cursor = next_cursor(query, [item.item for item in slate.items]) if slate.more else None
        if cursor is None:
            break
        shown = decode_cursor(cursor, list_is=LIST)
        order = slate_from_list(tuple(second), code=ReasonCode.POPULAR)
    assert len(seen) == len(set(seen)) == 40


@settings(deadline=None)
@given(
    st.lists(st.permutations([f"i{number}" for number in range(30)]), min_size=1, max_size=8),
    st.integers(1, 9),
    st.data(),
)
def test_paging_passes_over_nothing_that_stays_in_the_list(
    orders: list[list[str]], n: int, data: st.DataObject
) -> None:
    """The list is reshuffled, loses items and gets them back between any two pages; the last state stays to the end."""
    stays = set(data.draw(st.sets(st.sampled_from(orders[0]))))
    seen: list[str] = []
    shown: tuple[int, ...] = ()
    for turn in range(200):
        order = orders[min(turn, len(orders) - 1)]
        gone = data.draw(st.sets(st.sampled_from(order))) - stays if turn < len(orders) - 1 else set()
        items = slate_from_list(tuple(item for item in order if item not in gone), code=ReasonCode.POPULAR)
        slate = cut_page(items, n=n, blocked=(), is_shown=_among(frozenset(shown)), filler=())
        seen += [item.item for item in slate.items]
        if not slate.more and turn >= len(orders) - 1:
            break
        cursor = next_cursor(ListQuery(type=RecommendationType.POPULAR, n=n, shown=shown), _ids(slate.items))
        assert cursor is not None
        shown = decode_cursor(cursor, list_is=LIST)
    assert len(seen) == len(set(seen))
    assert set(seen) == set(orders[0])
    assert stays <= set(seen)


def _ids(items: Slate) -> list[str]:
    return [item.item for item in items]


@given(st.text(max_size=80) | st.binary(max_size=80).map(lambda raw: raw.hex()))
def test_what_is_no_cursor_is_refused_without_repeating_it(text: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        decode_cursor(text, list_is=LIST)
    assert len(text) < 12 or text not in str(caught.value)


def test_cursors_of_other_lists_and_endless_ones_are_refused() -> None:
    cursor = next_cursor(QUERY, ["a", "b"])
    assert cursor is not None
    assert len(decode_cursor(cursor, list_is=LIST)) == 2
    with pytest.raises(InvalidInputError, match="another list"):
        decode_cursor(cursor, list_is=LIST + 1)
    with pytest.raises(InvalidInputError, match="not one that this service gave out"):
        decode_cursor(cursor * 500, list_is=LIST)
    assert next_cursor(QUERY, [str(number) for number in range(SLATE_ITEMS_MAX)]) is None
