"""A region's silo: opens a round over resident features, trains, and keeps the result as the gateway keeps its own.

One event loop owns it. Training runs in one thread beside it. A round is written down before it begins and when it has
ended, in the gateway's own journal: a silo that is killed in between leaves a round that is void.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec

from federation.device.tower import DeviceRelease, DeviceReleaseError, load_device_release
from federation.device.training import LocalSettings
from federation.gateway.journal import Journal, RoundRecord
from federation.gateway.plans import require_sound
from federation.messages import ROUND_ID_PATTERN, Phase, RegionalSum, RoundPlan
from federation.privacy.noise import Entropy
from federation.settings import SiloSettings
from federation.silo.source import HistorySource
from federation.silo.summing import SiloSum, void
from infra.contracts.release import RELEASE_ID_PATTERN
from infra.contracts.resident import ResidentHistory
from infra.plumbing.clock import Clock
from infra.plumbing.errors import ConflictError, NotFoundError, UnavailableError

Count = Callable[[str, str], None]


class Silo:
    """One region's rounds over its resident features, one at a time.

    Args:
        region: its name.
        settings: its own bounds and policy; a plan that asks for less privacy is refused.
        source: where the histories come from.
        journal: shared with the gateway, so that a round id has one result in a region, whoever is asked.
        busy: whether phones are at a round now.
        clock: for what is written down.
        entropy: coins and noise.
        count: told of every round's outcome.
    """

    def __init__(
        self, *, region: str, settings: SiloSettings, source: HistorySource, journal: Journal,
        busy: Callable[[], bool], clock: Clock, entropy: Entropy, count: Count,
    ) -> None:  # fmt: skip
        self._region = region
        self._settings = settings
        self._source = source
        self._journal = journal
        self._busy = busy
        self._clock = clock
        self._entropy = entropy
        self._count = count
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="silo-training")
        self._task: asyncio.Task[None] | None = None
        self._open = ""

    @property
    def training(self) -> bool:
        """Whether a round goes on."""
        return bool(self._open)

    @property
    def sampling_probability(self) -> float:
        """With which every user is taken."""
        return self._settings.cohort.sampling_probability

    def look(self, plan: RoundPlan) -> RegionalSum | None:
        """How the round of this very plan stands; None when it may be opened.

        Raises:
            InvalidInputError: the plan is malformed.
            ForbiddenError: it asks for less noise than this region's policy.
            ConflictError: another round is open, this id was used with another plan, or the region has not the release.
        """
        require_sound(plan, self._settings.cohort)
        known = self._journal.read(plan.round_id)
        if known is not None:
            if known.plan_digest != plan.digest().hex():
                raise ConflictError("this round id was used with another plan.", fix="Draw a fresh round id.")
            return self.standing(plan.round_id)
        if self.training or self._busy():
            raise ConflictError("another round is open in this region.", fix="Wait until it has ended.")
        self._directory(plan.release)
        return None

    def start(self, plan: RoundPlan) -> RegionalSum:
        """Open a round; asked again with the same plan, say how it stands. Raises as `look`. From the event loop."""
        standing = self.look(plan)
        if standing is not None:
            return standing
        release = self._release(plan.release)
        record = RoundRecord(
            round_id=plan.round_id,
            region=self._region,
            opened_ms=self._clock.now_ms(),
            plan_digest=plan.digest().hex(),
        )
        self._journal.write(record)
        self._open = plan.round_id
        self._task = asyncio.create_task(self._run(plan, release, record))
        return self.standing(plan.round_id)

    def standing(self, round_id: str) -> RegionalSum:
        """How a round stands; once it has ended, its result, the same at every call.

        Raises:
            NotFoundError: this region knows no such round.
        """
        if round_id == self._open:
            return RegionalSum(round_id=round_id, region=self._region, phase=Phase.REPORTING)
        record = self._journal.read(round_id) if ROUND_ID_PATTERN.fullmatch(round_id) else None
        if record is None or record.result is None:
            raise NotFoundError("this region knows no such round.")
        return record.result

    async def ended(self, round_id: str, *, wait_s: float) -> RegionalSum:
        """How a round stands once it has ended, or after `wait_s`. Raises as `standing`."""
        if round_id == self._open and self._task is not None:
            await asyncio.wait([self._task], timeout=wait_s)
        return self.standing(round_id)

    async def close(self) -> None:
        """Break off; the round that was open is void at the next start."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._thread.shutdown(wait=True, cancel_futures=True)

    async def _run(self, plan: RoundPlan, release: DeviceRelease, record: RoundRecord) -> None:
        try:
            async with asyncio.timeout(self._settings.round_s_max):
                result = await self._sum(plan, release)
        except TimeoutError:
            result = void(plan, self._region, f"not all users were reached in {self._settings.round_s_max:.0f} s")
        except UnavailableError as error:
            result = void(plan, self._region, str(error))
        # Written down before anybody sees it: noise is never drawn twice for a sum that was given away.
        self._journal.write(msgspec.structs.replace(record, result=result))
        self._open = ""
        self._count("silo-round", result.phase)

    async def _sum(self, plan: RoundPlan, release: DeviceRelease) -> RegionalSum:
        local = LocalSettings(examples_max=self._settings.examples_max)
        whole = SiloSum(plan, release, policy=self._settings.cohort, local=local, entropy=self._entropy)
        loop = asyncio.get_running_loop()
        async for page in self._source.pages():
            if whole.asked + len(page) > self._settings.users_max:
                return void(plan, self._region, f"this region has more than {self._settings.users_max} users")
            for history in page:
                await loop.run_in_executor(self._thread, _add, whole, history)
        return await loop.run_in_executor(self._thread, whole.result, self._region)

    def _directory(self, name: str) -> Path:
        directory = Path(self._settings.releases_directory) / name
        if not RELEASE_ID_PATTERN.fullmatch(name) or not directory.is_dir():
            raise ConflictError("this region does not hold the release of the plan.", fix="Pull it first.")
        return directory

    def _release(self, name: str) -> DeviceRelease:
        try:
            return load_device_release(self._directory(name))
        except DeviceReleaseError as error:
            raise ConflictError(f"the release of the plan cannot be used here: {error}") from error


def _add(whole: SiloSum, history: ResidentHistory) -> None:
    whole.add(history)
