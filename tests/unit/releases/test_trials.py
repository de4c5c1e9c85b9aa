"""Shadows and canaries: who is in, what is counted, what follows, and that a caller always has a list."""

import asyncio
import errno
import math
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from infra.contracts.event_schema import ReadBatch
from infra.contracts.events import Event, EventAck, EventBatch, EventType
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
)  # fmt: skip
from infra.plumbing.clock import ManualClock
from infra.plumbing.errors import AtollError, InvalidInputError, UnavailableError
from infra.plumbing.tuf_client.client import ReleaseClient
from region.api.trying import CountedEvents, TrialDesk
from region.releases.activation import Activator
from region.releases.evidence import Evidence
from region.releases.trial import (
    GUARDED,
    PERIOD_S,
    Arm,
    Decision,
    Tally,
    TrialKind,
    TrialPlan,
    acts_at,
    in_bucket,
    judge,
    looked_at,
    new_standing,
    next_period,
    subjects_needed,
)
from region.releases.trials import Outcome, Trials
from tests.unit.releases.conftest import Central
from tests.unit.releases.test_activation import Loaded, World, releases, world

__all__ = ["releases", "world"]


class Recommender:
    """Gives the list of whatever release it is handed; `bad` says what the candidate does."""

    def __init__(self, activator: Activator[Loaded], clock: ManualClock) -> None:
        self.activator, self.clock = activator, clock
        self.bad = ""
        self.served: list[str] = []

    async def home(self, request: HomeRequest, *, lease: object = None, shown: bool = True) -> HomeAnswer:
        if request.n > 100:
            raise InvalidInputError("n is too large.")
        with (lease or self.activator.lease)() as loaded:  # type: ignore[operator]
            self.served.append(loaded.release)
            tried = lease is not None
            if tried and self.bad == "failing":
                raise AtollError("no.")
            if tried and self.bad == "hanging":
                await asyncio.Event().wait()
            self.clock.advance(0.3 if tried and self.bad == "slow" else 0.001)
            names = () if tried and self.bad == "empty" else ("a", "b")
        why = Reason(code=ReasonCode.POPULAR, text="")
        return HomeAnswer(
            items=tuple(SlateItem(item=name, score=1.0, source=Source.POPULAR, reason=why) for name in names),
            release=loaded.release, region="here", personal=True, generated_at_ms=0,
            lifetime=Lifetime(max_age_s=1, stale_while_revalidate_s=0, stale_if_error_s=0),
        )  # fmt: skip


class Intake:
    async def take_read(self, read: ReadBatch) -> EventAck:
        return EventAck(accepted=len(read.batch.events), duplicates=0)


class Scene:
    """One region node that tries the second of two releases."""

    def __init__(self, world: World, releases: list[str], folder: Path) -> None:
        self.world, (self.active, self.candidate, _) = world, releases
        self.clock = world.clock
        self.activator = world.activator()
        self.told: list[str] = []
        self.trials: Trials[Loaded] = Trials(
            activator=self.activator, marker=folder / "trial", clock=self.clock, uniform=lambda: 0.05, ended=self.ended
        )
        self.recommender = Recommender(self.activator, self.clock)
        self.desk = TrialDesk(
            recommender=self.recommender,  # type: ignore[arg-type]
            trials=self.trials, clock=self.clock, registry=CollectorRegistry(),  # type: ignore[arg-type]
        )  # fmt: skip
        self.events = CountedEvents(intake=Intake(), trials=self.trials)  # type: ignore[arg-type]

    async def ended(self, release: str) -> None:
        self.told.append(release)

    async def begin(self, kind: TrialKind = TrialKind.CANARY, **changes: object) -> None:
        await self.activator.promote(self.active, operator="ada")
        plan = TrialPlan(release=self.candidate, share=0.5, **changes)  # type: ignore[arg-type]
        await self.trials.begin(kind, plan, operator="ada")

    async def ask(self, number: int) -> HomeAnswer:
        return await self.desk.home(HomeRequest(type=RecommendationType.PERSONAL, subject=f"s{number}"))

    async def click(self, number: int) -> None:
        event = Event(event_id=f"event-{number:05}", type=EventType.CLICK, item="a", at_ms=0)
        batch = EventBatch(subject=f"s{number}", events=(event,))
        await self.events.take_read(ReadBatch(batch=batch))


@pytest.fixture
async def scene(world: World, releases: list[str], tmp_path: Path) -> AsyncIterator[Scene]:
    built = Scene(world, releases, tmp_path)
    yield built
    await built.desk.close()
    await built.activator.close()


def test_a_bucket_is_kept_and_is_as_large_as_its_share():
    subjects = [f"subject-{number}" for number in range(4000)]
    inside = [subject for subject in subjects if in_bucket(subject, "r1", 0.2)]
    assert inside == [subject for subject in subjects if in_bucket(subject, "r1", 0.2)]
    assert 0.17 < len(inside) / 4000 < 0.23
    assert set(inside) < {subject for subject in subjects if in_bucket(subject, "r1", 0.4)}
    assert set(inside) != {subject for subject in subjects if in_bucket(subject, "r2", 0.2)}


async def test_each_subject_is_answered_by_its_arm(scene: Scene) -> None:
    await scene.begin()
    for number in range(40):
        answer = await scene.ask(number)
        tried = in_bucket(f"s{number}", scene.candidate, 0.5)
        assert (answer.release, answer.arm) == ((scene.candidate, TRIAL_ARM) if tried else (scene.active, "control"))
    anonymous = await scene.desk.home(HomeRequest(type=RecommendationType.POPULAR))
    assert anonymous.release == scene.active
    tester = await scene.desk.home(HomeRequest(type=RecommendationType.POPULAR, arm=TRIAL_ARM))
    assert tester.release == scene.candidate
    report = scene.trials.report()
    assert report.answers + report.control_answers == 42


@pytest.mark.parametrize(("bad", "watched"), [("failing", "failed"), ("empty", "empty"), ("slow", "slow")])
async def test_a_bad_canary_costs_nobody_a_list_and_is_rolled_back(scene: Scene, bad: str, watched: str) -> None:
    await scene.begin()
    scene.recommender.bad = bad
    verdict = None
    for number in range(400):
        assert (await scene.ask(number)).items
        if number % 10 == 9:
            verdict = await scene.trials.look()
            if verdict is None or verdict.decision is not Decision.GO_ON:
                break
    assert verdict is not None
    assert verdict.decision is Decision.ROLL_BACK
    assert verdict.why.startswith(f"{watched}: 100.0%")
    assert scene.trials.running is None
    assert scene.activator.active_release == scene.active
    assert scene.told == [scene.active]
    assert (await scene.ask(1)).release == scene.active
    assert ("region", "canary roll-back", scene.candidate, "done") in scene.world.audited()
    await asyncio.gather(*scene.activator._retirement._closings)
    assert [loaded.closed for loaded in scene.world.loads if loaded.release == scene.candidate] == [True]


async def test_a_canary_that_hangs_costs_a_share_of_the_time(scene: Scene) -> None:
    await scene.begin()
    scene.recommender.bad = "hanging"
    tried = next(number for number in range(99) if in_bucket(f"s{number}", scene.candidate, 0.5))
    request = HomeRequest(type=RecommendationType.PERSONAL, subject=f"s{tried}", timeout_ms=50.0)
    answer = await scene.desk.home(request)
    assert answer.release == scene.active
    await scene.trials.look()
    assert scene.trials.report().rates["slow"] == (0.0, 1.0)


async def test_what_the_caller_did_wrong_is_not_the_canarys_fault(scene: Scene) -> None:
    await scene.begin()
    with pytest.raises(InvalidInputError):
        await scene.desk.home(HomeRequest(type=RecommendationType.PERSONAL, arm=TRIAL_ARM, n=101))
    assert scene.trials.report().answers == 0


async def test_ignored_lists_roll_a_canary_back(scene: Scene) -> None:
    await scene.begin(duration_s=1e6)
    verdict = None
    for number in range(1500):
        answer = await scene.ask(number)
        if answer.arm == "control" and number % 3 == 0:
            await scene.click(number)
        if number % 25 == 24:
            scene.clock.advance(700.0 if number % 100 == 99 else 1.0)
            verdict = await scene.trials.look()
            if verdict is None or verdict.decision is not Decision.GO_ON:
                break
    assert verdict is not None
    assert verdict.decision is Decision.ROLL_BACK
    assert verdict.why.startswith("ignored: ")


async def test_a_canary_that_keeps_its_clicks_is_promoted_without_being_loaded_again(scene: Scene) -> None:
    await scene.begin(click_loss_max=0.5, duration_s=1e6)
    for number in range(1200):
        await scene.ask(number)
        if number % 2 == 0:
            await scene.click(number)
        if number % 20 == 19:
            scene.clock.advance(700.0 if number % 100 == 99 else 1.0)
            verdict = await scene.trials.look()
            if verdict is not None and verdict.decision is not Decision.GO_ON:
                break
    assert verdict is not None
    assert verdict.decision is Decision.PROMOTE, verdict
    assert scene.activator.active_release == scene.candidate
    assert sum(loaded.release == scene.candidate for loaded in scene.world.loads) == 1
    assert (await scene.ask(3)).release == scene.candidate


async def test_a_canary_without_feedback_is_held_when_its_time_is_over(scene: Scene) -> None:
    await scene.begin(duration_s=60.0)
    await scene.ask(1)
    scene.clock.advance(61.0)
    verdict = await scene.trials.look()
    assert verdict is not None
    assert (verdict.decision, scene.activator.active_release) == (Decision.HOLD, scene.active)
    assert "nobody has taken anything yet" in scene.trials.report().why


async def test_a_shadow_answers_nobody_and_is_compared(scene: Scene) -> None:
    await scene.begin(TrialKind.SHADOW, duration_s=60.0)
    for number in range(6):
        assert (await scene.ask(number)).release == scene.active
        await asyncio.gather(*scene.desk._shadows)
    report = scene.trials.report()
    assert scene.recommender.served.count(scene.candidate) == 6
    assert (report.answers, report.overlap) == (6, 1.0)
    scene.clock.advance(61.0)
    verdict = await scene.trials.look()
    assert verdict is not None
    assert verdict.decision is Decision.HOLD


async def test_a_restart_ends_a_trial_and_says_so(scene: Scene, central: Central, client: ReleaseClient) -> None:
    await scene.begin()
    again: Trials[Loaded] = Trials(
        activator=scene.activator, marker=scene.trials._marker, clock=scene.clock, uniform=lambda: 0.5,
        ended=scene.ended,
    )  # fmt: skip
    await again.start()
    assert scene.world.entries()[-1].detail == "the node was started anew"
    await again.start()
    assert [entry.detail for entry in scene.world.entries()].count("the node was started anew") == 1


async def test_one_subject_who_asks_again_and_again_is_one_subject(scene: Scene) -> None:
    """Under any release the lists of some are slow. A bucket is kept, so whoever has such a one has it for good."""
    await scene.begin()
    inside = next(f"s{number}" for number in range(99) if in_bucket(f"s{number}", scene.candidate, 0.5))
    for number in range(40):
        await scene.ask(number)
    for _ in range(40):
        for _ in range(10):
            scene.trials.note(Arm.TRIAL, Outcome(took_ms=900.0, degraded=True), subject=inside)
        verdict = await scene.trials.look()
        assert verdict is not None
        assert verdict.decision is Decision.GO_ON
    report = scene.trials.report()
    assert (report.answers + report.control_answers, scene.trials.running is not None) == (440, True)


async def test_callers_whom_no_bucket_decides_over_do_not_count(scene: Scene) -> None:
    """They are answered by the active release, and sooner: beside them every canary would be slow."""
    await scene.begin()
    for _ in range(20):
        for number in range(20):
            arm = scene.trials.arm_of(f"s{number}")
            scene.trials.note(arm, Outcome(took_ms=200.0), subject=f"s{number}")
            await scene.desk.home(HomeRequest(type=RecommendationType.POPULAR))
            await scene.desk.home(HomeRequest(type=RecommendationType.PERSONAL, subject="s1", arm=TRIAL_ARM))
        verdict = await scene.trials.look()
        assert verdict is not None
        assert verdict.decision is Decision.GO_ON
    assert scene.trials.report().rates["slow"] == (1.0, 1.0)


async def test_what_goes_wrong_hours_later_is_seen_on_the_same_subjects(scene: Scene) -> None:
    await scene.begin(duration_s=1e6)
    for hour in range(4):
        scene.recommender.bad = "slow" if hour == 3 else ""
        verdict = None
        for number in range(120):
            await scene.ask(number)
            if number % 10 == 9:
                verdict = await scene.trials.look()
                if verdict is None or verdict.decision is not Decision.GO_ON:
                    break
        assert verdict is not None
        assert verdict.decision is (Decision.ROLL_BACK if hour == 3 else Decision.GO_ON)
        scene.clock.advance(PERIOD_S)
        await scene.trials.look()
    assert verdict is not None
    assert verdict.why.startswith("slow: 100.0%")


def test_all_hours_together_may_accuse_the_harmless_as_often_as_one_may():
    plan = TrialPlan(release="r", alpha=0.05)
    spent = 0.0
    for period in range(1, 200):
        # The mean of four e-values exceeds c with probability 1/c at most (Ville): c is what one of them needs, alone.
        standing = next_period(new_standing(), period)
        low, high = 0.0, 60.0
        while high - low > 1e-9:
            middle = (low + high) / 2
            seen = Evidence(log_e=middle)
            harmed = replace(standing, harm=standing.harm | dict.fromkeys(GUARDED, seen))
            accused = judge(plan, harmed, elapsed_s=1.0).decision is Decision.ROLL_BACK
            low, high = (low, middle) if accused else (middle, high)
        spent += math.exp(-high)
        if period == 1:
            alone = replace(standing, harm=standing.harm | {"slow": Evidence(log_e=high + math.log(4.0) + 0.01)})
            assert judge(plan, alone, elapsed_s=1.0).why.startswith("slow")
    assert 0.039 < spent <= 0.04
    ignored = replace(standing, harm=standing.harm | {"ignored": Evidence(log_e=math.log(100.0))})
    assert judge(plan, ignored, elapsed_s=1.0).decision is Decision.ROLL_BACK


async def test_what_passed_and_may_not_be_promoted_is_held_and_says_why(scene: Scene) -> None:
    await scene.begin()
    await scene.activator.set_pinned(pinned=True, operator="ada")
    trial = scene.trials.running
    assert trial is not None
    trial.standing = replace(trial.standing, kept=Evidence(log_e=10.0), answers=1000)
    await scene.trials.look()
    report = scene.trials.report()
    assert (report.decision, scene.activator.active_release) == ("hold", scene.active)
    assert f"It was not promoted: This region is pinned to release {scene.active}" in report.why
    assert scene.told == [scene.active]
    assert ("region", "promote", scene.candidate, "refused") in scene.world.audited()
    await scene.activator.set_pinned(pinned=False, operator="ada")
    await scene.activator.promote(scene.candidate, operator="ada")


async def test_a_trial_that_cannot_be_noted_keeps_no_other_out(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("region.releases.trials.write_atomically", full)
        with pytest.raises(UnavailableError, match="No space left"):
            await scene.begin()
    assert scene.trials.running is None
    await scene.activator.promote(scene.candidate, operator="ada")


def test_nothing_is_promoted_on_few_answers():
    plan = TrialPlan(release="r", answers_min=500)
    standing = new_standing()
    for _ in range(100):
        standing = looked_at(plan, standing, Tally(answers=4, shown=4, ignored=3), Tally(answers=4, shown=4))
    assert standing.kept.e_value > 20
    assert judge(plan, standing, elapsed_s=1.0).decision is Decision.GO_ON
    assert Arm.TRIAL.value == TRIAL_ARM


def play_clicks(plan: TrialPlan, kept: float, seed: int, subjects: int) -> tuple[Decision, int]:
    """What a canary comes to that keeps `kept` of the clicks of a quarter of all subjects, and after how many of its
    own: `subjects` at most, four of the control's to each."""
    rng, standing, took = np.random.default_rng(seed), new_standing(), 0.25
    for seen in range(10, subjects + 1, 10):
        control = Tally(shown=40, answers=40, ignored=int(rng.binomial(40, 1.0 - took)))
        trial = Tally(shown=10, answers=10, ignored=int(rng.binomial(10, 1.0 - took * kept)))
        standing = looked_at(plan, standing, control, trial)
        verdict = judge(plan, standing, elapsed_s=0.0)
        if verdict.decision is not Decision.GO_ON:
            return verdict.decision, seen
    return Decision.GO_ON, subjects


def test_a_harmless_release_is_promoted_in_a_bounded_number_of_subjects_and_one_at_the_margin_is_not() -> None:
    plan = TrialPlan(release="r", click_loss_max=0.2, answers_min=1)
    standing = looked_at(plan, new_standing(), Tally(shown=4000, ignored=3000), Tally(shown=1000, ignored=750))
    needed = subjects_needed(plan, standing.kept)
    assert needed is not None
    assert 400 < needed < 700
    ends = [play_clicks(plan, 1.0, seed, 3 * needed) for seed in range(40)]
    assert sum(decision is Decision.PROMOTE for decision, _ in ends) >= 36  # the others may be false alarms
    assert sorted(seen for _, seen in ends)[20] < 2 * needed
    lost = [play_clicks(plan, 0.8, seed, 3 * needed)[0] for seed in range(100)]
    assert sum(decision is Decision.PROMOTE for decision in lost) <= 0.05 * 100
    narrow = subjects_needed(TrialPlan(release="r", click_loss_max=0.1), standing.kept)
    assert narrow is not None
    assert narrow > 3 * needed


@pytest.mark.parametrize("watched", ["slow", "ignored"])
def test_the_report_names_the_e_value_at_which_a_canary_is_rolled_back(watched: str) -> None:
    plan = TrialPlan(release="0" * 20)
    before = standing = new_standing()
    good = Tally(answers=20, shown=20)
    bad = replace(good, **{watched: 20})
    while judge(plan, standing, elapsed_s=1.0).decision is Decision.GO_ON:
        before, standing = standing, looked_at(plan, standing, good, bad)
    needed = acts_at(plan, standing.period)[watched]
    shares = len(GUARDED) if watched in GUARDED else 1
    rest = shares - 1  # the other three have seen nothing: e-values of 1
    assert (before.harm[watched].e_value + rest) / shares < needed <= (standing.harm[watched].e_value + rest) / shares


def test_how_far_a_canary_is_stands_in_its_verdict() -> None:
    plan = TrialPlan(release="r", duration_s=60.0)
    fresh = judge(plan, new_standing(), elapsed_s=1.0)
    assert fresh.why.endswith("(e-value 1 of 20; nobody has taken anything yet).")
    standing = looked_at(plan, new_standing(), Tally(shown=400, ignored=300), Tally(shown=100, ignored=75))
    held = judge(plan, standing, elapsed_s=60.0)
    assert held.decision is Decision.HOLD
    assert f"about {subjects_needed(plan, standing.kept):,} do for a harmless release" in held.why
