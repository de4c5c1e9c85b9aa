"""The release's own lists: what they answer, and where they come from."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from edge.calls import ListQuery
from edge.lists.library import ListLibrary, UnusableListsError
from edge.lists.release_lists import LoadedLists
from edge.lists.shelf import ListShelf
from infra.contracts.messages import ReasonCode, RecommendationType
from infra.contracts.release import ReleaseLists
from infra.plumbing.errors import AtollError
from infra.plumbing.telemetry import TelemetrySettings, start_telemetry
from tests.unit.edge.fakes import DIM, FakeSource, release_lists

LOADED = LoadedLists("a" * 20, DIM, release_lists(), "here")


def first(query: ListQuery) -> tuple[str, ReasonCode]:
    item = LOADED.answer(query, now_ms=7).items[0]
    return item.item, item.reason.code


def test_each_type_gets_its_best_list() -> None:
    popular, similar = RecommendationType.POPULAR, RecommendationType.SIMILAR
    assert first(ListQuery(type=popular)) == ("r-10", ReasonCode.POPULAR)
    assert first(ListQuery(type=popular, category="drama")) == ("r-50", ReasonCode.POPULAR_IN_CATEGORY)
    assert first(ListQuery(type=popular, category="unknown")) == ("r-10", ReasonCode.POPULAR)
    assert first(ListQuery(type=RecommendationType.TRENDING)) == ("r-5", ReasonCode.POPULAR)
    assert first(ListQuery(type=RecommendationType.PERSONAL)) == ("r-10", ReasonCode.POPULAR)
    assert first(ListQuery(type=similar, item="r-3")) == ("r-4", ReasonCode.SIMILAR_ITEM)
    assert first(ListQuery(type=similar, item="never heard of")) == ("r-10", ReasonCode.POPULAR)
    answer = LOADED.answer(ListQuery(type=popular), now_ms=7)
    assert (answer.release, answer.region, answer.personal, answer.generated_at_ms) == ("a" * 20, "here", False, 7)


def test_a_trending_list_of_the_region_comes_first() -> None:
    lists = msgspec.structs.replace(release_lists(), trending={"region:here": ("r-77",), "all": ("r-1",)})
    loaded = LoadedLists("a" * 20, DIM, lists, "here")
    assert loaded.answer(ListQuery(type=RecommendationType.TRENDING), now_ms=7).items[0].item == "r-77"


def test_the_filler_reaches_every_item() -> None:
    assert {item.item for item in LOADED.filler(ListQuery(type=RecommendationType.POPULAR, category="drama"))} == {
        f"r-{number}" for number in range(150)
    }


def library(directory: Path, source: FakeSource) -> ListLibrary:
    return ListLibrary(directory=directory, open_source=lambda: source, region="here", channel="stable")


def test_lists_come_from_the_repository_and_stay_on_disk(tmp_path: Path) -> None:
    source = FakeSource()
    release = source.publish(release_lists())
    shelf = library(tmp_path, source)
    assert shelf.from_disk(None) is None
    fetched = shelf.from_repository(None)
    assert (fetched.lists.release, fetched.lists.dim) == (release, DIM)
    shelf.keep(fetched)
    shelf.mark_current(release)
    shelf.close()
    assert source.closed
    again = library(tmp_path, source).from_disk(None)
    assert again is not None
    assert again.release == release
    library(tmp_path, source).close()


def test_damaged_files_are_not_used(tmp_path: Path) -> None:
    source = FakeSource()
    release = source.publish(release_lists())
    shelf = library(tmp_path, source)
    shelf.keep(shelf.from_repository(release))
    path = tmp_path / f"{release}.lists.json"
    whole = path.read_bytes()
    for damaged in (whole[:-10], whole.replace(b"r-1", b"r-2", 1), b"\xff"):
        path.write_bytes(damaged)
        assert shelf.from_disk(release) is None
    (tmp_path / "current").write_text("../../etc/passwd")
    assert shelf.from_disk(None) is None


def test_a_release_without_a_popular_list_is_refused(tmp_path: Path) -> None:
    source = FakeSource()
    source.publish(ReleaseLists(popular={}, trending={}, similar={}, titles={}))
    with pytest.raises(UnusableListsError, match="Build the release again"):
        library(tmp_path, source).from_repository(None)


def test_only_a_few_releases_stay_on_disk(tmp_path: Path) -> None:
    source = FakeSource()
    shelf = library(tmp_path, source)
    for number in range(6):
        shelf.keep(shelf.from_repository(source.publish(release_lists(), created_at_ms=number)))
    assert len(list(tmp_path.glob("*.lists.json"))) == len(list(tmp_path.glob("*.manifest.json"))) == 3


class Shelf:
    def __init__(self, directory: Path, source: FakeSource) -> None:
        self.outcomes: list[str] = []
        self.telemetry = start_telemetry(
            service="edge", region="here", node="n", settings=TelemetrySettings(log_file=str(directory / "log"))
        )
        self.changed = asyncio.Event()
        self.shelf = ListShelf(
            library=library(directory / "lists", source), telemetry=self.telemetry, uniform=lambda low, high: low,
            poll_s=0.01, counted=self.counted,
        )  # fmt: skip
        self.task = asyncio.create_task(self.shelf.run())

    def counted(self, outcome: str) -> None:
        self.outcomes.append(outcome)
        self.changed.set()

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(5):
            while not holds():
                await self.changed.wait()
                self.changed.clear()

    async def stop(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)
        self.telemetry.close()

    def holds(self, release: str) -> bool:
        return self.shelf.current is not None and self.shelf.current.release == release


async def test_the_shelf_follows_the_region_and_survives_a_dead_repository(tmp_path: Path) -> None:
    source = FakeSource()
    first_release, second = source.publish(release_lists()), source.publish(release_lists("q"))
    shelf = Shelf(tmp_path, source)
    await shelf.until(lambda: shelf.holds(first_release))
    shelf.shelf.want(second)
    await shelf.until(lambda: shelf.holds(second))
    source.down = True
    shelf.shelf.want(first_release)
    await shelf.until(lambda: shelf.holds(first_release) and shelf.outcomes[-1] == "disk")
    shelf.shelf.want("f" * 20)
    await shelf.until(lambda: "UnavailableError" in shelf.outcomes)
    assert shelf.holds(first_release)
    await shelf.stop()
    source.down = True
    restarted = Shelf(tmp_path, source)
    await restarted.until(lambda: restarted.shelf.current is not None)
    assert restarted.outcomes[0] == "disk"
    await restarted.stop()


async def test_a_release_that_cannot_be_had_leaves_the_channels_lists(tmp_path: Path) -> None:
    source = FakeSource()
    release = source.publish(release_lists())
    shelf = Shelf(tmp_path, source)
    shelf.shelf.want("f" * 20)
    await shelf.until(lambda: shelf.holds(release))
    await shelf.stop()


async def test_a_disk_that_cannot_be_written_costs_no_lists(tmp_path: Path) -> None:
    (tmp_path / "lists").write_text("a file where the directory should be")
    source = FakeSource()
    release = source.publish(release_lists())
    shelf = Shelf(tmp_path, source)
    await shelf.until(lambda: "not-kept" in shelf.outcomes)
    assert shelf.holds(release)
    await shelf.stop()


def test_errors_of_the_repository_are_ours(tmp_path: Path) -> None:
    with pytest.raises(AtollError):
        library(tmp_path, FakeSource(down=True)).from_repository(None)
