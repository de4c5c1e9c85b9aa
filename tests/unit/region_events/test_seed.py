import json
import sys
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from infra.contracts.events import EventType, enters_history
from infra.plumbing.clock import Clock, ManualClock
from infra.plumbing.errors import InvalidInputError
from infra.plumbing.keys import RegionKeys
from infra.plumbing.progress import SilentProgress
from region.seed import __main__ as seed_main
from region.seed import seeding
from region.seed.reading import read_interactions, read_items
from region.seed.seeding import SeedReport, _records, seed, without_last
from region.seed.sorting import Interaction, open_sorter
from region.store.applying import ApplyRules
from region.store.memory import MemoryStore
from region.store.port import OffsetEvent, Session, SubjectCounters, UserRow
from region.store.subjects import user_subject

KEYS = RegionKeys.generate("us-east")
HISTORY_MAX = 4
RULES = ApplyRules(history_max=HISTORY_MAX)


def write(folder: Path, interactions: str, users: str | None = "user_id,region\nu1,us-east\nu2,us-west\n") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "interactions.csv").write_text(interactions)
    if users is not None:
        (folder / "users.csv").write_text(users)
    return folder


class Seeded:
    def __init__(self, report: SeedReport, store: MemoryStore, dataset: Path) -> None:
        self.report, self.store, self.dataset = report, store, dataset

    def records(self) -> list[OffsetEvent]:
        """Everything of u1 in order, as events."""
        with open_sorter() as sorter:
            sorter.add_items(read_items(self.dataset / "items.csv"))
            found = read_interactions(self.dataset / "interactions.csv", region=None)
            sorter.add_interactions(one for one in found if one is not None)
            ordered = list(sorter.ordered(residents_only=False))
        return list(_records(user_subject(KEYS, "u1"), ordered, first=1))

    async def row(self, user: str) -> UserRow | None:
        return await self.store.read(user_subject(KEYS, user))

    async def items(self, user: str) -> list[str]:
        row = await self.row(user)
        assert row is not None
        return [entry.item for entry in row.history]


async def run(
    dataset: Path, *, hold_out_last: bool = False, region: str = "us-east", clock: Clock | None = None,
    store: MemoryStore | None = None,
) -> Seeded:  # fmt: skip
    clock = clock or ManualClock()
    store = store or MemoryStore(clock=clock, history_max=HISTORY_MAX)
    report = await seed(
        dataset, region=region, keys=KEYS, store=store, rules=RULES, clock=clock, hold_out_last=hold_out_last,
        progress=SilentProgress(),
    )  # fmt: skip
    return Seeded(report, store, dataset)


async def test_residents_rows_hold_their_history_in_order(tmp_path: Path) -> None:
    dataset = write(
        tmp_path,
        "user_id,item_id,timestamp,value\nu1,c,30,5\nu2,x,1,5\nu1,a,10.5,1\nu1,tie1,20,3\nu1,tie2,20,\n",
    )
    seeded = await run(dataset)
    row = await seeded.row("u1")
    assert row is not None
    assert [(one.item, one.strength, one.at_ms) for one in row.history] == [
        ("a", 1, 10_500), ("tie1", 3, 20_000), ("tie2", 3, 20_000), ("c", 5, 30_000),
    ]  # fmt: skip
    assert (row.version, row.last_event_ms) == (1, 30_000)
    assert await seeded.row("u2") is None, "another region's user"
    assert seeded.report == SeedReport(subjects=1, events_read=5, events_kept=4, held_out=0)


async def test_the_last_event_can_be_held_out_with_all_that_came_behind_it(tmp_path: Path) -> None:
    dataset = write(
        tmp_path,
        "user_id,item_id,timestamp,event_type\n"
        "u1,a,10,view\nu1,s,15,impression\nu1,b,20,like\nu1,last,20,purchase\nu1,s,25,impression\nu1,z,30,skip\n",
    )
    held = await run(dataset, hold_out_last=True)
    row = await held.row("u1")
    assert row is not None
    assert await held.items("u1") == ["a", "b"]
    assert (row.impressions, row.last_event_ms, held.report.held_out) == (1, 20_000, 1)
    whole = await (await run(dataset)).row("u1")
    assert whole is not None
    assert (whole.impressions, whole.last_event_ms, len(whole.history)) == (2, 30_000, 3)


async def test_a_user_with_one_event_has_an_empty_history_when_it_is_held_out(tmp_path: Path) -> None:
    seeded = await run(write(tmp_path, "user_id,item_id,timestamp\nu1,a,10\n"), hold_out_last=True)
    assert await seeded.items("u1") == []


async def test_histories_are_bounded_to_the_latest(tmp_path: Path) -> None:
    lines = "".join(f"u1,i{number},{number}\n" for number in range(10))
    dataset = write(tmp_path, "user_id,item_id,timestamp\n" + lines)
    assert await (await run(dataset)).items("u1") == ["i6", "i7", "i8", "i9"]
    assert await (await run(dataset, hold_out_last=True)).items("u1") == ["i5", "i6", "i7", "i8"]


async def test_regions_may_stand_beside_the_interactions(tmp_path: Path) -> None:
    dataset = write(
        tmp_path, "\ufeffregion,user_id,item_id,timestamp\nus-east,u1,a,1\nus-west,u2,b,2\n\nus-east,u3,c,3\n",
        users="user_id,name\nu1,x\n",
    )  # fmt: skip
    seeded = await run(dataset)
    assert seeded.report == SeedReport(subjects=2, events_read=3, events_kept=2, held_out=0)
    assert await seeded.items("u3") == ["c"]


async def test_many_users_are_written_in_several_transactions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seeding, "ROWS_TOGETHER", 2)
    monkeypatch.setattr(seeding, "_PROGRESS_EVERY", 2)
    users = "user_id,region\n" + "".join(f"u{number},us-east\n" for number in range(5))
    lines = "".join(f"u{number},i{number},1\n" for number in range(5))
    seeded = await run(write(tmp_path, "user_id,item_id,timestamp\n" + lines, users))
    assert [await seeded.items(f"u{number}") for number in range(5)] == [[f"i{number}"] for number in range(5)]


async def test_a_region_without_users_is_no_error(tmp_path: Path) -> None:
    seeded = await run(write(tmp_path, "user_id,item_id,timestamp\nu1,a,10\n"), region="us-central")
    assert seeded.report == SeedReport(subjects=0, events_read=1, events_kept=0, held_out=0)


HEADER = "user_id,item_id,timestamp,value,event_type\n"


@pytest.mark.parametrize(
    ("interactions", "said"),
    [
        ("", "line 1: the first line names no user_id, item_id, timestamp"),
        ("user_id,item_id\nu1,a\n", "names no timestamp"),
        ("user_id,user_id,item_id,timestamp\n", "twice"),
        (HEADER, "no row behind its first line"),
        (HEADER + "u1,a,1,,\nu1,b\n", "interactions.csv, line 3: 2 cells stand under 5 names"),
        (HEADER + "u1,a,soon,,\n", "line 2: timestamp must be a number"),
        (HEADER + "u1,a,nan,,\n", "timestamp must be a number"),
        (HEADER + "u1,a,-1,,\n", "timestamp must be Unix time in seconds"),
        (HEADER + "u1,a,1700000000000,,\n", "timestamp must be Unix time in seconds"),
        (HEADER + "u1,,1,,\n", "item_id must be"),
        (HEADER + ",a,1,,\n", "user_id must be"),
        (HEADER + "u1," + "x" * 129 + ",1,,\n", "item_id must be"),
        (HEADER + "u1,a,1,inf,\n", "value must be a number"),
        (HEADER + "u1,a,1,,bought\n", "event_type is not known"),
        (HEADER + 'u1,"a' + "x" * 140_000 + '",1,,\n', "field larger than field limit"),
    ],
)
async def test_a_dataset_that_cannot_be_used_writes_nothing(tmp_path: Path, interactions: str, said: str) -> None:
    store = MemoryStore(clock=ManualClock())
    dataset = write(tmp_path, interactions)
    with pytest.raises(InvalidInputError, match=said):
        await seed(
            dataset, region="us-east", keys=KEYS, store=store, rules=RULES, clock=ManualClock(), hold_out_last=False,
            progress=SilentProgress(),
        )  # fmt: skip
    assert await store.read(user_subject(KEYS, "u1")) is None


async def test_files_that_are_not_there_or_not_text_are_said(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"cannot read .*interactions.csv"):
        await run(tmp_path)
    dataset = write(tmp_path, "")
    (dataset / "interactions.csv").write_bytes("user_id,item_id,timestamp\nu1,caf\u00e9,1\n".encode("latin-1"))
    with pytest.raises(InvalidInputError, match="not UTF-8"):
        await run(dataset)


ROWS = st.lists(
    st.tuples(st.sampled_from(["u1", "u2"]), st.integers(0, 5), st.sampled_from(EventType)), min_size=1, max_size=20
)


@given(rows=ROWS)
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_each_row_is_what_sorting_in_memory_gives(tmp_path: Path, rows: list[tuple[str, int, EventType]]) -> None:
    lines = "".join(f"{user},i{place},{at},{kind}\n" for place, (user, at, kind) in enumerate(rows))
    seeded = await run(write(tmp_path, "user_id,item_id,timestamp,event_type\n" + lines))
    mine = sorted((at, place, kind) for place, (user, at, kind) in enumerate(rows) if user == "u1")
    wanted = [f"i{place}" for _, place, kind in mine if enters_history(kind)]
    row = await seeded.row("u1")
    if row is None:
        assert mine == []
    else:
        assert [entry.item for entry in row.history] == wanted[-HISTORY_MAX:]
        assert row.impressions == sum(kind is EventType.IMPRESSION for _, _, kind in mine)


def test_only_shown_and_skipped_holds_nothing_out() -> None:
    shown = [Interaction("u", "a", 1, EventType.IMPRESSION), Interaction("u", "b", 2, EventType.SKIP)]
    assert without_last(shown) == (shown, 0)


def node(folder: Path) -> Path:
    KEYS.save(folder / "keys.json")
    path = folder / "settings.json"
    path.write_text(
        json.dumps(
            {
                "node": "n", "region": "us-east", "port": 1, "worker_port": 2, "state_directory": str(folder / "state"),
                "repository_url": "", "trusted_root": "", "keys_file": str(folder / "keys.json"), "trust_file": "",
                "grid": "memory",
            }
        )
    )  # fmt: skip
    return path


def test_the_command_says_counts_or_what_was_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = write(tmp_path / "data", "user_id,item_id,timestamp\nu1,a,10\nu1,b,20\n")
    arguments = ["seed", "--settings", str(node(tmp_path)), "--dataset", str(dataset)]
    monkeypatch.setattr(sys, "argv", [*arguments, "--hold-out-last"])
    assert seed_main.main() == 0
    said = json.loads(capsys.readouterr().out)
    assert said == {"subjects": 1, "events_read": 2, "events_kept": 1, "held_out": 1, "events_counted": 0}
    monkeypatch.setattr(sys, "argv", [*arguments[:-1], str(tmp_path / "none")])
    assert seed_main.main() == 2
    assert "error: cannot read" in capsys.readouterr().err


NOW_S = ManualClock().now_ms() // 1000
ITEMS = "item_id,title,category,brand,creator\na,A,drama|war,acme,ann\nb,B,drama,,bob\n"
DID = (
    f"u1,a,{NOW_S - 90},view,\nu1,b,{NOW_S - 80},watch,0.9\nu1,a,{NOW_S - 70},click,\nu1,b,{NOW_S - 60},skip,\n"
    f"u1,a,{NOW_S - 50},purchase,\nu1,b,{NOW_S - 40},impression,\nu1,a,{NOW_S - 900_000_000},like,\n"
)


async def test_a_seeded_row_has_the_features_that_its_events_would_have_made(tmp_path: Path) -> None:
    dataset = write(tmp_path, "user_id,item_id,timestamp,event_type,value\n" + DID)
    (dataset / "items.csv").write_text(ITEMS)
    seeded = await run(dataset)
    row = await seeded.row("u1")
    assert row is not None
    assert row.counters == SubjectCounters(interactions=5, clicks=1, skips=1, purchases=1)
    assert row.session == Session((NOW_S - 90) * 1000, (NOW_S - 40) * 1000, 6)
    leanings = {kind: row.leanings(kind, NOW_S * 1000) for kind in row.affinities}
    assert set(leanings) == {"category", "brand", "creator"}
    assert leanings["creator"]["ann"] > leanings["creator"]["bob"] > 0.0
    # Replayed through the log the same events make the same row.
    log = MemoryStore(clock=ManualClock(), history_max=HISTORY_MAX)
    await log.apply([msgspec.structs.replace(one, partition=0) for one in seeded.records()])
    replayed = await log.read(row.subject)
    assert replayed is not None
    assert (replayed.history, replayed.affinities, replayed.session, replayed.counters) == (
        row.history, row.affinities, row.session, row.counters,
    )  # fmt: skip


async def test_what_was_done_lately_trends_and_counts_once_however_often_it_is_seeded(tmp_path: Path) -> None:
    dataset = write(tmp_path, "user_id,item_id,timestamp,event_type,value\n" + DID)
    (dataset / "items.csv").write_text(ITEMS)
    clock = ManualClock()
    first = await run(dataset, clock=clock)
    assert first.report.events_counted == 6, "the like is of long ago"
    again = await run(dataset, clock=clock, store=first.store)
    trends = {one.item: one.count for one in await again.store.trending(since_ms=clock.now_ms() - 600_000, limit=9)}
    assert trends == {"a": 5.0, "b": 2.0}
    war = await again.store.trending(since_ms=clock.now_ms() - 600_000, limit=9, category="war")
    assert [one.item for one in war] == ["a"]
    (top, other) = await again.store.item_counters(since_ms=clock.now_ms() - 600_000, limit=9)
    assert (top.item, top.clicks, top.purchases, top.interactions) == ("a", 1, 1, 3)
    assert (other.item, other.impressions, other.interactions) == ("b", 1, 1)
