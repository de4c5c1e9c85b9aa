"""The item tower for items that nobody has touched: a linear map from metadata to where the trained vectors lie.

Fitted after training, by ridge regression over the catalogue's own vectors: what training teaches the metadata rows
themselves is little, because every trained item has a row of its own that explains it. An item of three categories is
all of each, so what is read is whether it has a category, not its share. The year is a column of its own for each year:
among new items it tells more than all categories. Words of the title are hashed: a few of them (a series, a brand, a
kind of thing) tell where the item belongs, and the others are drawn to zero.
"""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import scipy.sparse

from central.datasets.interactions import Items
from infra.contracts.features import TITLE_SLOTS, TITLE_WORDS, YEAR_SLOTS, FloatArray, IntArray, title_slots, year_slots

RIDGE: Final = 3.0
"""In items: a category or year with few of them is drawn to zero."""
WORD_RIDGE: Final = 30.0
"""Of a title's words, of which there are many more, and most say nothing."""

Sparse = Any
"""A SciPy sparse matrix; SciPy ships no types."""


@dataclass(frozen=True, slots=True)
class MetadataMap:
    """The rows that an item's categories, year and title add up from.

    `categories`: `[num_categories, dim] float32`; `years`: `[YEAR_SLOTS, dim] float32`; `words`: `[TITLE_SLOTS, dim]
    float32`, the first all zeros.
    """

    categories: FloatArray
    years: FloatArray
    words: FloatArray

    def vectors(self, weights: FloatArray, years: IntArray, titles: tuple[str, ...]) -> FloatArray:
        """`[n, dim]` of items with category weights `[n, num_categories]` from `years [n]`, 0 for unknown."""
        words = self.words[_words(titles)].sum(axis=1)
        vectors: FloatArray = (_held(weights) @ self.categories + self.years[year_slots(years)] + words).astype(
            np.float32
        )
        return vectors


def fit_metadata(items: Items, vectors: FloatArray) -> MetadataMap:
    """The map that is nearest to `vectors [num_items, dim]` over `items`."""
    slots = year_slots(items.years)
    num_categories = items.weights.shape[1]
    inputs = scipy.sparse.hstack(
        [scipy.sparse.csr_matrix(_held(items.weights)), _one_hot(slots[:, None], YEAR_SLOTS),
         _one_hot(_words(items.titles) - 1, TITLE_SLOTS - 1)]
    ).tocsr()  # fmt: skip
    penalty = np.full(inputs.shape[1], RIDGE)
    penalty[num_categories + YEAR_SLOTS :] = WORD_RIDGE
    squared = (inputs.T @ inputs).toarray() + np.diag(penalty)
    solved = np.linalg.solve(squared, inputs.T @ vectors.astype(np.float64)).astype(np.float32)
    categories, years, words = np.split(solved, [num_categories, num_categories + YEAR_SLOTS])
    nothing = np.zeros((1, vectors.shape[1]), dtype=np.float32)
    return MetadataMap(categories, _with_unknown(years, slots), np.concatenate([nothing, words]))


def _held(weights: FloatArray) -> FloatArray:
    """1 where an item has a category at all."""
    return (weights > 0.0).astype(np.float32)


def _words(titles: tuple[str, ...]) -> IntArray:
    """`[n, TITLE_WORDS] int32`."""
    slots = np.zeros((len(titles), TITLE_WORDS), dtype=np.int32)
    for row, title in enumerate(titles):
        slots[row] = title_slots(title)
    return slots


def _one_hot(columns: IntArray, width: int) -> Sparse:
    """`[n, width]` with ones at `columns [n, k]`; -1 is no column."""
    rows, places = np.nonzero(columns >= 0)
    return scipy.sparse.csr_matrix((np.ones(rows.size), (rows, columns[rows, places])), shape=(len(columns), width))


def _with_unknown(years: FloatArray, slots: npt.NDArray[np.int32]) -> FloatArray:
    """An item of an unknown year is taken to be of all of them, where the catalogue has no such item to learn from."""
    known = slots[slots > 0]
    if (slots == 0).any() or not known.size:
        return years
    filled = years.copy()
    filled[0] = years[known].mean(axis=0)
    return filled
