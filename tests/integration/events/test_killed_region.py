"""A region's API and worker killed with -9 at random while events of every type flow in: each counts once."""

import asyncio
from pathlib import Path

from infra.bench.intake.counting import applied
from infra.bench.intake.region import killable_region
from infra.bench.intake.stream import stream_to, subject_of
from infra.bench.intake.survival import survive
from infra.cli.__main__ import main
from infra.plumbing.clock import SystemClock
from infra.plumbing.progress import SilentProgress
from region.events.dead_letters import replay_letters
from region.events.opening import open_dead_letters, open_log
from region.events.records import NOTHING, encode_record
from region.settings import RegionSettings
from region.store.opening import open_store
from region.store.port import OffsetEvent
from tests.contract.building import logged
from tests.integration.events.test_survival import PYTHON

EVENTS, SUBJECTS, KILLS = 8_000, 20, 6
CLOCK = SystemClock()


async def replay_a_letter(settings: RegionSettings) -> None:
    """A record that was put aside although it is good goes back into the log, and the worker applies it."""
    log, letters, store = open_log(settings), open_dead_letters(settings), open_store(settings, read_timeout_s=30.0)
    try:
        content = encode_record(logged(1, subject=subject_of(0), item="from-a-letter", received_ms=CLOCK.now_ms()))
        await letters.add([OffsetEvent(offset=1, logged=NOTHING, broken="planted", content=content)], now_ms=1)
        report = await replay_letters(letters, log)
        assert (report.replayed, report.left) == (1, 0)
        assert await applied(log, store)
        row = await store.read(subject_of(0))
        assert row is not None
        assert "from-a-letter" in {entry.item for entry in row.history}
    finally:
        for part in (log, letters, store):
            await part.close()


async def test_nothing_acknowledged_is_lost_and_nothing_counts_twice(tmp_path: Path) -> None:
    with killable_region(tmp_path / "region", python=PYTHON, clock=CLOCK, parts={"history_max": EVENTS}) as region:
        for name in ("api", "worker"):
            region.start(name)
            region.await_live(name)
        stream = stream_to(
            region.settings.port, region.service_key, CLOCK, subjects=SUBJECTS, per_subject=EVENTS // SUBJECTS,
            first_ms=CLOCK.now_ms() - EVENTS,
        )  # fmt: skip
        survived = await survive(region, stream, kills=KILLS, seed=3, progress=SilentProgress())
        # One more by way of the dead letters; then everything is made again from the log.
        await replay_a_letter(region.settings)
        assert await asyncio.to_thread(main, ["events", "replay", "--settings", str(region.place / "region.json")]) == 0
    assert survived.caught_up
    assert survived.acknowledged == EVENTS
    assert survived.account.worst == (0, 0), (survived.account.lost, survived.account.doubled)
    assert survived.dead_letters == 0
    assert survived.records == EVENTS, "the embedded log itself knows what it has"
