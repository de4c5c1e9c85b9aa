"""Which rows pass a caller's filters, against the plain reading of them."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from infra.contracts.messages import AttributeFilter, ItemFilters
from infra.contracts.release import CatalogueItem
from infra.plumbing.catalogue.reading import Catalogue
from region.rules.facets import Facets

prices = st.one_of(st.none(), st.integers(0, 9).map(float))
attributes = st.dictionaries(
    st.sampled_from(["colour", "size"]), st.lists(st.sampled_from("rgb"), max_size=2, unique=True).map("|".join)
)
catalogues = st.lists(st.builds(CatalogueItem, item=st.just("i"), price=prices, attributes=attributes), max_size=12)
wanted = st.builds(
    AttributeFilter,
    name=st.sampled_from(["colour", "size", "unknown"]),
    values=st.lists(st.sampled_from("rgbx")).map(tuple),
)
filters = st.builds(ItemFilters, price_min=prices, price_max=prices, attributes=st.lists(wanted, max_size=2).map(tuple))


@given(catalogues, filters)
def test_the_mask_is_what_the_filters_say(items: list[CatalogueItem], asked: ItemFilters):
    def passes(item: CatalogueItem) -> bool:
        low = asked.price_min is None or (item.price is not None and item.price >= asked.price_min)
        high = asked.price_max is None or (item.price is not None and item.price <= asked.price_max)
        return (
            low
            and high
            and all(set(one.values) & set(item.attributes.get(one.name, "").split("|")) for one in asked.attributes)
        )

    numbered = [replace(item, item=str(row)) for row, item in enumerate(items)]
    columns = Catalogue.of(numbered, np.zeros(len(items)))
    expected = [passes(item) for item in items]
    allowed = Facets(columns).allowed(asked)
    assert allowed[np.arange(len(items), dtype=np.int32)].tolist() == expected
    assert sorted(allowed.best.tolist()) == np.flatnonzero(expected).tolist()
