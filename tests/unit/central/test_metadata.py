"""The item tower for new items: what categories and years say of trained vectors is found, what is unknown is mild."""

from dataclasses import replace

import numpy as np

from central.datasets.interactions import Interactions
from central.training.metadata import fit_metadata
from infra.contracts.features import YEAR_FIRST, YEAR_SLOTS, year_slots


def test_a_linear_truth_is_found(data: Interactions, monkeypatch) -> None:
    monkeypatch.setattr("central.training.metadata.RIDGE", 1e-3)
    rng = np.random.default_rng(0)
    categories = rng.normal(size=(len(data.items.categories), 8)).astype(np.float32)
    years = np.repeat(1980 + np.arange(4, dtype=np.int32) * 5, 10)
    of_year = rng.normal(size=(YEAR_SLOTS, 8)).astype(np.float32)
    items = replace(data.items, years=years)
    vectors = items.weights @ categories + of_year[year_slots(years)]
    found = fit_metadata(items, vectors)
    assert np.abs(found.vectors(items.weights, years) - vectors).max() < 0.05
    unknown = found.vectors(items.weights[:1], np.zeros(1, dtype=np.int32))
    assert np.isfinite(unknown).all()
    assert np.abs(unknown).max() > 0.0


def test_without_years_the_unknown_one_is_learned(data: Interactions) -> None:
    items = replace(data.items, years=np.zeros(len(data.items), dtype=np.int32))
    vectors = np.ones((len(data.items), 4), dtype=np.float32)
    found = fit_metadata(items, vectors)
    assert found.vectors(items.weights, items.years).mean() > 0.7
    bare = replace(items, categories=(), weights=np.zeros((len(items), 0), dtype=np.float32))
    assert fit_metadata(bare, vectors).categories.shape == (0, 4)


def test_years_have_slots() -> None:
    years = np.asarray([0, 1800, YEAR_FIRST, YEAR_FIRST + 1, 3000], dtype=np.int32)
    assert year_slots(years).tolist() == [0, 1, 1, 2, YEAR_SLOTS - 1]
