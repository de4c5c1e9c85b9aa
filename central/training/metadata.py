"""The item tower for items that nobody has touched: a linear map from metadata to where the trained vectors lie.

Fitted after training, by ridge regression over the catalogue's own vectors: what training teaches the metadata rows
themselves is little, because every trained item has a row of its own that explains it. The year is a column of its own
for each year: among new items it tells more than all categories.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import scipy.sparse

from central.datasets.interactions import Items
from infra.contracts.features import YEAR_SLOTS, FloatArray, IntArray, year_slots

RIDGE: Final = 10.0
"""In items: a category or year with few of them is drawn to zero."""


@dataclass(frozen=True, slots=True)
class MetadataMap:
    """What an item's category weights are multiplied by, and which row its year adds.

    `categories`: `[num_categories, dim] float32`; `years`: `[YEAR_SLOTS, dim] float32`.
    """

    categories: FloatArray
    years: FloatArray

    def vectors(self, weights: FloatArray, years: IntArray) -> FloatArray:
        """`[n, dim]` of items with category weights `[n, num_categories]` from `years [n]`, 0 for unknown."""
        vectors: FloatArray = (weights @ self.categories + self.years[year_slots(years)]).astype(np.float32)
        return vectors


def fit_metadata(items: Items, vectors: FloatArray) -> MetadataMap:
    """The map that is nearest to `vectors [num_items, dim]` over `items`."""
    slots = year_slots(items.years)
    count = len(items)
    of_year = scipy.sparse.csr_matrix((np.ones(count), (np.arange(count), slots)), shape=(count, YEAR_SLOTS))
    inputs = scipy.sparse.hstack([scipy.sparse.csr_matrix(items.weights.astype(np.float64)), of_year]).tocsr()
    squared = (inputs.T @ inputs).toarray() + RIDGE * np.eye(inputs.shape[1])
    solved = np.linalg.solve(squared, inputs.T @ vectors.astype(np.float64)).astype(np.float32)
    categories, years = solved[: items.weights.shape[1]], solved[items.weights.shape[1] :]
    return MetadataMap(categories, _with_unknown(years, slots))


def _with_unknown(years: FloatArray, slots: npt.NDArray[np.int32]) -> FloatArray:
    """An item of an unknown year is taken to be of all of them, where the catalogue has no such item to learn from."""
    known = slots[slots > 0]
    if (slots == 0).any() or not known.size:
        return years
    filled = years.copy()
    filled[0] = years[known].mean(axis=0)
    return filled
