"""Canaries on simulated callers: bad ones are rolled back by themselves, harmless ones are not.

The region's own rooms (`region.releases.trials`, `region.api.trying`) run in virtual time, over three hours a trial, on
simulated callers: subjects who differ in how often they ask and how inclined they are to click, one in CHRONIC of them
with lists that are always slow and degraded, and callers without a subject, who are answered at once. Only loading and
ranking are made up. Bad candidates: a random ranker (a fifth of the clicks), one that is 300 ms slower, one with empty
lists. Harmless ones (A/A) are the active release again, and ought to be promoted by themselves: with the margin that a
region of so few people would set (`margin`, the share of clicks that may be lost). That the margin is kept is shown by
candidates that lose just that share, which may be promoted as rarely as alpha says.
Options: `trials` (of A/A, default 200), `calls` (of each trial at most, default 24000), `margin` (default 0.2), `seed`.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
from prometheus_client import CollectorRegistry

from infra.bench.catalogue import BenchRequest
from infra.bench.results import Measured, at_least, at_most
from infra.contracts.events import Event, EventType
from infra.contracts.messages import (
    TRIAL_ARM,
    HomeAnswer,
    HomeRequest,
    Lifetime,
    Reason,
    ReasonCode,
    RecommendationType,
    SlateItem,
    Source,
)
from infra.plumbing.clock import ManualClock
from region.api.trying import TrialDesk
from region.funnel.recommender import Lease, Recommender
from region.funnel.release import LoadedRelease
from region.releases.audit import AuditLog
from region.releases.messages import SwitchAnswer
from region.releases.operations import Operations
from region.releases.slots import Slot
from region.releases.store import ReleaseDirectory
from region.releases.trial import Decision, TrialKind, TrialPlan
from region.releases.trials import Trials

BAD = ("random ranker", "300 ms slower", "empty lists")
SUBJECTS = 16_000
CALLS_PER_S = 40.0
LOOK_S = 70.0
"""Virtual time between two looks, of which the calls take one second."""
CHRONIC = 33
"""One subject in so many has a row that is long to read and models that do not know it: under any release."""
CHRONIC_MS = 200.0
ANONYMOUS = 0.3
"""Share of the calls that name no subject."""
_WHY = Reason(code=ReasonCode.POPULAR, text="")
_ITEMS = (SlateItem(item="a", score=1.0, source=Source.POPULAR, reason=_WHY),)
_LIFE = Lifetime(max_age_s=1.0, stale_while_revalidate_s=0.0, stale_if_error_s=0.0)


@dataclass
class Candidate:
    """What a simulated release does to those who are given it."""

    slower_ms: float = 0.0
    clicks: float = 1.0
    """Of what the active release gets."""
    empty: bool = False


CANDIDATES = {
    "random ranker": Candidate(clicks=0.2),
    "300 ms slower": Candidate(slower_ms=300.0),
    "empty lists": Candidate(empty=True),
}


class SimulatedRecommender:
    """Takes the place of `Recommender`: answers take virtual time."""

    def __init__(self, candidate: Candidate, clock: ManualClock, rng: np.random.Generator) -> None:
        self._candidate = candidate
        self._clock = clock
        self._rng = rng

    async def home(self, request: HomeRequest, *, lease: Lease | None = None) -> HomeAnswer:
        """A list of the release that `lease` holds."""
        if lease is not None:
            with lease():
                self._clock.advance(self._candidate.slower_ms / 1000)
        chronic = request.subject is not None and int(request.subject[1:]) % CHRONIC == 0
        quick = request.subject is None
        self._clock.advance(float(self._rng.lognormal(-6.3 if quick else -5.3, 0.6)) + chronic * CHRONIC_MS / 1000)
        items = () if lease is not None and self._candidate.empty else _ITEMS
        return HomeAnswer(
            items=items, release="r", region="here", personal=request.subject is not None, lifetime=_LIFE,
            generated_at_ms=self._clock.now_ms(), degraded=("user-tower",) if chronic else (),
        )  # fmt: skip


class Switches:
    """Takes the place of `Activator`: nothing is loaded."""

    active_release: str | None = "0" * 20

    def __init__(self, audit: AuditLog, clock: ManualClock) -> None:
        self.operations = Operations(audit=audit, clock=clock)

    async def load_beside(self, release: str, *, action: str, operator: str) -> Slot[LoadedRelease]:
        """A slot that holds nothing."""
        await self.operations.record(action, operator, self.active_release, release, "done", "begun")
        return Slot(cast("ReleaseDirectory", None), cast("LoadedRelease", None))

    end_trial: Callable[[], Awaitable[None]] | None = None

    async def promote(self, release: str, *, operator: str, ready: Slot[LoadedRelease] | None = None) -> SwitchAnswer:
        """Note the promotion."""
        del ready
        await self.operations.record("promote", operator, self.active_release, release, "done")
        return SwitchAnswer(
            action="promote", from_release=self.active_release, to_release=release, took_ms=0.0, notified=True
        )

    def retire(self, slot: Slot[LoadedRelease]) -> None:
        """Nothing to close."""


async def play(
    candidate: Candidate, *, calls: int, margin: float, seed: int, folder: Path
) -> tuple[Decision, str, int]:  # fmt: skip
    """One canary over `calls` calls: its decision, why, and after how many calls. GO_ON when it came to none."""
    rng, clock = np.random.default_rng(seed), ManualClock()
    switches = Switches(AuditLog(folder / "audit.jsonl"), clock)

    async def ended(_release: str) -> None:
        return None

    trials: Trials[LoadedRelease] = Trials(
        activator=switches, marker=folder / "trial", clock=clock, uniform=rng.random, ended=ended
    )
    recommender = cast("Recommender", SimulatedRecommender(candidate, clock, rng))
    desk = TrialDesk(recommender=recommender, trials=trials, clock=clock, registry=CollectorRegistry())
    plan = TrialPlan(release=f"{seed:020x}", share=0.2, duration_s=7 * 86_400.0, click_loss_max=margin)
    await trials.begin(TrialKind.CANARY, plan, operator="bench")
    inclination, reach = rng.beta(2.0, 6.0, SUBJECTS), np.cumsum(1.0 + rng.pareto(1.5, SUBJECTS))
    for number in range(calls):
        clock.advance(1.0 / CALLS_PER_S)
        if rng.random() < ANONYMOUS:
            await desk.home(HomeRequest(type=RecommendationType.POPULAR))
        else:
            subject = min(int(np.searchsorted(reach, rng.random() * reach[-1])), SUBJECTS - 1)
            answer = await desk.home(HomeRequest(type=RecommendationType.PERSONAL, subject=f"s{subject}"))
            kept = candidate.clicks if answer.arm == TRIAL_ARM else 1.0
            if rng.random() < inclination[subject] * kept:
                trials.note_events(f"s{subject}", (_click(number),))
        if number % int(CALLS_PER_S) == 0 or number == calls - 1:
            clock.advance(LOOK_S - 1.0)  # The windows of those who clicked nothing must run out.
            verdict = await trials.look()
            if verdict is not None and verdict.decision is not Decision.GO_ON:
                return verdict.decision, verdict.why, number + 1
    return Decision.GO_ON, "", calls


def _click(number: int) -> Event:
    return Event(event_id=f"event-{number:08}", type=EventType.CLICK, item="a", at_ms=0)


def run(request: BenchRequest) -> Measured:
    """Every bad candidate several times, harmless ones, and ones that lose as much as the margin allows."""
    harmless = int(request.number("trials", 40 if request.quick else 200))
    calls, seed = int(request.number("calls", 24_000)), int(request.number("seed", 0))
    margin = request.number("margin", 0.2)
    repeats, at_margin = (2, 10) if request.quick else (20, 60)
    with _quiet_disk(request.work) as folder:

        def ends(candidate: Candidate, count: int, first_seed: int, says: str) -> list[tuple[Decision, str, int]]:
            found = []
            for number in range(count):
                played = play(candidate, calls=calls, margin=margin, seed=first_seed + number, folder=folder)
                found.append(asyncio.run(played))
                request.progress.advance(number + 1, count, says)
            return found

        bad = {
            name: ends(CANDIDATES[name], repeats, seed + 10_000 * (index + 1), name) for index, name in enumerate(BAD)
        }
        good = ends(Candidate(), harmless, seed, "harmless candidates")
        losing = ends(Candidate(clicks=1.0 - margin), at_margin, seed + 90_000, "candidates at the margin")
    figures = {
        "bad_rolled_back_share": float(np.mean([_share(found, Decision.ROLL_BACK) for found in bad.values()])),
        "false_alarm_share": _share(good, Decision.ROLL_BACK),
        "harmless_promoted_share": _share(good, Decision.PROMOTE),
        "harmless_calls_p50": _calls(good, Decision.PROMOTE, calls),
        "at_margin_promoted_share": _share(losing, Decision.PROMOTE),
        **{f"{name.replace(' ', '_')}_calls_p50": _calls(found, Decision.ROLL_BACK, calls)
           for name, found in bad.items()},
    }  # fmt: skip
    return Measured(
        figures=figures,
        bars=(
            at_least("bad candidates that were rolled back", figures["bad_rolled_back_share"], 1.0, unit="share"),
            at_most("harmless candidates that were rolled back", figures["false_alarm_share"], 0.05, unit="share"),
        ),
        notes=(
            f"{repeats} canaries of each bad kind, {harmless} harmless ones and {at_margin} at the margin, {calls} "
            f"calls each at most in virtual time, a fifth of {SUBJECTS} subjects in the bucket; one subject in "
            f"{CHRONIC} always has slow, degraded lists, {ANONYMOUS:.0%} of the calls name no subject. A candidate is "
            f"promoted when it has shown not to lose more than {margin:.0%} of the clicks (default of a region: "
            f"{TrialPlan(release='').click_loss_max:.0%}); what came to no verdict is in neither share.",
        ),
    )


def _share(found: list[tuple[Decision, str, int]], decision: Decision) -> float:
    return sum(end is decision for end, _, _ in found) / len(found)


def _calls(found: list[tuple[Decision, str, int]], decision: Decision, calls: int) -> float:
    """After how many calls half of those that came to `decision` did; `calls` where none did."""
    return float(np.median([after for end, _, after in found if end is decision] or [calls]))


@contextlib.contextmanager
def _quiet_disk(work: Path) -> Iterator[Path]:
    """A folder in memory where there is one: thousands of audit entries need no platter here."""
    memory = Path("/dev/shm")  # noqa: S108 - a folder of our own is made in it
    folder = (memory if memory.is_dir() else work) / work.name
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield folder
    finally:
        for path in folder.iterdir():
            path.unlink()
        if folder != work:
            folder.rmdir()
