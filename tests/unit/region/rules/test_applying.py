"""Laws for random rules: hard rules always win, and the slate is refilled behind them."""

import datetime as dt
from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace as replace_struct

from infra.contracts.messages import Context, HomeRequest, RecommendationType, Surface
from infra.contracts.release import CatalogueItem, Rules
from infra.plumbing.clock import ManualClock
from region.funnel.finishing import Draft, finish
from region.funnel.recording import Recorder
from region.rules.binding import Ground, bind
from region.rules.conditions import Condition, Scope, request_values
from region.rules.judging import ItemJudge
from region.rules.ruleset import compile_rules
from region.rules.schema import (
    Boost,
    Cap,
    Diversity,
    Floor,
    HardRule,
    Promotion,
    Quota,
    RuleFile,
    SlateRules,
    Stability,
)  # fmt: skip
from tests.unit.region.funnel.test_finishing_laws import drafts, ruling_of

MATCHES = st.sampled_from(
    [
        '"a" in item.categories', 'item.categories.size() == 0', 'item.id.endsWith("3")', "item.year > 1990",
        'item.attributes["absent"] == "x"', "item.price", 'request.country == "DE"', "false", "true",
    ]
)  # fmt: skip
SHARES = st.floats(0.05, 1.0)
SOME_ITEMS = st.lists(st.integers(0, 45).map(lambda row: f"i{row}"), max_size=8).map(tuple)


def named(kind: str, rules: st.SearchStrategy) -> st.SearchStrategy:
    return st.lists(rules, max_size=3).map(
        lambda found: tuple(replace_struct(rule, id=f"{kind}-{number}") for number, rule in enumerate(found))
    )


rule_files = st.builds(
    RuleFile,
    format=st.just(1),
    region=st.just("any"),
    slate=st.builds(
        SlateRules,
        diversity=st.builds(Diversity, method=st.sampled_from(["mmr", "dpp"]), strength=st.floats(0, 1)),
        category_share_max=SHARES,
        stability=st.builds(Stability, weight=st.floats(0, 1)),
    ),
    hard=named("hard", st.builds(HardRule, id=st.just("x"), match=st.none() | MATCHES, items=SOME_ITEMS)),
    quotas=named(
        "quota",
        st.builds(Quota, id=st.just("x"), of=st.sampled_from(["category", "brand"]), share_max=SHARES)
        | st.builds(Quota, id=st.just("x"), match=MATCHES, count_max=st.integers(1, 3)),
    ),
    floors=named("floor", st.builds(Floor, id=st.just("x"), match=MATCHES, share_min=SHARES)),
    boosts=named(
        "boost",
        st.builds(
            Boost, id=st.just("x"), weight=st.floats(-1, 1), match=st.none() | MATCHES,
            half_life_days=st.none() | st.just(3.0),
        ),
    ),
    promotions=named(
        "promotion",
        st.builds(
            Promotion, id=st.just("x"), positions=st.lists(st.integers(1, 8), min_size=1, max_size=3).map(tuple),
            items=SOME_ITEMS, match=st.none() | MATCHES,
        ),
    ),
    caps=named("cap", st.builds(Cap, id=st.just("x"), shown_max=st.just(1))),
)  # fmt: skip


def kept_out(file: RuleFile, item: CatalogueItem) -> bool:
    """The hard rules spelt out, item by item: what an expression cannot tell is kept out."""
    request = request_values(HomeRequest(type=RecommendationType.PERSONAL))
    for rule in file.hard:
        if item.item in rule.items:
            return True
        if rule.match is not None:
            try:
                value = Condition.compile(rule.match, scope=Scope.ITEM).value(item, request, now_s=1e6)
            except Exception:
                return True
            if not isinstance(value, bool) or value:
                return True
    return False


@settings(max_examples=100, deadline=None)
@given(draft=drafts(), file=rule_files)
def test_hard_rules_always_win_and_the_slate_is_full_behind_them(draft: Draft, file: RuleFile) -> None:
    ruling = ruling_of(draft.release, file)
    ruling = replace(ruling, capped=np.asarray(sorted(draft.seen[:3]), dtype=np.int32))
    finished = finish(replace(draft, ruling=ruling), Recorder(clock=ManualClock()))
    tables = draft.release.tables
    shown = [tables.row_of[item.item] for item in finished.slate]
    possible = {
        row for row in range(tables.shape.num_items)
        if row not in draft.withdrawn and not kept_out(file, tables.items[row])
    }  # fmt: skip
    assert len(set(shown)) == len(shown)
    assert set(shown) <= possible
    assert bool(shown) == bool(possible)
    strict = possible - {*draft.seen, *draft.excluded}
    if draft.category is not None:
        strict = {row for row in strict if draft.category in tables.items[row].categories}
    if draft.allowed is not None:
        passing = draft.allowed[np.arange(tables.shape.num_items, dtype=np.int32)]
        strict = {row for row in strict if passing[row]}
    if strict:
        assert set(shown) <= strict
        assert len(shown) == min(draft.slots, len(strict))


def judged(source: str, items: tuple[CatalogueItem, ...], failures: list[str]) -> ItemJudge:
    return ItemJudge(items, on_error=failures.append)


def test_an_item_is_judged_once_and_a_failure_is_told_and_counts_as_said() -> None:
    items = (CatalogueItem(item="a", attributes={"x": "1"}), CatalogueItem(item="b"))
    failures: list[str] = []
    judge = judged("", items, failures)
    condition = Condition.compile('item.attributes["x"] == "1"', scope=Scope.ITEM)
    rows = np.array([1, 0, 1], dtype=np.int32)
    values = request_values(HomeRequest(type=RecommendationType.PERSONAL))
    for _ in range(3):
        assert judge.holds(condition, rows, values, now_s=0.0, if_fails=True).tolist() == [True, True, True]
        assert judge.holds(condition, rows, values, now_s=0.0, if_fails=False).tolist() == [False, True, False]
    assert failures == [condition.source]


def test_numbers_are_brought_into_bounds_and_zero_where_they_fail() -> None:
    items = tuple(CatalogueItem(item=str(row), price=price) for row, price in enumerate((0.5, 7.0, None)))
    failures: list[str] = []
    condition = Condition.compile("1.0 / (item.price - 7.0) + item.price", scope=Scope.ITEM)
    judge = judged("", items, failures)
    values = request_values(HomeRequest(type=RecommendationType.PERSONAL))
    numbers = judge.numbers(condition, np.array([0, 1, 2], np.int32), values, now_s=0.0)
    assert ((numbers >= 0.0) & (numbers <= 1.0)).all()


def test_rules_hold_where_when_and_for_whom_they_say() -> None:
    file = RuleFile(
        format=1,
        region="any",
        hard=(
            HardRule(id="cart", surfaces=(Surface.CART,), items=("a",)),
            HardRule(id="dated", from_date=dt.date(2026, 1, 1), until_date=dt.date(2026, 1, 2), items=("a",)),
            HardRule(id="german", when='request.country == "DE"', items=("a",)),
            HardRule(id="broken", when="1 / (request.local_hour - 5) > 1", items=("a",)),
        ),
        boosts=(Boost(id="soft", when="1 / (request.local_hour - 5) > 1", weight=0.1),),
    )
    rules = compile_rules(file, edition="e")
    # At five in the morning a `when` fails: a hard rule holds then, any other does not.
    values = request_values(HomeRequest(type=RecommendationType.PERSONAL, context=Context(local_hour=5)))
    day_s = dt.datetime(2026, 1, 2, 23, tzinfo=dt.UTC).timestamp()

    def holding(surface: Surface, now_s: float, **changed: str) -> set[str]:
        return {one.rule.id for one in rules.active(surface, {**values, **changed}, now_s=now_s).hard}

    assert holding(Surface.HOME, 0.0) == {"broken"}
    assert holding(Surface.CART, day_s, country="DE") == {"cart", "dated", "german", "broken"}
    assert holding(Surface.HOME, day_s + 3600.0) == {"broken"}
    assert not rules.active(Surface.HOME, values, now_s=0.0).boosts


def test_a_surface_has_its_own_settings_over_the_files_over_the_releases() -> None:
    file = RuleFile(
        format=1, region="any", slate=SlateRules(category_share_max=0.5),
        surfaces={Surface.CART: SlateRules(diversity=Diversity(strength=0.9))},
    )  # fmt: skip
    rules = compile_rules(file, edition="e", defaults=Rules(diversity=0.4, category_share_max=0.7))
    home, cart = rules.settings[Surface.HOME], rules.settings[Surface.CART]
    assert (home.diversity.strength, home.category_share_max) == (0.4, 0.5)
    assert (cart.diversity.strength, cart.category_share_max) == (0.9, 0.5)


def test_bound_names_are_rows_of_this_release() -> None:
    file = RuleFile(format=1, region="any", hard=(HardRule(id="h", items=("b", "gone")),))
    rules = compile_rules(file, edition="e")
    bound = bind(
        rules, items=(CatalogueItem(item="a"), CatalogueItem(item="b")), row_of={"a": 0, "b": 1},
        membership=np.zeros((2, 0), np.float32), categories=(), on_error=lambda _source: None,
    )  # fmt: skip
    assert bound.blocked["h"].tolist() == [1]
    assert Ground(bound=bound, request={}, now_s=0.0).previous is None
