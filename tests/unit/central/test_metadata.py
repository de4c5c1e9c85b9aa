"""The item tower for new items: what metadata says of trained vectors is found, what is unknown is mild."""

from dataclasses import replace

import numpy as np

from central.datasets.interactions import Interactions
from central.training.metadata import fit_metadata
from infra.contracts.features import TITLE_SLOTS, TITLE_WORDS, YEAR_FIRST, YEAR_SLOTS, title_slots, year_slots


def test_a_linear_truth_is_found(data: Interactions, monkeypatch) -> None:
    monkeypatch.setattr("central.training.metadata.RIDGE", 1e-3)
    rng = np.random.default_rng(0)
    categories = rng.normal(size=(len(data.items.categories), 8)).astype(np.float32)
    years = np.repeat(1980 + np.arange(4, dtype=np.int32) * 5, 10)
    of_year = rng.normal(size=(YEAR_SLOTS, 8)).astype(np.float32)
    items = replace(data.items, years=years)
    vectors = (items.weights > 0.0).astype(np.float32) @ categories + of_year[year_slots(years)]
    found = fit_metadata(items, vectors)
    assert np.abs(found.vectors(items.weights, years, items.titles) - vectors).max() < 0.05
    unknown = found.vectors(items.weights[:1], np.zeros(1, dtype=np.int32), ("",))
    assert np.isfinite(unknown).all()
    assert np.abs(unknown).max() > 0.0


def test_without_years_the_unknown_one_is_learned(data: Interactions) -> None:
    items = replace(data.items, years=np.zeros(len(data.items), dtype=np.int32))
    vectors = np.ones((len(data.items), 4), dtype=np.float32)
    found = fit_metadata(items, vectors)
    assert found.vectors(items.weights, items.years, items.titles).mean() > 0.7
    bare = replace(items, categories=(), weights=np.zeros((len(items), 0), dtype=np.float32))
    assert fit_metadata(bare, vectors).categories.shape == (0, 4)


def test_a_word_tells_where_an_item_belongs(data: Interactions) -> None:
    """Half of the titles name a series whose vectors lie elsewhere: a new part of it is put there."""
    titles = tuple(f"Star Saga {row} (1999)" if row % 2 else f"Garden {row}" for row in range(len(data.items)))
    years = np.full(len(titles), 1999, dtype=np.int32)
    items = replace(data.items, titles=titles, years=years, weights=np.zeros_like(data.items.weights))
    vectors = np.zeros((len(items), 4), dtype=np.float32)
    vectors[1::2] = 1.0
    found = fit_metadata(items, vectors)
    asked = ("The new STAR saga", "Garden view", "Unheard")
    part, other, plain = found.vectors(items.weights[:3], years[:3], asked).mean(axis=1)
    assert part > plain > other
    assert not found.words[0].any()


def test_titles_have_slots() -> None:
    slots = title_slots("Star-Saga II: star (1999) a")
    assert np.count_nonzero(slots) == 3  # star, saga, ii: a year and one letter are no words, each word counts once
    assert slots.tolist() == title_slots("star saga ii").tolist()
    assert slots.dtype == np.int32
    assert 0 < slots[slots > 0].min() <= slots.max() < TITLE_SLOTS
    assert title_slots("").tolist() == [0] * TITLE_WORDS
    many = " ".join(f"word{number}" for number in range(200))
    assert np.count_nonzero(title_slots(many)) == TITLE_WORDS


def test_years_have_slots() -> None:
    years = np.asarray([0, 1800, YEAR_FIRST, YEAR_FIRST + 1, 3000], dtype=np.int32)
    assert year_slots(years).tolist() == [0, 1, 1, 2, YEAR_SLOTS - 1]
