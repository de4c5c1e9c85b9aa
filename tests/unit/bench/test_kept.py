"""Large releases of measurements are made once and kept; so are the suggestions that a region built of them."""

import os
from pathlib import Path

import pytest

from infra.bench.catalogue import BenchRequest
from infra.bench.miss import kept
from infra.bench.miss.kept import COARSE_ITEMS_MIN, KEPT_ITEMS_MIN, kept_release, kept_suggestions
from infra.plumbing.clock import ManualClock
from infra.plumbing.errors import UnavailableError
from infra.plumbing.progress import SilentProgress

MADE: list[Path] = []


def make(out: Path) -> Path:
    MADE.append(out)
    folder = out / "0123"
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text("{}")
    return folder


@pytest.fixture
def request_(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> BenchRequest:
    MADE.clear()
    monkeypatch.setattr(kept, "BYTES_PER_ITEM", 0)
    (tmp_path / "work").mkdir()
    return BenchRequest(
        work=tmp_path / "work", clock=ManualClock(), progress=SilentProgress(), environments=tmp_path / "home" / "envs"
    )


def test_a_large_release_is_made_once_and_anew_by_other_code(
    request_: BenchRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = kept_release(request_, KEPT_ITEMS_MIN, make)
    assert kept_release(request_, KEPT_ITEMS_MIN, make) == first
    assert len(MADE) == 1
    monkeypatch.setattr(kept, "_MADE_BY", ("pyproject.toml",))
    second = kept_release(request_, KEPT_ITEMS_MIN, make)
    assert second != first
    assert (second / "manifest.json").is_file()
    assert not first.exists()


def test_other_code_of_the_index_makes_only_those_anew_that_have_it(
    request_: BenchRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = KEPT_ITEMS_MIN, COARSE_ITEMS_MIN
    before = [kept_release(request_, size, make) for size in sizes]
    monkeypatch.setattr(kept, "_INDEXED_BY", ("pyproject.toml",))
    after = [kept_release(request_, size, make) for size in sizes]
    assert [one == other for one, other in zip(before, after, strict=True)] == [False, True]


def test_a_making_that_broke_off_leaves_nothing_behind(request_: BenchRequest) -> None:
    def fail(out: Path) -> Path:
        make(out)
        raise UnavailableError("no.")

    with pytest.raises(UnavailableError):
        kept_release(request_, KEPT_ITEMS_MIN, fail)
    assert kept_release(request_, KEPT_ITEMS_MIN, make).is_dir()
    assert len(MADE) == 2


def test_small_ones_are_made_each_time(request_: BenchRequest) -> None:
    assert kept_release(request_, 100, make).is_relative_to(request_.work)


def test_a_disk_that_is_too_full_is_told(request_: BenchRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "BYTES_PER_ITEM", 1 << 50)
    with pytest.raises(UnavailableError, match="GB of disk"):
        kept_release(request_, KEPT_ITEMS_MIN, make)
    assert not MADE


def test_suggestions_are_found_by_the_next_region(request_: BenchRequest, tmp_path: Path) -> None:
    release = kept_release(request_, KEPT_ITEMS_MIN, make)
    for run in ("one", "two"):
        own = tmp_path / run / "suggest" / release.name
        with kept_suggestions(release, tmp_path / run):
            assert own.is_dir() == (run == "two")
            if run == "one":
                own.mkdir(parents=True)
                (own / "words.json").write_text("[]")
    assert os.listdir(own) == ["words.json"]


def test_nothing_is_put_beside_a_release_of_somebody_else(tmp_path: Path) -> None:
    release = make(tmp_path / "bundles")
    with kept_suggestions(release, tmp_path / "state"):
        (tmp_path / "state" / "suggest" / release.name).mkdir(parents=True)
    assert [path.name for path in release.parent.iterdir()] == [release.name]
