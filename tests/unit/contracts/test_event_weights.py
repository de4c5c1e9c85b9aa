from pathlib import Path

import pytest

from infra.contracts import event_weights
from infra.contracts.event_weights import DEFAULT_WEIGHTS, EventType, event_strength
from infra.plumbing.errors import SettingsError
from region.store.opening import load_weights

SHIPPED = Path(event_weights.__file__).with_name("event_weights.toml")


def test_negatives_are_negative_and_the_rest_is_not() -> None:
    for kind, value in [
        (EventType.DISLIKE, None),
        (EventType.SKIP, None),
        (EventType.WATCH, 0.1),
        (EventType.RATING, 1.0),
    ]:
        assert DEFAULT_WEIGHTS.of(kind, value).affinity < 0.0
        assert DEFAULT_WEIGHTS.of(kind, value).trend == 0
    for kind in (EventType.LIKE, EventType.PURCHASE, EventType.CART, EventType.VIEW):
        assert DEFAULT_WEIGHTS.of(kind, None).affinity > 0.0


@pytest.mark.parametrize(
    ("was", "becomes", "said"),
    [
        ("version = 1", "version = 2", "version"),
        ("skip = {", "# skip = {", "skip are not listed"),
        ("strength = 3, affinity = 0.3", "strength = 8, affinity = 0.3", "strength"),
        ("affinity = -1.0, trend = 0 }\nskip", "affinity = -9.0, trend = 0 }\nskip", "affinity"),
        ("trend = 3 }", "trend = 3, boost = 1 }", "boost"),
        ("below = 0.6", "below = 0.1", "must rise"),
        ("  { strength = 5, affinity = 1.0, trend = 2 },\n", "", "must rise"),
    ],
)
def test_a_file_that_is_wrong_is_refused_with_the_reason(tmp_path, was: str, becomes: str, said: str) -> None:
    text = SHIPPED.read_text()
    assert was in text
    path = tmp_path / "weights.toml"
    path.write_text(text.replace(was, becomes, 1))
    with pytest.raises(SettingsError, match=said):
        load_weights(str(path))


def test_a_regions_own_file_counts(tmp_path) -> None:
    path = tmp_path / "weights.toml"
    path.write_text(SHIPPED.read_text().replace("view = { strength = 3", "view = { strength = 2"))
    own = load_weights(str(path))
    assert event_strength(EventType.VIEW, None, weights=own) == 2
    assert event_strength(EventType.VIEW, None) == 3
    assert load_weights("") is DEFAULT_WEIGHTS
    with pytest.raises(SettingsError, match="cannot be used"):
        load_weights(str(tmp_path / "missing.toml"))
