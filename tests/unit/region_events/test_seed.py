import json
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from infra.contracts.events import EventType, enters_history
from infra.plumbing.clock import ManualClock
from infra.plumbing.errors import InvalidInputError
from infra.plumbing.keys import RegionKeys
from infra.plumbing.progress import SilentProgress
from region.seed import __main__ as seed_main
from region.seed import seeding
from region.seed.seeding import SeedReport, build_row, seed
from region.seed.sorting import IMPRESSION, SKIP, Interaction
from region.store.memory import MemoryStore
from region.store.port import UserRow
from region.store.subjects import user_subject
from tests.contract.building import ALICE

KEYS = RegionKeys.generate("us-east")
HISTORY_MAX = 4


def write(folder: Path, interactions: str, users: str | None = "user_id,region\nu1,us-east\nu2,us-west\n") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "interactions.csv").write_text(interactions)
    if users is not None:
        (folder / "users.csv").write_text(users)
    return folder


class Seeded:
    def __init__(self, report: SeedReport, store: MemoryStore) -> None:
        self.report, self.store = report, store

    async def row(self, user: str) -> UserRow | None:
        return await self.store.read(user_subject(KEYS, user))

    async def items(self, user: str) -> list[str]:
        row = await self.row(user)
        assert row is not None
        return [entry.item for entry in row.history]


async def run(dataset: Path, *, hold_out_last: bool = False, region: str = "us-east") -> Seeded:
    store = MemoryStore(clock=ManualClock(), history_max=HISTORY_MAX)
    report = await seed(
        dataset, region=region, keys=KEYS, store=store, history_max=HISTORY_MAX, hold_out_last=hold_out_last,
        progress=SilentProgress(),
    )  # fmt: skip
    return Seeded(report, store)


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
            dataset, region="us-east", keys=KEYS, store=store, history_max=5, hold_out_last=False,
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
    shown = [Interaction("u", "a", 1, IMPRESSION), Interaction("u", "b", 2, SKIP)]
    row, held = build_row(ALICE, shown, history_max=5, hold_out_last=True)
    assert (row.history, row.impressions, row.last_event_ms, held) == ((), 1, 2, 0)


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
    assert json.loads(capsys.readouterr().out) == {"subjects": 1, "events_read": 2, "events_kept": 1, "held_out": 1}
    monkeypatch.setattr(sys, "argv", [*arguments[:-1], str(tmp_path / "none")])
    assert seed_main.main() == 2
    assert "error: cannot read" in capsys.readouterr().err
