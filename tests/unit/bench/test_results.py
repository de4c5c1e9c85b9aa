import math

import pytest

from infra.bench.results import at_least, at_most, medians, percentile


def test_medians_are_taken_key_by_key():
    runs = [{"a_ms": 1.0, "b": 9.0}, {"a_ms": 3.0, "b": 7.0}, {"a_ms": 2.0, "b": 8.0}]
    assert medians(runs) == {"a_ms": 2.0, "b": 8.0}


def test_a_key_that_one_run_lacks_is_an_error():
    with pytest.raises(KeyError):
        medians([{"a": 1.0}, {}])


def test_bars_are_met_on_the_line_and_never_by_nothing():
    assert at_most("late", 2.0, 2.0, unit="ms").met
    assert not at_most("late", 2.1, 2.0, unit="ms").met
    assert at_least("fast", 1.3, 1.3, unit="x").met
    assert not at_least("fast", None, 1.3, unit="x").met
    assert not at_most("late", math.nan, 2.0, unit="ms").met


@pytest.mark.parametrize(("share", "expected"), [(0.0, 1.0), (0.5, 2.0), (0.75, 3.0), (0.99, 4.0), (1.0, 4.0)])
def test_percentiles_by_nearest_rank(share: float, expected: float):
    assert percentile([4.0, 2.0, 1.0, 3.0], share) == expected
    assert math.isnan(percentile([], share))
