"""What an expression may cost is told before it is run: CEL always ends, but not in anybody's time."""

import pytest

from infra.contracts.release import CatalogueItem
from region.rules.bounding import STEPS_MAX, excess
from region.rules.conditions import Condition, ConditionError, Scope


def written(count: int) -> str:
    return f"[{', '.join(['1'] * count)}]"


@pytest.mark.parametrize(
    "source",
    [
        'item.categories.exists(c, c == "a" || c == "b")',
        f"item.year in {written(150)}",
        'item.categories.exists(c, ["a", "b"].exists(d, c == d)) && item.categories.all(c, c != "x")',
        f"{written(30)}.all(a, {written(30)}.all(b, a + b > 0))",
        'item.categories.filter(c, c != "x").exists(c, c == "y")',
        'item.title == ".map(.map(.map("',
        'item.attributes["a"] == "x" || item.attributes["b"] == "y"',
        'true ? [1].all(x, x > 0) : [1].all(x, x > 0) || [1].all(x, x > 0)',
    ],
)  # fmt: skip
def test_what_a_reviewer_would_write_is_taken(source: str) -> None:
    assert excess(source) == ""
    Condition.compile(source, scope=Scope.ITEM)


@pytest.mark.parametrize(
    ("source", "told"),
    [
        (f"{written(5)}.all(a, {written(5)}.all(b, {written(5)}.all(c, a + b + c > 0)))", "more than 2 of all"),
        ('["a"]' + ".map(a, a + a)" * 3 + ' == ["a"]', "more than 2 of all"),
        ('((["a"].map(a, a + a)).map(a, a + a)).map(a, a + a) == []', "more than 2 of all"),
        (f"{written(40)}.all(a, {written(40)}.all(b, a + b > 0))", f"1600 steps for one item, and {STEPS_MAX}"),
        ('[1].all(x, x > 0) // "\n && [1].all(a, [1].all(b, [1].all(c, true))) // "', "more than 2 of all"),
    ],
)
def test_what_would_go_on_for_hours_is_refused_and_never_run(source: str, told: str) -> None:
    with pytest.raises(ConditionError, match=told):
        Condition.compile(source, scope=Scope.ITEM)


def test_the_dearest_expression_that_is_taken_costs_little() -> None:
    copies = " + ".join(["a"] * 60)
    condition = Condition.compile(f'["a"].map(a, {copies}).map(a, {copies})[0] == item.title', scope=Scope.ITEM)
    assert condition.value(CatalogueItem(item="x", title="a" * 3600), {}, now_s=0.0) is True
