"""Pages of mapped files are let go of beyond a bound; what stood in them, and in the seats behind them, stays."""

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from infra.plumbing.mapped import (
    Span,
    fill,
    let_go,
    machine_memory_bytes,
    pages_within,
    resident_file_bytes,
    whole_pages,
)
from region.funnel import paging
from region.funnel.paging import BOUND_BYTES_MIN, SLACK_BYTES, Pager, bound_for
from region.funnel.release import LoadedRelease
from region.funnel.tables import load_tables
from region.releases.operations import NoActiveReleaseError
from tests.unit.region.worlds import World, build_world, bundle_at


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = build_world(tmp_path, num_items=600)
    yield made
    made.close()


async def test_beyond_the_bound_pages_go_and_everything_still_reads_the_same(world: World) -> None:
    tables, registry = world.release.tables, CollectorRegistry()
    spare = tables.seats._spare
    assert spare is not None
    spare.vectors[0] = 7.0
    vectors, first, sizes = tables.arrays.vectors.copy(), tables.items[5], [1 << 30]
    pager = Pager(
        bytes_max=1 << 20, lease=lambda: nullcontext(world.release), registry=registry, resident=lambda: sizes[0]
    )  # fmt: skip
    assert tables.mapped
    await pager.look()
    assert registry.get_sample_value("atoll_region_mapped_let_go_total") == 1.0
    assert (tables.arrays.vectors == vectors).all()
    assert (tables.arrays.vectors[tables.shape.num_items] == 7.0).all()
    assert tables.items[5] == first
    # What is not a release's stays, whatever is done.
    await pager.look()
    assert registry.get_sample_value("atoll_region_mapped_let_go_total") == 1.0
    sizes[0] = 2 << 30
    await pager.look()
    assert registry.get_sample_value("atoll_region_mapped_let_go_total") == 2.0
    sizes[0] = 0
    await pager.look()
    assert registry.get_sample_value("atoll_region_mapped_let_go_total") == 2.0


async def test_without_a_release_there_is_nothing_to_let_go_of() -> None:
    def nobody() -> AbstractContextManager[LoadedRelease]:
        raise NoActiveReleaseError("none.")

    registry = CollectorRegistry()
    await Pager(bytes_max=0, lease=nobody, registry=registry).look()
    assert registry.get_sample_value("atoll_region_mapped_resident_bytes") != 0.0


def test_pages_that_were_read_are_in_memory_and_then_not(tmp_path: Path) -> None:
    path = tmp_path / "table.npy"
    np.save(path, np.zeros(8 << 20, dtype=np.uint8))
    mapped = np.load(path, mmap_mode="r")
    before = resident_file_bytes()
    assert int(np.asarray(mapped).sum()) == 0
    read = resident_file_bytes()
    assert read - before > 6 << 20
    let_go([whole_pages(mapped.ctypes.data - mapped.offset, mapped.offset + mapped.nbytes)])
    assert read - resident_file_bytes() > 6 << 20


def test_what_is_no_mapping_is_refused() -> None:
    with pytest.raises(OSError, match="madvise"):
        let_go([(1, 4096)])


def test_only_whole_pages_of_a_file_are_among_those_of_its_tables(tmp_path: Path) -> None:
    tables = load_tables(*bundle_at(tmp_path))
    assert all(length % 4096 == 0 for _, length in tables.mapped)


def test_pages_are_brought_in_without_being_read(tmp_path: Path) -> None:
    path = tmp_path / "table.npy"
    np.save(path, np.zeros(8 << 20, dtype=np.uint8))
    mapped = np.load(path, mmap_mode="r")
    before = resident_file_bytes()
    fill([whole_pages(mapped.ctypes.data - mapped.offset, mapped.offset + mapped.nbytes)])
    assert resident_file_bytes() - before > 6 << 20
    with pytest.raises(OSError, match="madvise"):
        fill([(0, 4096)])


def test_only_whole_pages_lie_within() -> None:
    assert pages_within(4097, 8192) == (8192, 4096)
    assert pages_within(4096, 8192) == (4096, 8192)
    assert pages_within(4097, 100)[1] == 0


@pytest.mark.parametrize("bound", ["all", "some"])
async def test_what_becomes_active_is_brought_in_as_far_as_it_fits(
    world: World, monkeypatch: pytest.MonkeyPatch, bound: str
) -> None:
    filled: list[Span] = []

    def note(spans: Iterable[Span]) -> None:
        filled.extend(spans)

    monkeypatch.setattr(paging, "fill", note)
    mapped = world.release.tables.mapped
    sizes = sorted(length for _, length in mapped)
    most = sum(sizes) + 5 if bound == "all" else sum(sizes)
    pager = Pager(
        bytes_max=most, lease=lambda: nullcontext(world.release), registry=CollectorRegistry(), resident=lambda: 5
    )  # fmt: skip
    await pager.look()
    await pager.look()
    found = sorted(length for _, length in filled)
    if bound == "all":
        assert found == sizes
    else:
        assert found == sizes[: len(found)]
        assert sum(found) <= most // 2 < sum(sizes[: len(found) + 1])


async def test_what_is_about_to_be_active_is_brought_in_beside_what_is(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    coming = build_world(tmp_path / "coming", num_items=600)
    filled: list[Span] = []
    monkeypatch.setattr(paging, "fill", filled.extend)
    active, registry, size = [world.release], CollectorRegistry(), [5]
    whole = sum(length for _, length in coming.release.tables.mapped)
    pager = Pager(
        bytes_max=None, lease=lambda: nullcontext(active[0]), registry=registry, resident=lambda: size[0],
        machine_bytes=lambda: 1 << 40,
    )  # fmt: skip
    await pager.look()
    filled.clear()
    await pager.prepare(coming.release)
    assert sorted(filled) == sorted(coming.release.tables.mapped)
    # Both are there now, and nothing of either is let go of.
    size[0] = BOUND_BYTES_MIN + whole
    await pager.look()
    assert registry.get_sample_value("atoll_region_mapped_let_go_total") == 0.0
    # Once it is active its own pages are not taken for something beside it.
    active[0], size[0] = coming.release, BOUND_BYTES_MIN
    await pager.look()
    assert f"need {(BOUND_BYTES_MIN + SLACK_BYTES) >> 20:,} MB" in pager.bound.why
    coming.close()


async def test_no_more_is_brought_in_beside_than_memory_allows(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    filled: list[Span] = []
    monkeypatch.setattr(paging, "fill", filled.extend)
    sizes = sorted(length for _, length in world.release.tables.mapped)
    told = 5 + sum(sizes) // 2
    pager = Pager(
        bytes_max=told, lease=lambda: nullcontext(world.release), registry=CollectorRegistry(), resident=lambda: 5
    )  # fmt: skip
    await pager.prepare(world.release)
    assert 0 < sum(length for _, length in filled) <= sum(sizes) // 2


async def test_a_release_whose_files_cannot_be_brought_in_is_switched_to_all_the_same(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: Iterable[Span]) -> None:
        raise OSError("no")

    monkeypatch.setattr(paging, "fill", fail)
    pager = Pager(bytes_max=1 << 30, lease=lambda: nullcontext(world.release), registry=CollectorRegistry())
    await pager.prepare(world.release)


def test_where_nothing_is_told_the_bound_follows_from_the_release_and_the_machine() -> None:
    small = bound_for(1 << 30, 100 << 20, 64 << 30)
    assert small.bytes_max == BOUND_BYTES_MIN
    large = bound_for(11 << 30, 100 << 20, 24 << 30)
    assert large.bytes_max == (11 << 30) + (100 << 20) + SLACK_BYTES
    too_large = bound_for(11 << 30, 100 << 20, 12 << 30)
    assert too_large.bytes_max == 8 << 30
    assert "two thirds of the machine's 12,288 MB are 8,192" in too_large.why
    assert bound_for(11 << 30, 0, 1 << 30).bytes_max == BOUND_BYTES_MIN


async def test_a_bound_that_nobody_told_is_made_when_a_release_becomes_active(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled: list[Span] = []
    monkeypatch.setattr(paging, "fill", filled.extend)
    pager = Pager(
        bytes_max=None, lease=lambda: nullcontext(world.release), registry=CollectorRegistry(), resident=lambda: 5,
        machine_bytes=lambda: 1 << 40,
    )  # fmt: skip
    assert pager.bound.bytes_max == BOUND_BYTES_MIN
    await pager.look()
    assert sorted(filled) == sorted(world.release.tables.mapped)
    assert "the active release's files need" in pager.bound.why


def test_a_control_group_may_have_less_memory_than_the_machine(tmp_path: Path) -> None:
    meminfo, limit = tmp_path / "meminfo", tmp_path / "memory.max"
    meminfo.write_text("MemTotal:       2048 kB\nMemFree:        1024 kB\n")
    assert machine_memory_bytes(meminfo, limit) == 2048 << 10
    limit.write_text("max\n")
    assert machine_memory_bytes(meminfo, limit) == 2048 << 10
    limit.write_text(f"{1 << 20}\n")
    assert machine_memory_bytes(meminfo, limit) == 1 << 20
    assert machine_memory_bytes() > 0
