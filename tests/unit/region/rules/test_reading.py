"""A rule file is read strictly, and every message names its line."""

import contextlib
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from region.rules import reading
from region.rules.reading import RuleFileError, read_rules, write_rules
from region.rules.schema import RuleFile

GOOD = """\
format: 1
region: us-east
note: autumn
slate:
  diversity: {method: dpp, strength: 0.3}
  stability: {weight: 0.1, window_s: 600}
  category_share_max: 0.5
surfaces:
  cart:
    mix: {similar-to-recent: 1.0, popular: 0.2}
    lives: {personal: {max_age_s: 10}}
hard:
  - id: not-for-children
    because: content-policy
    surfaces: [home]
    when: request.country == "DE" && request.local_hour < 22
    match: '"rating" in item.attributes && item.attributes["rating"] == "18"'
  - {id: recalled, because: legal, items: [a, b]}
quotas:
  - {id: one-brand, of: brand, share_max: 0.3}
  - {id: few-old, match: "item.year < 1980", count_max: 2}
floors: [{id: small-makers, match: 'item.brand == "small"', share_min: 0.2}]
boosts:
  - {id: fresh, weight: 0.3, half_life_days: 14}
  - {id: margin, weight: 0.2, by: 'double(item.attributes["margin"])'}
promotions: [{id: week, items: [c], positions: [2], from_date: 2026-11-01, until_date: 2026-11-30}]
caps: [{id: enough, shown_max: 3, window_s: 3600}]
"""


def test_a_file_says_what_it_says_and_survives_being_written() -> None:
    rules = read_rules(GOOD)
    assert rules.hard[0].because == "content-policy"
    assert rules.promotions[0].until_date is not None
    assert read_rules(write_rules(rules)) == rules


@pytest.mark.parametrize(
    ("old", "new", "line", "told"),
    [
        ("strength: 0.3", "strength: 3", 5, "<= 1.0"),
        ("strength: 0.3", "strenght: 0.3", 5, "unknown field `strenght`"),
        ("because: content-policy", "because: taste", 14, "Invalid enum value 'taste'"),
        ("positions: [2]", "positions: [0]", 26, ">= 1"),
        ("items: [a, b]", "items: [a, 7]", 18, "got `int`"),
        ("- {id: few-old", "- {id: one-brand", 21, "is taken"),
        ("of: brand, share_max: 0.3", "of: brand", 20, "share_max or count_max"),
        ("of: brand, share_max: 0.3", "share_max: 0.3", 20, "either of or match"),
        ("match: 'item.brand == \"small\"'", "match: 'item.brand =='", 22, "match: column"),
        ("match: 'item.brand == \"small\"'", "match: 'item.colour == 1'", 22, "`item.colour` is not known"),
        ("match: 'item.brand == \"small\"'", "match: 'colour == 1'", 22, "Undefined variable"),
        ("match: 'item.brand == \"small\"'", "match: \"item.title.matches('(')\"", 22, "not a valid regex"),
        ("request.local_hour < 22", "item.year < 22", 16, "about the request alone"),
        ('request.country == "DE" && request.local_hour < 22', "request.country < 22", 16, "it fails"),
        ('request.country == "DE" && request.local_hour < 22', "request.local_hour", 16, "of type int"),
        ("shown_max: 3", "shown_max: 9", 27, "<= 8"),
        ("until_date: 2026-11-30", "until_date: 2026-10-30", 26, "before from_date"),
        ("region: us-east", "region: us-east\nregion: us-west", 3, "a second time"),
        ("note: autumn", "note: &a autumn", 3, "anchors"),
        ("note: autumn", "note: [", 5, "not YAML"),
        ("note: autumn", "note: !!python/name:os.system", 3, "cannot be read"),
        ("items: [c], ", "", 26, "needs items or match"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(old: str, new: str, line: int, told: str) -> None:
    assert old in GOOD
    with pytest.raises(RuleFileError) as caught:
        read_rules(GOOD.replace(old, new))
    assert any(told in fault.message for fault in caught.value.faults), caught.value
    assert caught.value.faults[0].line == line
    assert f"line {line}:" in str(caught.value)


def test_the_older_form_is_refused_with_its_translation() -> None:
    with pytest.raises(RuleFileError, match=r"diversity: \{strength: 0\.4\}"):
        read_rules('{"diversity": 0.4, "category_share_max": 0.5, "withdrawn": ["a"]}')


def test_a_file_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "DOCUMENT_BYTES_MAX", 100)
    with pytest.raises(RuleFileError, match="longer than 100"):
        read_rules(GOOD)


@given(st.text(max_size=200))
def test_any_text_is_a_rule_file_or_is_refused(text: str) -> None:
    with contextlib.suppress(RuleFileError):
        assert isinstance(read_rules(text), RuleFile)


def test_defaults_are_valid() -> None:
    assert read_rules("format: 1\nregion: any\n") == msgspec.convert({"format": 1, "region": "any"}, RuleFile)


def test_the_example_is_good() -> None:
    example = Path(reading.__file__).with_name("example.yaml")
    assert read_rules(example.read_text()).region == "any"
