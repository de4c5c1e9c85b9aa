"""Batch features are the streaming features: on DuckDB, for everybody, from the exported log."""

import asyncio
import random
from pathlib import Path

import ibis
import msgspec
import pyarrow.parquet as pq
import pytest

from infra.contracts.events import EventType, LoggedEvent
from infra.contracts.features import AFFINITY_KINDS
from infra.plumbing.clock import ManualClock
from infra.plumbing.progress import SilentProgress
from region.batch.__main__ import main
from region.batch.definitions import COUNTED
from region.batch.parity import ParityReport, check_parity
from region.events.exporting import export_events
from region.events.memory import MemoryLog
from region.privacy.bulk import untouched
from region.sampling.served import ServedSample
from region.store.applying import ApplyRules
from region.store.memory import MemoryStore
from region.store.port import SubjectCounters, UserRow
from tests.contract.building import NOW_MS, VISITOR, logged

# Ibis 12 still calls DuckDB by the name that DuckDB 2 calls old.
pytestmark = pytest.mark.filterwarnings("ignore:fetch_arrow_table:DeprecationWarning")
RULES = ApplyRules(history_max=20)
SUBJECTS = [f"{number:032x}" for number in range(12)]
CATEGORIES = ("Drama", "War", "Comedy", "Noir")
KINDS = [kind for kind in EventType if kind is not EventType.SEARCH]


def some_events(count: int, *, seed: int, late: float = 0.0) -> list[LoggedEvent]:
    """Events of everybody, in order of time but for a share that is late."""
    rng = random.Random(seed)
    made, at_ms = [], NOW_MS - 40 * 86_400_000
    for number in range(count):
        at_ms += rng.choice([1_000, 60_000, 3_000_000])
        back_ms = rng.randrange(5_000_000) if rng.random() < late else 0
        made.append(
            logged(
                number, subject=rng.choice(SUBJECTS), item=f"i{rng.randrange(30)}", kind=rng.choice(KINDS),
                at_ms=at_ms - back_ms, received_ms=at_ms, brand=rng.choice(["", "acme", "zeta"]),
                categories=tuple(rng.sample(CATEGORIES, rng.randrange(3))), creator=rng.choice(["", "ana"]),
            )
        )  # fmt: skip
    return made


def sample_of(row: UserRow, now_ms: int, name: str) -> ServedSample:
    """What the region's sampler notes, without a release."""
    return ServedSample(
        sample=name, subject=row.subject, offset=row.offset, now_ms=now_ms, release="r", imported=row.imported,
        items=tuple(entry.item for entry in row.history), strengths=tuple(entry.strength for entry in row.history),
        times_ms=tuple(entry.at_ms for entry in row.history), impressions=row.impressions, counters=row.counters,
        session=row.session, affinities={kind: row.leanings(kind, now_ms) for kind in AFFINITY_KINDS},
    )  # fmt: skip


class World:
    """A region's log and store; requests are answered, and sampled, while events come in."""

    def __init__(self, path: Path) -> None:
        self.clock = ManualClock(wall_ms=NOW_MS)
        self.log, self.store = MemoryLog(), MemoryStore(clock=self.clock, rules=RULES)
        self.samples: list[ServedSample] = []
        self.path = path

    async def live(self, events: list[LoggedEvent], *, sample_every: int = 40) -> None:
        for start in range(0, len(events), sample_every):
            part = events[start : start + sample_every]
            await self.log.append(part)
            position = {0: 0} | await self.store.applied_offsets()
            await self.store.apply(await self.log.read(after=position, limit=1000))
            row = await self.store.read(part[-1].subject)
            if row is not None:
                self.samples.append(sample_of(row, part[-1].received_ms + 5_000, f"s{start}"))

    async def export(self) -> Path:
        await export_events(
            log=self.log, store=self.store, rules=RULES, samples=self.samples, to=self.path / "export",
            progress=SilentProgress(), touch=untouched,
        )  # fmt: skip
        return self.path / "export"

    async def parity(self) -> ParityReport:
        folder = await self.export()
        work = self.path / "work"
        work.mkdir(exist_ok=True)
        return await asyncio.to_thread(
            check_parity, folder, connection=ibis.duckdb.connect(), history_max=RULES.history_max,
            behaviour_life_ms=RULES.behaviour_life_ms, work=work,
        )  # fmt: skip


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


async def test_serving_and_training_agree_on_every_feature(world: World) -> None:
    await world.live(some_events(600, seed=1))
    report = await world.parity()
    assert report.skews == ()
    assert report.samples == 15
    assert set(report.compared) >= {"history.items", "affinity.category", "session", "counters.interactions"}
    assert min(report.compared.values()) == 15


async def test_late_events_are_no_skew(world: World) -> None:
    await world.live(some_events(600, seed=2, late=0.3))
    report = await world.parity()
    assert report.skews == ()
    assert report.left_out["sessions with events that came late"] > 0


@pytest.mark.parametrize(
    ("planted", "feature", "worst"),
    [
        ({"impressions": 1_000_000}, "counters.impressions", 1e5),
        ({"strengths": (5,) * 20}, "history.strengths", 1.0),
        ({"affinities": {"category": {"Drama": 99.0}}}, "affinity.category", 90.0),
        ({"counters": SubjectCounters(interactions=10**6)}, "counters.interactions", 1e5),
        ({"leanings": {"Drama": 7.0}}, "ranker.category_affinity", 6.0),
    ],
)
async def test_a_planted_skew_is_seen(
    world: World, planted: dict[str, object], feature: str, worst: float
) -> None:  # fmt: skip
    """A store that computes something else than the definition: the check names it, counts it, says how bad."""
    await world.live(some_events(400, seed=3))
    world.samples[4] = msgspec.structs.replace(world.samples[4], **planted)
    found = {skew.feature: skew for skew in (await world.parity()).skews}
    assert found[feature].samples == 1
    assert found[feature].worst >= worst


async def test_a_changed_weight_is_a_skew(world: World) -> None:
    await world.live(some_events(300, seed=4))
    events = dict(RULES.weights.events)
    events[EventType.LIKE] = msgspec.structs.replace(events[EventType.LIKE], affinity=0.1, strength=3)
    changed = ApplyRules(history_max=20, weights=msgspec.structs.replace(RULES.weights, events=events))
    folder = world.path / "export"
    await export_events(
        log=world.log,
        store=world.store,
        rules=changed,
        samples=world.samples,
        to=folder,
        progress=SilentProgress(),
        touch=untouched,
    )
    work = world.path / "work"
    work.mkdir()
    report = await asyncio.to_thread(
        check_parity, folder, connection=ibis.duckdb.connect(), history_max=20,
        behaviour_life_ms=RULES.behaviour_life_ms, work=work,
    )  # fmt: skip
    assert {"affinity.category", "history.strengths"} <= {skew.feature for skew in report.skews}


async def test_what_an_opted_out_user_did_and_sessions_are_not_exported(world: World) -> None:
    await world.live(some_events(50, seed=5))
    await world.store.set_opt_out(SUBJECTS[0], opted_out=True)
    more = [logged(9000 + n, subject=subject, item="secret") for n, subject in enumerate((SUBJECTS[0], VISITOR))]
    await world.live([*more, logged(9100, subject=SUBJECTS[1], kind=EventType.SEARCH, query="a wish")])
    text = (await world.export() / "events.ndjson").read_text()
    assert "secret" not in text
    assert "wish" not in text
    assert SUBJECTS[1] in text


async def test_an_import_is_left_out_and_counted(world: World) -> None:
    await world.store.write_rows([UserRow(subject=SUBJECTS[0])])
    await world.live([logged(1, subject=SUBJECTS[0])])
    report = await world.parity()
    assert (report.skews, report.left_out) == ((), {"rows that began as an import": 1})


async def test_the_batch_is_what_the_live_store_says(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    """Differences 0, for every user and every item, through the program that the command runs."""
    await world.live(some_events(800, seed=6))
    folder = await world.export()
    out = world.path / "features"
    assert await asyncio.to_thread(main, ["features", "--export", str(folder), "--out", str(out)]) == 0
    assert '"engine":"duckdb"' in capsys.readouterr().out
    tables = {path.stem: pq.read_table(path).to_pylist() for path in out.glob("*.parquet")}
    for subject in SUBJECTS:
        row = await world.store.read(subject)
        assert row is not None
        own = {name: [one for one in rows if one.get("key") == subject] for name, rows in tables.items()}
        history = sorted(own["history"], key=lambda one: -one["position"])
        assert [(one["item"], one["strength"], one["at_ms"]) for one in history] == [
            (entry.item, entry.strength, entry.at_ms) for entry in row.history
        ]
        (counters,) = own["counters"]
        assert {name: counters[name] for name in COUNTED} == {name: getattr(row.counters, name) for name in COUNTED}
        assert {(one["kind"], one["name"]) for one in own["affinities"]} == {
            (kind, one.name) for kind, values in row.affinities.items() for one in values
        }
    live = {one.item: one for one in await world.store.item_counters(since_ms=0, limit=1000)}
    for name in ("impressions", "clicks", "interactions", "purchases"):
        batch: dict[str, int] = {}
        for one in tables["items"]:
            batch[one["item"]] = batch.get(one["item"], 0) + one[name]
        assert batch == {item: getattr(counters, name) for item, counters in live.items()}
    for category in ("", *CATEGORIES):
        points: dict[str, float] = {}
        for one in tables["trending"]:
            if one["category"] == category:
                points[one["item"]] = points.get(one["item"], 0.0) + one["points"]
        trend = await world.store.trending(since_ms=0, limit=1000, category=category or None)
        assert points == {one.item: one.count for one in trend}


async def test_a_folder_that_is_no_export_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert await asyncio.to_thread(main, ["parity", "--export", str(tmp_path)]) == 2
    assert "is not an export" in capsys.readouterr().err
