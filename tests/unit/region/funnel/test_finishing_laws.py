"""Laws of the second half of the funnel, over random catalogues, histories and filters."""

from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.contracts.features import GAP_CLASSES, LIGHT_FEATURES, RANKING_FEATURES, ItemLinks, ItemTables
from infra.contracts.messages import AttributeFilter, HomeRequest, ItemFilters, RecommendationType, Source
from infra.contracts.release import CatalogueItem, ModelShape, ReleaseLists, Rules
from infra.plumbing.catalogue.reading import Catalogue
from infra.plumbing.clock import ManualClock
from region.funnel.finishing import Draft, finish
from region.funnel.items import Items, RowOf
from region.funnel.plans import COLD_PLAN, PERSONAL_PLAN, POPULAR_PLAN, Budget, Plan
from region.funnel.query import read_history
from region.funnel.recording import Recorder
from region.funnel.release import LoadedRelease
from region.funnel.ruling import Ruling, Rulings
from region.funnel.sources import Candidates, standing_of
from region.funnel.tables import ReleaseTables
from region.rules.book import RuleBook
from region.rules.facets import Facets
from region.rules.schema import Diversity, RuleFile, SlateRules
from region.store.port import Interactions
from tests.unit.region.worlds import FakeRetrieval, FakeTowers

CATEGORIES = ("a", "b", "c")
DIM = 4
FILTERS = (
    ItemFilters(price_max=3.0),
    ItemFilters(price_min=2.0, attributes=(AttributeFilter(name="colour", values=("red", "green")),)),
    ItemFilters(attributes=(AttributeFilter(name="weight", values=("heavy",)),)),
)


def release_of(num_items: int, seed: int) -> LoadedRelease:
    rng = np.random.default_rng(seed)

    def links(*shape: int) -> ItemLinks:
        return ItemLinks(rng.integers(-1, num_items, shape).astype(np.int32), rng.random(shape).astype(np.float32))

    names = [tuple(name for name in CATEGORIES if rng.random() < 0.4) for _ in range(num_items)]
    weights = np.array([[float(name in own) for name in CATEGORIES] for own in names], dtype=np.float32)
    popularity = rng.random(num_items).astype(np.float32)
    order = np.argsort(-popularity, kind="stable").astype(np.int32)
    items = tuple(
        CatalogueItem(
            item=f"i{row}", categories=own, price=float(row % 7) if row % 3 else None,
            attributes={"colour": ("red|blue", "blue")[row % 2]} if row % 5 else {},
        )
        for row, own in enumerate(names)
    )  # fmt: skip
    columns = Catalogue.of(items, popularity)
    tables = ReleaseTables(
        light=np.ones(len(LIGHT_FEATURES), np.float32),
        release_id="r",
        shape=ModelShape(
            dim=DIM, history_length=4, num_items=num_items, num_categories=3, ranker_batch=6,
            num_ranking_inputs=len(RANKING_FEATURES), heads=("click",), categories=CATEGORIES,
        ),
        arrays=ItemTables(
            vectors=rng.normal(size=(num_items, DIM)).astype(np.float32),
            popularity=popularity,
            trend=rng.random(num_items).astype(np.float32),
            categories=(weights / np.maximum(weights.sum(axis=1, keepdims=True), 1.0)).astype(np.float32),
            similar_rows=rng.integers(-1, num_items, size=(num_items, 3)).astype(np.int32),
            similar_scores=rng.random((num_items, 3)).astype(np.float32),
            strength=rng.random(num_items).astype(np.float32),
            first_seen_s=rng.uniform(0, 1e6, num_items),
            followers=links(num_items, GAP_CLASSES, 2),
            soon=links(num_items, 3),
            ease=links(num_items, 3),
        ),
        items=Items(columns, spare_rows=0),
        facets=Facets(columns),
        row_of=RowOf(columns),
        lists=ReleaseLists(popular={}, trending={}, similar={}, titles={}),
        rules=Rules(),
        by_popularity=order,
        category_rows={
            name: np.asarray([row for row in order.tolist() if name in names[row]], dtype=np.int32)
            for name in CATEGORIES
        },
    )  # fmt: skip
    return LoadedRelease(
        tables=tables, standing=standing_of(tables, "x"), towers=FakeTowers(tables),
        retrieval=FakeRetrieval(tables.arrays.vectors),
    )  # fmt: skip


def ruling_of(release: LoadedRelease, file: RuleFile) -> Ruling:
    rulings = Rulings(RuleBook(Path("nowhere"), region="x"), on_error=lambda _rule: None)
    request = HomeRequest(type=RecommendationType.PERSONAL)
    return rulings.rule(request, release, now_s=1e6, remembered=False, proposed=("proposed", file))


@st.composite
def drafts(draw: st.DrawFn) -> Draft:
    num_items = draw(st.integers(1, 40))
    rows = st.integers(0, num_items - 1)
    some = st.lists(rows, unique=True, max_size=num_items)
    release = release_of(num_items, draw(st.integers(0, 20)))
    seen = draw(some)
    past = Interactions(
        tuple(f"i{row}" for row in seen), (5,) * len(seen), tuple(1000 * at for at in range(len(seen)))
    )  # fmt: skip
    plan: Plan = draw(st.sampled_from([PERSONAL_PLAN, COLD_PLAN, POPULAR_PLAN]))
    groups = tuple(
        Candidates(source, np.asarray(picked, np.int32), np.ones(len(picked), np.float32))
        for source in plan.weights
        for picked in [draw(some)]
    )
    page = draw(st.integers(1, 12))
    return Draft(
        release=release,
        plan=plan,
        ruling=ruling_of(
            release,
            RuleFile(
                format=1,
                region="any",
                slate=SlateRules(
                    diversity=Diversity(strength=draw(st.floats(0, 1))), category_share_max=draw(st.floats(0.1, 1))
                ),
            ),
        ),
        groups=groups,
        history=read_history(past, (), tables=release.tables, now_s=1e6),
        vector=np.ones(DIM, np.float32) if draw(st.booleans()) else None,
        anchor=None,
        category=draw(st.sampled_from([None, *[name for name in CATEGORIES if name in release.tables.category_rows]])),
        seen=tuple(seen),
        excluded=tuple(draw(some)),
        withdrawn=frozenset(draw(some)),
        page=page,
        slots=page * 2,
        now_s=1e6,
        budget=Budget(0.0, 1.0),
        allowed=draw(st.sampled_from([None, *(release.tables.facets.allowed(one) for one in FILTERS)])),
    )


@settings(max_examples=150, deadline=None)
@given(drafts())
def test_slates_are_full_distinct_and_hold_nothing_that_may_not_be_shown(draft: Draft) -> None:
    recorder = Recorder(clock=ManualClock())
    slate = [draft.release.tables.row_of[item.item] for item in finish(draft, recorder).slate]
    everything = range(draft.release.tables.shape.num_items)
    blocked = {*draft.seen, *draft.excluded, *draft.withdrawn}
    rows = np.arange(len(everything), dtype=np.int32)
    passes = np.ones(rows.size, np.bool_) if draft.allowed is None else draft.allowed[rows]
    allowed = {row for row in everything if row not in blocked and _in_category(draft, row) and passes[row]}
    assert len(set(slate)) == len(slate)
    assert not set(slate) & draft.withdrawn
    if allowed:
        assert set(slate) <= allowed
        assert len(slate) == min(draft.slots, len(allowed))
        assert recorder.degraded == []
    else:
        assert bool(slate) == (len(draft.withdrawn) < len(everything))


def _in_category(draft: Draft, row: int) -> bool:
    return draft.category is None or draft.category in draft.release.tables.items[row].categories


def test_an_unsorted_source_list_keeps_its_own_order_without_a_vector() -> None:
    release = release_of(10, 3)
    draft = Draft(
        release=release, plan=POPULAR_PLAN,
        ruling=ruling_of(
            release, RuleFile(format=1, region="any", slate=SlateRules(diversity=Diversity(strength=0.9)))
        ),
        groups=(Candidates(Source.POPULAR, np.array([7, 2, 9], np.int32), np.zeros(3, np.float32)),),
        history=read_history(Interactions(), (), tables=release.tables, now_s=0.0), vector=None, anchor=None,
        category=None, seen=(), excluded=(), withdrawn=frozenset(), page=3, slots=3, now_s=0.0, budget=Budget(0.0, 1.0),
    )  # fmt: skip
    assert [item.item for item in finish(draft, Recorder(clock=ManualClock())).slate] == ["i7", "i2", "i9"]
