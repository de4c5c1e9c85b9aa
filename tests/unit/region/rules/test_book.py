"""Published rules: durable, of this region, the newest wins, and their past is bounded."""

from pathlib import Path

import numpy as np
import pytest

from infra.plumbing.clock import ManualClock
from infra.plumbing.errors import InvalidInputError, SettingsError
from region.publishing import book as module
from region.publishing.book import Publication, edition_of
from region.rules.book import RuleBook, load_rules
from region.rules.history import Page, PageHistory

FIRST = "format: 1\nregion: us-east\n"
SECOND = FIRST + "note: second\n"


def publish(book: RuleBook, document: str, clock: ManualClock) -> None:
    book.publish(document, operator="o", edition=edition_of(document), clock=clock)


def test_what_is_published_holds_after_a_restart(tmp_path: Path) -> None:
    clock = ManualClock()
    book = RuleBook(tmp_path, region="us-east")
    assert book.current is None
    publish(book, FIRST, clock)
    publish(book, SECOND, clock)
    again = RuleBook(tmp_path, region="us-east").current
    assert again is not None
    assert (again.name, again.file.note) == (edition_of(SECOND), "second")
    assert len(list(tmp_path.glob("*.yaml"))) == 2


def test_the_settings_rules_hold_until_something_is_published(tmp_path: Path) -> None:
    path = tmp_path / "rules.yaml"
    path.write_text(SECOND)
    book = RuleBook(tmp_path / "b", region="us-east", first=load_rules(str(path)))
    assert book.current is not None
    assert book.current.name == "settings-file"
    publish(book, FIRST, ManualClock())
    assert book.current.file.note == ""
    assert load_rules("") is None
    with pytest.raises(SettingsError, match="cannot read"):
        load_rules(str(tmp_path / "nowhere"))
    path.write_text("format: 2\n")
    with pytest.raises(SettingsError, match="line 1: format"):
        load_rules(str(path))


def test_the_newest_publication_wins_and_an_older_one_changes_nothing(tmp_path: Path) -> None:
    book = RuleBook(tmp_path, region="us-east")
    newer = Publication(document=SECOND, edition="b", published_at_ms=20)
    assert book.adopt(newer)
    assert not book.adopt(newer)
    assert not book.adopt(Publication(document=FIRST, edition="a", published_at_ms=10))
    assert not book.adopt(Publication(document="", edition="z", published_at_ms=99))
    assert book.current is not None
    assert book.current.name == "b"


def test_a_clock_that_runs_behind_publishes_later_all_the_same(tmp_path: Path) -> None:
    book = RuleBook(tmp_path, region="us-east")
    book.adopt(Publication(document=FIRST, edition="a", published_at_ms=10**15))
    publish(book, SECOND, ManualClock())
    assert book.current is not None
    assert book.current.publication.published_at_ms == 10**15 + 1


def test_rules_of_another_region_are_refused(tmp_path: Path) -> None:
    book = RuleBook(tmp_path, region="us-west")
    with pytest.raises(InvalidInputError, match="rules of us-east"):
        publish(book, FIRST, ManualClock())
    assert book.current is None


def test_unreadable_rules_do_not_pass_for_none(tmp_path: Path) -> None:
    (tmp_path / "published.json").write_text("{")
    with pytest.raises(SettingsError, match="cannot be used"):
        RuleBook(tmp_path, region="us-east")


def test_the_past_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "EDITIONS_KEPT", 3)
    book, clock = RuleBook(tmp_path, region="us-east"), ManualClock()
    for number in range(6):
        publish(book, f"{FIRST}note: '{number}'\n", clock)
    assert len(list(tmp_path.glob("*.yaml"))) == 3


def test_pages_are_remembered_within_bounds() -> None:
    pages = PageHistory(subjects_max=2, pages_max=3)
    for at_s in range(5):
        pages.remember("s", Page(float(at_s), "r", "home", np.array([1, at_s], np.int32)))
    assert pages.often("s", release="r", since_s=0.0, times=3).tolist() == [1]
    assert pages.often("s", release="r", since_s=4.0, times=2).tolist() == []
    assert pages.often("s", release="other", since_s=0.0, times=1).tolist() == []
    last = pages.last("s", release="r", surface="home", since_s=4.0)
    assert last is not None
    assert last.tolist() == [1, 4]
    assert pages.last("s", release="r", surface="cart", since_s=0.0) is None
    pages.remember("t", Page(0.0, "r", "home", np.array([1], np.int32)))
    pages.remember("u", Page(0.0, "r", "home", np.array([1], np.int32)))
    assert len(pages) == 2
    pages.forget("u")
    assert len(pages) == 1
