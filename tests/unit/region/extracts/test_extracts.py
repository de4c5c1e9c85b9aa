"""Extracts for central: nothing under `none`, nobody's name and no rare item in any, and each one written down."""

import asyncio
import json
import math
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace

from infra.contracts.extracts import AggregateExtract, SequenceExtract, aggregates_file, sequences_file
from infra.contracts.residency import ExportPolicy
from infra.plumbing.clock import ManualClock
from infra.plumbing.errors import OverloadedError, SettingsError
from infra.plumbing.keys import RegionKeys, TrustDirectory
from infra.plumbing.progress import SilentProgress
from infra.plumbing.settings import load_settings
from region.extracts.__main__ import main
from region.extracts.budget import ExtractBudget, ExtractBudgetError
from region.extracts.counting import ItemCounting, PairCounting, gaussian_sigma
from region.extracts.making import PERIOD_MS, ExportRefusedError, Extractor, key_of
from region.privacy.access_log import AccessLog
from region.privacy.accesses import verify
from region.privacy.bulk import BulkRead, BulkReads, digest_key
from region.settings import ExtractSettings, RegionSettings
from region.store.memory import MemoryStore
from region.store.port import Erasure, Interactions, StoreUnavailableError, UserRow, Walk
from region.store.subjects import session_subject, user_subject
from tests.contract.building import NOW_MS
from tests.unit.region_events.test_worker import settings_in

KEYS = RegionKeys.generate("us-east")
USERS = 60
COMMON, RARE = ("common-1", "common-2", "common-3"), "only-five-have-it"


def quiet(_sigma: float) -> float:
    return 0.0


class Region:
    """A store with people in it, and an account of accesses."""

    def __init__(self, folder: Path, policy: str, *, extracts: ExtractSettings | None = None) -> None:
        self.clock = ManualClock(wall_ms=NOW_MS)
        state = folder / "state"
        self.settings = replace(
            settings_in(state), region="us-east", export_policy=policy,
            extracts=extracts if extracts is not None else ExtractSettings(epsilon=1.9, delta=1e-4),
        )  # fmt: skip
        self.accesses = AccessLog(state, region="us-east", node="n", keys=KEYS, clock=self.clock)
        self.store = MemoryStore(clock=self.clock)
        self.out = folder / "out"
        self.subjects = [user_subject(KEYS, f"person-{number}") for number in range(USERS)]

    async def fill(self) -> None:
        rows = []
        for number, subject in enumerate(self.subjects):
            items = [*COMMON, f"own-{number}"] + ([RARE] if number < 5 else [])
            rows.append(a_row(subject, items))
        rows.append(replace(a_row(user_subject(KEYS, "opted-out"), [*COMMON, "of-the-opted-out"]), opted_out=True))
        rows.append(a_row(session_subject(KEYS, "anonymous"), [*COMMON, "of-the-session"]))
        await self.store.write_rows(rows)

    def extractor(self, *, noise: Callable[[float], float] = quiet) -> Extractor:
        return Extractor(
            self.settings, store=self.store, keys=KEYS, reads=BulkReads(self.accesses, key=digest_key(KEYS)),
            clock=self.clock, progress=SilentProgress(), noise=noise,
        )  # fmt: skip

    @property
    def noted(self) -> list[tuple[str, str, str]]:
        entries = self.accesses.entries()
        assert verify(entries, self.accesses.head(), TrustDirectory.of([KEYS])) == []
        return [(one.action, one.outcome, one.detail) for one in entries]


def a_row(subject: str, items: list[str]) -> UserRow:
    times_ms = tuple(NOW_MS + number for number in range(len(items)))
    return UserRow(subject=subject, history=Interactions(tuple(items), (5,) * len(items), times_ms))


async def opened(folder: Path, policy: str, *, extracts: ExtractSettings | None = None) -> Region:
    region = Region(folder, policy, extracts=extracts)
    await region.fill()
    return region


@pytest.mark.parametrize(
    ("policy", "kind"),
    [
        ("none", ExportPolicy.AGGREGATES), ("none", ExportPolicy.PSEUDONYMOUS),
        ("aggregates", ExportPolicy.PSEUDONYMOUS),
    ],
)  # fmt: skip
async def test_what_the_policy_does_not_allow_is_refused_before_anybody_is_read(
    tmp_path: Path, policy: str, kind: ExportPolicy
) -> None:
    region = await opened(tmp_path, policy)
    region.store.available = False  # whoever reads would notice
    with pytest.raises(ExportRefusedError, match=f"export policy of us-east is '{policy}'.*export_policy"):
        await region.extractor().make(kind, region.out)
    assert not region.out.exists()
    assert region.noted == [(f"extract {kind.value}", "refused", f"the export policy is {policy}")]


async def test_sequences_carry_common_items_under_keys_of_their_period(tmp_path: Path) -> None:
    region = await opened(tmp_path, "pseudonymous")
    report = await region.extractor().make(ExportPolicy.PSEUDONYMOUS, region.out)
    content = (region.out / sequences_file("us-east")).read_bytes()
    lines = [msgspec.json.decode(line, type=SequenceExtract) for line in content.splitlines()]
    assert (report.users, report.records, len(lines)) == (USERS, USERS, USERS)
    assert {one.items for one in lines} == {COMMON}
    assert {one.hours for one in lines} == {(NOW_MS // 3_600_000,) * 3}
    period = NOW_MS // PERIOD_MS
    assert {one.key for one in lines} == {key_of(KEYS, subject, period) for subject in region.subjects}
    for secret in (*region.subjects, user_subject(KEYS, "opted-out"), RARE, "own-1", "of-the", "person"):
        assert secret.encode() not in content
    assert key_of(KEYS, region.subjects[0], period) != key_of(KEYS, region.subjects[0], period + 1)


async def test_who_was_erased_is_in_no_extract_behind_it(tmp_path: Path) -> None:
    region = await opened(tmp_path, "pseudonymous")
    erased = region.subjects[7]
    await region.store.forget(erased, Erasure(erased_ms=NOW_MS + 99, through={}))
    report = await region.extractor().make(ExportPolicy.PSEUDONYMOUS, region.out)
    content = (region.out / sequences_file("us-east")).read_bytes()
    assert (report.users, len(content.splitlines())) == (USERS - 1, USERS - 1)
    assert key_of(KEYS, erased, NOW_MS // PERIOD_MS).encode() not in content


async def test_an_extract_is_two_lines_of_the_account_whoever_is_in_it(tmp_path: Path) -> None:
    region = await opened(tmp_path, "pseudonymous")
    await region.extractor().make(ExportPolicy.PSEUDONYMOUS, region.out)
    (_, first, why), (action, last, detail) = region.noted
    assert (first, last, action) == ("asked", "done", "extract pseudonymous")
    assert why.startswith("for central")
    read = BulkRead(digest_key(KEYS))  # who has the key and the list can tell that it was this list, in any order
    read.touch_each("histories", [*reversed(region.subjects), *region.subjects])
    assert detail == read.detail
    assert detail.startswith(f"{2 * USERS} histories")
    other = BulkRead(digest_key(KEYS))
    other.touch_each("histories", [*region.subjects, *region.subjects[:-1], "0" * 32])
    assert other.detail != detail


async def test_an_extract_that_breaks_off_leaves_no_file_and_says_what_it_had_read(tmp_path: Path) -> None:
    region = await opened(tmp_path, "pseudonymous")
    whole, calls = region.store.walk, 0

    async def walk(*, after: str, limit: int) -> Walk:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise StoreUnavailableError("the store is gone")
        return await whole(after=after, limit=limit)

    region.store.walk = walk  # type: ignore[method-assign]
    with pytest.raises(StoreUnavailableError):
        await region.extractor().make(ExportPolicy.PSEUDONYMOUS, region.out)
    assert list(region.out.iterdir()) == []
    assert [(outcome, detail.split(";")[0]) for _, outcome, detail in region.noted][1] == (
        "failed", f"{USERS} histories"
    )  # fmt: skip


async def test_more_users_than_an_extract_takes_is_said_and_nothing_is_written(tmp_path: Path) -> None:
    region = await opened(tmp_path, "pseudonymous", extracts=ExtractSettings(users_max=10))
    with pytest.raises(OverloadedError, match="more than 10 users"):
        await region.extractor().make(ExportPolicy.PSEUDONYMOUS, region.out)
    assert not region.out.exists()


async def test_aggregates_hold_no_item_that_few_have_and_are_booked(tmp_path: Path) -> None:
    settings = ExtractSettings(
        users_min=5, epsilon=1.9, delta=1e-4, items_per_user_max=3, paired_per_user_max=3, epsilon_a_year_max=4.0
    )  # fmt: skip
    region = Region(tmp_path, "aggregates", extracts=settings)
    rows = [a_row(f"{number:032x}", [f"own-{number}", *COMMON]) for number in range(400)]
    await region.store.write_rows(rows)
    report = await region.extractor().make(ExportPolicy.AGGREGATES, region.out)
    found = msgspec.json.decode((region.out / aggregates_file("us-east")).read_bytes(), type=AggregateExtract)
    assert {one.item: one.users for one in found.items} == dict.fromkeys(COMMON, 400)
    assert {(one.first, one.second): one.users for one in found.pairs} == {
        ("common-1", "common-2"): 400, ("common-1", "common-3"): 400, ("common-2", "common-3"): 400
    }  # fmt: skip
    assert report.epsilon_of_year == 1.9
    await region.extractor().make(ExportPolicy.AGGREGATES, region.out)
    with pytest.raises(ExtractBudgetError, match=r"epsilon 5\.700, above the region's 4\.000"):
        await region.extractor().make(ExportPolicy.AGGREGATES, region.out)
    region.clock.advance(366 * 86_400)
    assert (await region.extractor().make(ExportPolicy.AGGREGATES, region.out)).epsilon_of_year == 1.9


async def test_a_file_in_a_worlds_folder_and_the_command_agree(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    region = Region(tmp_path, "none")
    file = tmp_path / "region.json"
    for policy, code in (("none", 2), ("aggregates", 0)):
        settings = replace(region.settings, region="r", export_policy=policy)
        file.write_bytes(msgspec.json.encode(settings))
        assert await asyncio.to_thread(main, ["aggregates", "--settings", str(file), "--out", str(region.out)]) == code
        said = capsys.readouterr()
        assert ("lets no extract" in said.err) == (policy == "none")
        assert region.out.exists() == (policy != "none")
    assert json.loads(said.out)["records"] == 0


def test_a_policy_that_there_is_not_keeps_a_node_from_starting(tmp_path: Path) -> None:
    file = tmp_path / "region.json"
    document = msgspec.to_builtins(settings_in(tmp_path / "state"))
    file.write_bytes(msgspec.json.encode({**document, "export_policy": "all"}))
    with pytest.raises(SettingsError, match="'all' is no export policy: use one of none, aggregates, pseudonymous"):
        load_settings(file, RegionSettings)


def test_a_book_that_cannot_be_read_stops_extracts(tmp_path: Path) -> None:
    (tmp_path / "extracts.json").write_bytes(b"{")
    with pytest.raises(SettingsError, match="Restore it"):
        ExtractBudget(tmp_path, epsilon_a_year_max=4.0).book(1.0, now_ms=NOW_MS)


def test_noise_is_as_large_as_the_sums_say() -> None:
    sigmas: list[float] = []

    def noting(sigma: float) -> float:
        sigmas.append(sigma)
        return 0.0

    settings = ExtractSettings(users_min=5, epsilon=1.0, delta=1e-6, items_per_user_max=4, paired_per_user_max=3)
    items, pairs = ItemCounting(settings), PairCounting(settings, ["a", "b", "c", "d"])
    for _ in range(500):
        items.add(["a", "a", "b"])
        pairs.add(["a", "b"])
    assert [one.users for one in items.release(noting)] == [500, 500]
    assert [(one.first, one.second) for one in pairs.release(noting)] == [("a", "b")]
    assert sigmas[:2] == [pytest.approx(gaussian_sigma(2.0, epsilon=0.5, delta=2.5e-7))] * 2
    # Every pair of the released items is given noise, those that nobody has too.
    assert sigmas[2:] == [pytest.approx(gaussian_sigma(math.sqrt(3), epsilon=0.5, delta=5e-7))] * 6


def test_an_item_below_the_least_number_never_shows_whatever_the_noise() -> None:
    settings = ExtractSettings(users_min=20)
    counting = ItemCounting(settings)
    for _ in range(19):
        counting.add([RARE])
    assert counting.release(lambda _sigma: 1e9) == ()
