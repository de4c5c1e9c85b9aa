"""Answers while a release is tried: which arm a caller belongs to, what becomes of its answer, what is counted.

A canary never costs a caller their list: when the release that is tried fails, has nothing, or is not done within its
share of the time, the active release answers instead, and that counts against the one that is tried.
"""

import asyncio
import logging

from msgspec.structs import replace
from prometheus_client import CollectorRegistry, Counter

from infra.contracts.event_schema import ReadBatch
from infra.contracts.events import EventAck
from infra.contracts.messages import TRIAL_ARM, AwayAnswer, AwayRequest, HomeAnswer, HomeRequest
from infra.plumbing.clock import Clock
from infra.plumbing.errors import InvalidInputError, OverloadedError
from region.api.ports import EventTaker
from region.funnel.recommender import DeadlinePassedError, Recommender
from region.funnel.release import LoadedRelease
from region.releases.trial import Arm
from region.releases.trials import Outcome, Trials

TRIAL_SHARE = 0.6
"""Of the caller's time: what is left is for the active release, should the tried one fail."""
TRIAL_MS_MAX = 1_000.0
SHADOWS_MAX = 2
"""Shadow calls under way at once; more are not made."""
COMPARED = 10
_log = logging.getLogger(__name__)


class TrialDesk:
    """Stands before the recommender and does nothing while no release is tried.

    Args:
        recommender: makes lists.
        trials: what is tried.
        clock: for durations.
        registry: where answers are counted by arm.
    """

    def __init__(
        self, *, recommender: Recommender, trials: Trials[LoadedRelease], clock: Clock, registry: CollectorRegistry
    ) -> None:
        self._recommender = recommender
        self._trials = trials
        self._clock = clock
        self._shadows: set[asyncio.Task[None]] = set()
        self._answers = Counter(
            "atoll_trial_answers", "Answers while a release is tried, by arm and outcome.", ("arm", "outcome"),
            registry=registry,
        )  # fmt: skip

    async def home(self, request: HomeRequest) -> HomeAnswer:
        """As `Recommender.home`, from the release whose bucket the subject is in."""
        if self._trials.running is None:
            return await self._recommender.home(request)
        tester = request.arm == TRIAL_ARM
        arm = Arm.TRIAL if tester else self._trials.arm_of(request.subject)
        # A tester chose the release: what becomes of its calls says nothing about those that a bucket chose.
        subject = None if tester else request.subject
        tried = await self._tried(request, subject) if arm is Arm.TRIAL else None
        return tried if tried is not None else await self._control(request, counted=arm is Arm.CONTROL)

    async def away(self, request: AwayRequest) -> AwayAnswer:
        """As `Recommender.away`: callers from elsewhere take part in no trial."""
        return await self._recommender.away(request)

    async def close(self) -> None:
        """End shadow calls."""
        for task in self._shadows:
            task.cancel()
        await asyncio.gather(*self._shadows, return_exceptions=True)

    async def _control(self, request: HomeRequest, *, counted: bool) -> HomeAnswer:
        started_s = self._clock.monotonic_s()
        try:
            answer = await self._recommender.home(request)
        except (DeadlinePassedError, InvalidInputError, OverloadedError):
            raise  # The caller's or the node's doing, not the release's.
        except Exception:
            if counted:
                failed = Outcome(took_ms=self._ms_since(started_s), failed=True, shown=False)
                self._note(Arm.CONTROL, failed, request.subject)
            raise
        if counted:
            self._note(Arm.CONTROL, self._outcome(answer, started_s), request.subject)
        if self._trials.wants_shadow() and len(self._shadows) < SHADOWS_MAX:
            self._start_shadow(request, answer)
        return answer

    async def _tried(self, request: HomeRequest, subject: str | None) -> HomeAnswer | None:
        """The canary's answer, or None when the active release must answer instead; it counts as one to `subject`."""
        started_s = self._clock.monotonic_s()
        within_ms = (
            min(TRIAL_MS_MAX, request.timeout_ms if request.timeout_ms is not None else TRIAL_MS_MAX) * TRIAL_SHARE
        )
        try:
            async with asyncio.timeout(within_ms / 1000):
                answer = await self._recommender.home(request, lease=self._trials.lease)
        except (DeadlinePassedError, InvalidInputError, OverloadedError):
            raise
        except TimeoutError:
            # Late, not broken: it counts as slow.
            self._note(Arm.TRIAL, Outcome(took_ms=float("inf"), shown=False), subject)
            return None
        except Exception as error:
            _log.warning("the release that is tried failed: %r", error)
            self._note(
                Arm.TRIAL, Outcome(took_ms=self._ms_since(started_s), failed=True, shown=False), subject
            )  # fmt: skip
            return None
        self._note(Arm.TRIAL, self._outcome(answer, started_s), subject)
        return replace(answer, arm=TRIAL_ARM) if answer.items else None

    def _start_shadow(self, request: HomeRequest, answer: HomeAnswer) -> None:
        task = asyncio.create_task(self._shadow(request, answer))
        self._shadows.add(task)
        task.add_done_callback(self._shadows.discard)

    async def _shadow(self, request: HomeRequest, answer: HomeAnswer) -> None:
        started_s = self._clock.monotonic_s()
        try:
            async with asyncio.timeout(TRIAL_MS_MAX / 1000):
                tried = await self._recommender.home(
                    replace(request, timeout_ms=None), lease=self._trials.lease, shown=False
                )
        except Exception as error:
            _log.warning("the shadow failed: %r", error)
            self._note(Arm.TRIAL, Outcome(took_ms=self._ms_since(started_s), failed=True), None)
            return
        self._note(Arm.TRIAL, self._outcome(tried, started_s), None)
        first = {item.item for item in answer.items[:COMPARED]}
        if first:
            self._trials.note_overlap(len(first & {item.item for item in tried.items[:COMPARED]}) / len(first))

    def _outcome(self, answer: HomeAnswer, started_s: float) -> Outcome:
        empty = not answer.items
        return Outcome(
            took_ms=self._ms_since(started_s), empty=empty, degraded=bool(answer.degraded), shown=not empty
        )  # fmt: skip

    def _note(self, arm: Arm, outcome: Outcome, subject: str | None) -> None:
        word = "failed" if outcome.failed else "empty" if outcome.empty else "answered"
        self._answers.labels(arm.value, word).inc()
        self._trials.note(arm, outcome, subject=subject)

    def _ms_since(self, started_s: float) -> float:
        return (self._clock.monotonic_s() - started_s) * 1000


class CountedEvents:
    """Passes batches on to intake, and tells the trial what was taken of its lists."""

    def __init__(self, *, intake: EventTaker, trials: Trials[LoadedRelease]) -> None:
        self._intake = intake
        self._trials = trials

    async def take_read(self, read: ReadBatch) -> EventAck:
        """As `EventTaker.take_read`."""
        ack, batch = await self._intake.take_read(read), read.batch
        if batch.subject is not None and ack.accepted:
            self._trials.note_events(batch.subject, batch.events)
        return ack
