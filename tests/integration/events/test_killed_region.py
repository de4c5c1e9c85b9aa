"""A region's API and worker killed with -9 at random while events of every type flow in: each counts once."""

from pathlib import Path

from infra.bench.intake.region import killable_region
from infra.bench.intake.stream import stream_to
from infra.bench.intake.survival import survive
from infra.plumbing.clock import SystemClock
from infra.plumbing.progress import SilentProgress
from tests.integration.events.test_survival import PYTHON

EVENTS, SUBJECTS, KILLS = 8_000, 20, 6
CLOCK = SystemClock()


async def test_nothing_acknowledged_is_lost_and_nothing_counts_twice(tmp_path: Path) -> None:
    with killable_region(tmp_path / "region", python=PYTHON, clock=CLOCK, parts={"history_max": EVENTS}) as region:
        for name in ("api", "worker"):
            region.start(name)
            region.await_live(name)
        stream = stream_to(
            region.settings.port, region.service_key, CLOCK, subjects=SUBJECTS, per_subject=EVENTS // SUBJECTS,
            first_ms=lambda: CLOCK.now_ms() - EVENTS,
        )  # fmt: skip
        survived = await survive(region, stream, kills=KILLS, seed=3, progress=SilentProgress())
    assert survived.caught_up
    assert survived.acknowledged == EVENTS
    assert survived.account.worst == (0, 0), (survived.account.lost, survived.account.doubled)
    assert survived.dead_letters == 0
    assert survived.records == EVENTS, "the embedded log itself knows what it has"
